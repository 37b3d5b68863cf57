//! The seam: one question, three dataflows that answer it, and the only `match` that chooses one.
//!
//! # How this works
//! A quote asks *what are supply and demand around this zone, and as of when?* The mode says who
//! answers:
//!
//! ```text
//!                      ┌─ database.rs   one SELECT of the rows that the batch job wrote
//! pricing ─► Dataflows ┼─ request.rs    two gRPC calls, to driver-management and ride-management
//!            (match)   └─ events/       local state, which a subscriber keeps up to date
//! ```
//! A mode decides how old the answer is and how it can fail; the price is computed from it in the
//! same way for all modes. All three dataflows are connected at once, so a switch is instant and a
//! single quote may name its mode. No dataflow needs what another one needs.
//!
//! A fourth dataflow is a file beside these and a line in [`Dataflows::of`]:
//! `docs/adding-a-mode.md`.

pub mod batching;
pub mod database;
pub mod events;
pub mod provenance;
pub mod request;

use std::{
    fmt,
    sync::{Arc, Once},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use marketplace::{time::MarketTime, zone::Zone};
use platform::clock::MarketClock;
use surge_proto::DataflowMode;
use tokio::time::timeout;
use tracing::{Instrument, info_span, warn};

use crate::{
    config::{Config, SharedReadWindow},
    dataflow::{
        batching::SharedReads, database::DatabaseDataflow, events::EventsDataflow,
        provenance::MarketObservation, request::RequestDataflow,
    },
    error::{DataflowError, Error},
};

/// A way in which supply and demand reach the price.
#[async_trait]
pub trait Dataflow: fmt::Debug + Send + Sync {
    /// Observes supply and demand of `zones`, in their order, each with the market time that it
    /// describes. A level that nobody has reported yet is missing from the view, which is not an
    /// error.
    async fn market_view(&self, zones: &[Zone]) -> Result<MarketObservation, DataflowError>;

    /// What this dataflow needs in order to answer, each with a check whether it is usable now.
    /// `/readyz` shows them all, and a replica is ready while those of the mode in force succeed.
    fn health_checks(&self) -> Vec<HealthCheck>;
}

/// One dependency of a dataflow: its name in `/readyz`, and a check that succeeds while the
/// dependency is usable and otherwise says why it is not.
pub type HealthCheck = (&'static str, Check);

/// An asynchronous check that can be repeated.
pub type Check = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// All three dataflows, connected.
#[derive(Clone, Debug)]
pub struct Dataflows {
    database: Arc<dyn Dataflow>,
    request: Arc<dyn Dataflow>,
    events: Arc<dyn Dataflow>,
    deadline: Duration,
    clock: MarketClock,
    /// Logged once; every quote with levels from the future is marked and counted as degraded.
    warned_of_clock_skew: Arc<Once>,
}

impl Dataflows {
    /// Takes the dataflows; those that read something outside this process share their reads where
    /// `SHARED_READS` asks for it.
    pub fn new(
        database: DatabaseDataflow,
        request: RequestDataflow,
        events: EventsDataflow,
        config: &Config,
        clock: MarketClock,
    ) -> Self {
        Self {
            database: reading(database, config),
            request: reading(request, config),
            events: Arc::new(events),
            deadline: config.dataflow_deadline,
            clock,
            warned_of_clock_skew: Arc::new(Once::new()),
        }
    }

    /// The dataflow of `mode`. No other code knows which mode means which dataflow.
    pub fn of(&self, mode: DataflowMode) -> &dyn Dataflow {
        match mode {
            DataflowMode::Database => &*self.database,
            DataflowMode::Request => &*self.request,
            DataflowMode::Events => &*self.events,
        }
    }

    /// Asks the dataflow of `mode`, for no longer than the deadline.
    ///
    /// # Errors
    /// [`Error::Dataflow`] when the dataflow fails or does not answer in time.
    pub async fn market_view(
        &self,
        mode: DataflowMode,
        zones: &[Zone],
    ) -> Result<MarketObservation, Error> {
        let span =
            info_span!("dataflow", otel.name = format!("dataflow {mode}"), surge.dataflow = %mode);
        let answer = timeout(self.deadline, self.of(mode).market_view(zones));
        let answer = answer.instrument(span).await;
        let answer = answer.unwrap_or(Err(DataflowError::Deadline(self.deadline)));
        let market = answer.map_err(|cause| Error::Dataflow { mode, cause })?;
        let now = MarketTime::from_millis(self.clock.now_millis());
        if market.view.is_ahead_of(now) {
            self.warned_of_clock_skew.call_once(|| {
                warn!(
                    surge.dataflow = %mode,
                    "dataflow {mode} has levels from the future: do market clocks differ?"
                );
            });
        }
        Ok(market)
    }
}

fn reading(dataflow: impl Dataflow + 'static, config: &Config) -> Arc<dyn Dataflow> {
    let dataflow = Arc::new(dataflow);
    match config.shared_reads {
        SharedReadWindow::Off => dataflow,
        SharedReadWindow::Of(window) => {
            Arc::new(SharedReads::new(dataflow, window, config.dataflow_deadline))
        }
    }
}
