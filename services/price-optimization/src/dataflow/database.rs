//! Dataflow through a shared database: the quote reads rows that the batch job wrote earlier.
//!
//! # How this works
//! ```text
//! driver.supply_by_zone ─┐                                        quote
//!                        ├─► batch job ──► pricing.zone_market ──► one SELECT of 7 rows
//! ride.demand_by_window ─┘   every period
//! ```
//! Simple and reliable. The read takes less than a millisecond; the data is as old as the last
//! batch run, and unavailable together with PostgreSQL. [`batch`](crate::batch) is the other half.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::FutureExt;
use marketplace::{
    view::{Level, MarketView, ZoneLevels},
    zone::Zone,
};
use platform::{
    clock::RealTime,
    postgres::{self, Outage},
    propagation,
};
use sqlx::{FromRow, PgPool, Row, postgres::PgRow};
use tracing::Span;

use crate::{
    dataflow::{
        Dataflow, HealthCheck,
        provenance::{DatabaseProvenance, MarketObservation, Provenance},
    },
    error::DataflowError,
};

/// Reads `pricing.zone_market`.
#[derive(Debug)]
pub struct DatabaseDataflow {
    pool: PgPool,
    /// Longest wait for a connection: shorter than the quote's deadline, so that a quote without a
    /// connection fails as unavailable (503) and not as slow (504).
    acquire_deadline: Duration,
}

/// The levels of a zone, and the batch run that wrote them.
struct ZoneMarketRow {
    levels: ZoneLevels,
    traceparent: Option<String>,
    run: Option<i64>,
}

impl DatabaseDataflow {
    /// Reads through `pool`. A quote waits for a connection half as long as `deadline`.
    pub fn new(pool: PgPool, deadline: Duration) -> Self {
        Self {
            pool,
            acquire_deadline: deadline / 2,
        }
    }

    /// The rows of `zones`: one indexed read.
    async fn read(&self, zones: &[Zone]) -> Result<Vec<ZoneMarketRow>, sqlx::Error> {
        let names: Vec<String> = zones.iter().map(Zone::to_string).collect();
        let acquire = postgres::within(self.acquire_deadline, self.pool.acquire());
        let acquired: Result<_, sqlx::Error> = acquire.await;
        let mut connection = acquired?;
        sqlx::query_as(
            "SELECT zone, supply, supply_as_of, demand, demand_as_of, traceparent, run
             FROM zone_market WHERE zone = ANY($1)",
        )
        .bind(names)
        .fetch_all(&mut *connection)
        .await
    }
}

#[async_trait]
impl Dataflow for DatabaseDataflow {
    async fn market_view(&self, zones: &[Zone]) -> Result<MarketObservation, DataflowError> {
        let asked_at = RealTime::now();
        let read = postgres::once_more(|| self.read(zones));
        let rows = postgres::observed("SELECT zone_market", read).await;
        let mut rows = rows.map_err(|error| match Outage::of(&error) {
            Some(_) => DataflowError::Away("PostgreSQL"),
            None => DataflowError::Nonsense("PostgreSQL"),
        })?;
        let read_at = RealTime::now();
        // One batch run writes all rows together, so any row says which run it was.
        let first = rows.first_mut();
        let (run, traceparent) =
            first.map_or((None, None), |row| (row.run, row.traceparent.take()));
        if let Some(traceparent) = &traceparent {
            propagation::link(&Span::current(), traceparent);
        }
        let levels = rows.into_iter().map(|row| (row.levels.zone, row.levels));
        let levels: HashMap<Zone, ZoneLevels> = levels.collect();
        let levels_of = |zone: &Zone| levels.get(zone).copied();
        let zones = zones
            .iter()
            .map(|zone| levels_of(zone).unwrap_or(ZoneLevels::unknown(*zone)));
        Ok(MarketObservation {
            view: Arc::new(MarketView {
                zones: zones.collect(),
            }),
            provenance: Provenance::Database(DatabaseProvenance {
                asked_at,
                read_at,
                run,
                traceparent,
            }),
        })
    }

    fn health_checks(&self) -> Vec<HealthCheck> {
        let pool = self.pool.clone();
        let check = move || postgres::probe(pool.clone()).boxed();
        vec![("postgres", Box::new(check))]
    }
}

/// Columns by position: every quote reads seven rows, and sqlx would look up each column by its
/// name.
impl FromRow<'_, PgRow> for ZoneMarketRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let zone: &str = row.try_get(0)?;
        let level = |value, as_of| {
            let as_of: Option<DateTime<Utc>> = row.try_get(as_of)?;
            let (value, as_of): (Option<f64>, _) = (row.try_get(value)?, as_of.map(Into::into));
            let level = value
                .zip(as_of)
                .map(|(value, as_of)| Level { value, as_of });
            Ok::<_, sqlx::Error>(level)
        };
        Ok(Self {
            levels: ZoneLevels {
                zone: zone.parse().map_err(sqlx::Error::decode)?,
                supply: level(1, 2)?,
                demand: level(3, 4)?,
            },
            traceparent: row.try_get(5)?,
            run: row.try_get(6)?,
        })
    }
}
