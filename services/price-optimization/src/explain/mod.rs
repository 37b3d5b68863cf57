//! Explains a quote: which levels of supply and demand it was made of, and by which way each
//! reached the price.
//!
//! # How this works
//! ```text
//! quote ──► recent.rs: QuoteRecord      GET /v1/quotes/{id}/journey
//!           (times and numbers)              │
//!                └───────────────────────────┴──► explanation.rs ──► journey.rs: the answer
//!                                                 stops.rs: the stops of each dataflow
//!                                                 notes.rs: what is missing or unusual
//! ```
//! While a quote is made, only what nobody could look up later is recorded. When somebody asks for
//! the quote, the rest is added: words, ages, names, and from PostgreSQL what the batch run
//! recorded of itself.

mod explanation;
mod feed;
mod journey;
mod notes;
pub mod recent;
mod stops;

use std::{sync::Arc, time::Duration};

use marketplace::quote::PricingPolicy;
use platform::{clock::MarketClock, postgres};
use uuid::Uuid;

pub use journey::{
    CostliestHop, Fare, FeedName, FeedPath, Formula, Journey, LevelDetail, MessageDetail, Stage,
    Stop, TraceLink, ZoneDetail,
};

use crate::{
    config::Config,
    dataflow::provenance::Provenance,
    error::Error,
    explain::recent::{QuoteRecord, RecentQuotes},
    store::{KnownRun, Store},
};

/// Explains the recent quotes.
#[derive(Debug)]
pub struct Explainer {
    recent: Arc<RecentQuotes>,
    store: Store,
    clock: MarketClock,
    policy: PricingPolicy,
    deadline: Duration,
    traces_url: Option<String>,
}

impl Explainer {
    /// Explains the quotes of `recent`; `store` knows the batch runs.
    pub fn new(
        config: &Config,
        recent: Arc<RecentQuotes>,
        store: Store,
        clock: MarketClock,
    ) -> Self {
        Self {
            recent,
            store,
            clock,
            policy: config.pricing(),
            deadline: config.dataflow_deadline,
            traces_url: config.traces_url.clone(),
        }
    }

    /// Explains how supply and demand reached a quote.
    ///
    /// # Errors
    /// [`Error::UnknownJourney`] when the quote is not among those that are kept.
    pub async fn explain(&self, quote_id: Uuid) -> Result<Journey, Error> {
        let record = self.recent.find(quote_id).ok_or(Error::UnknownJourney {
            quote_id,
            kept: self.recent.capacity(),
        })?;
        let run = match &record.market.provenance {
            Provenance::Database(read) => self.find_run(read.run).await,
            _ => RunRecord::NotNeeded,
        };
        let explanation = Explanation {
            record: &record,
            run,
            clock: &self.clock,
            policy: &self.policy,
            traces_url: self.traces_url.as_deref(),
        };
        Ok(explanation.journey())
    }

    /// An explanation without its batch run is still useful; a note says what it lacks.
    async fn find_run(&self, run: Option<i64>) -> RunRecord {
        let Some(run) = run else {
            return RunRecord::Unnumbered;
        };
        let found = postgres::within(self.deadline, self.store.batch_run(run)).await;
        let found: Result<_, sqlx::Error> = found;
        match found {
            Ok(Some(found)) => RunRecord::Found(run, found),
            Ok(None) => RunRecord::Deleted(run),
            Err(_) => RunRecord::Unavailable(run),
        }
    }
}

/// A recorded quote, with what its explanation needs beside it.
struct Explanation<'a> {
    record: &'a QuoteRecord,
    run: RunRecord,
    clock: &'a MarketClock,
    policy: &'a PricingPolicy,
    traces_url: Option<&'a str>,
}

/// What is known of the batch run that wrote the rows of a quote.
#[derive(Debug)]
enum RunRecord {
    /// The quote was not made of rows.
    NotNeeded,
    /// Its number, and what is recorded.
    Found(i64, KnownRun),
    /// The rows do not say which run wrote them.
    Unnumbered,
    /// Too many runs came after it.
    Deleted(i64),
    /// PostgreSQL does not answer.
    Unavailable(i64),
}
