//! The journey of a quote: which levels of supply and demand it was made of, and how each came here.
//!
//! While a quote is made, only what cannot be had later is taken down: moments, numbers of messages, the number of a batch run
//! ([`record`]). It is kept in a ring of the last few thousand quotes ([`ring`]). When somebody asks for one of them, the rest is
//! added: words, ages, names, and from PostgreSQL what the batch run has left of itself ([`telling`]).

mod record;
mod ring;
mod story;
mod telling;

use std::time::Duration;

use platform::postgres;
use uuid::Uuid;

pub(crate) use record::Record;
pub use story::{
    CostliestHop, Fare, FeedName, FeedStory, Formula, Journey, LevelStory, MessageStory, Stage,
    Stop, TraceLink, ZoneStory,
};
pub(crate) use telling::{Market, RunFound};

use crate::{
    config::Config,
    dataflow::passage::Passage,
    error::Error,
    journey::ring::Ring,
    store::{BatchRun, Store},
};

/// Keeps the journeys of the last quotes and tells them.
#[derive(Debug)]
pub(crate) struct Journeys {
    ring: Ring,
    store: Store,
    deadline: Duration,
    traces_url: Option<String>,
}

impl Journeys {
    /// Keeps none yet.
    pub(crate) fn new(config: &Config, store: Store) -> Self {
        Self {
            ring: Ring::of(config.journeys_kept),
            store,
            deadline: config.dataflow_deadline,
            traces_url: config.traces_url.clone(),
        }
    }

    /// Takes down a quote that was made.
    pub(crate) fn keep(&self, record: Record) {
        self.ring.keep(record);
    }

    /// Tells the journey of a quote.
    ///
    /// # Errors
    /// [`Error::UnknownJourney`] when it is not among those that are kept.
    pub(crate) async fn tell(&self, quote_id: Uuid, market: Market<'_>) -> Result<Journey, Error> {
        let record = self.ring.find(quote_id).ok_or(Error::UnknownJourney {
            quote_id,
            kept: self.ring.capacity(),
        })?;
        let run = match &record.told.passage {
            Passage::Database(read) => self.find_run(read.run).await,
            Passage::Request(_) | Passage::Events(_) => RunFound::NotNeeded,
        };
        Ok(telling::tell(
            &record,
            run,
            market,
            self.traces_url.as_deref(),
        ))
    }

    /// A journey without its batch run is still worth telling, and says what it lacks.
    async fn find_run(&self, run: Option<i64>) -> RunFound {
        let Some(run) = run else {
            return RunFound::Unnumbered;
        };
        let found = postgres::within(self.deadline, self.store.batch_run(run)).await;
        let found: Result<Option<BatchRun>, sqlx::Error> = found;
        match found {
            Ok(Some(found)) => RunFound::Found(run, found),
            Ok(None) => RunFound::Forgotten(run),
            Err(_away) => RunFound::Away(run),
        }
    }
}
