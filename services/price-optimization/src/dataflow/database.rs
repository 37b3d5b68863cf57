//! Dataflow through a shared database: the quote reads the rows that the batch job left. Simple and reliable; the data
//! is as old as the last run of the batch, and gone with PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use marketplace::{
    view::{MarketView, ZoneLevels},
    zone::Zone,
};
use platform::{clock::RealTime, propagation};
use tracing::Span;

use crate::{
    dataflow::{
        Dataflow,
        passage::{Passage, RowRead, Told},
    },
    error::DataflowError,
    store::Store,
};

/// Reads `pricing.zone_market`.
#[derive(Debug)]
pub struct DatabaseDataflow {
    store: Store,
}

impl DatabaseDataflow {
    /// Reads from `store`.
    pub const fn new(store: Store) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Dataflow for DatabaseDataflow {
    async fn market_view(&self, zones: &[Zone]) -> Result<Told, DataflowError> {
        let asked_at = RealTime::now();
        let market = self.store.zone_market(zones).await;
        let market = market.map_err(|cause| DataflowError::away("PostgreSQL", cause))?;
        if let Some(traceparent) = &market.traceparent {
            propagation::link(&Span::current(), traceparent);
        }
        let levels_of = |zone: &Zone| {
            market
                .levels
                .get(zone)
                .copied()
                .unwrap_or(ZoneLevels::unknown(*zone))
        };
        let view = MarketView {
            zones: zones.iter().map(levels_of).collect(),
        };
        let read = RowRead {
            asked_at,
            read_at: RealTime::now(),
            run: market.run,
            traceparent: market.traceparent,
        };
        Ok(Told {
            view: Arc::new(view),
            passage: Passage::Database(read),
        })
    }
}
