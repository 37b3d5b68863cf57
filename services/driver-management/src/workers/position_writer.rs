//! Writes the positions that the fleet holds in memory to the table: one batch a tick, and with it
//! how far the table is complete. A crash loses at most the last tick. An outage of PostgreSQL
//! loses nothing, because only the newest position of a driver counts, and that waits in the fleet.

use std::{sync::Arc, time::Duration};

use feeds::trace_links::{PendingTraceLinks, Sink};
use platform::{background::WorkLoop, sampling};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field::Empty, info_span};
use uuid::Uuid;

use crate::{error::Error, fleet::Fleet, store::Store};

/// How often positions are written, in real time.
const EVERY: Duration = Duration::from_millis(250);

/// Writes positions, and reads drivers in doubt again.
#[derive(Debug)]
pub struct PositionWriter {
    fleet: Arc<Fleet>,
    store: Store,
    trace_links: Arc<PendingTraceLinks>,
}

impl PositionWriter {
    /// A writer from the fleet to the table; `trace_links` are the requests that it writes for.
    pub const fn new(fleet: Arc<Fleet>, store: Store, trace_links: Arc<PendingTraceLinks>) -> Self {
        Self {
            fleet,
            store,
            trace_links,
        }
    }

    /// Writes the positions reported since the last step; returns their number.
    ///
    /// # Errors
    /// Those of the database. No position is lost: the next step writes it.
    pub async fn step(&self) -> Result<usize, Error> {
        self.read_drivers_in_doubt().await?;
        let (as_of, positions) = self.fleet.take_positions();
        let span =
            sampling::background_span(|| info_span!("write positions", surge.origins = Empty));
        self.trace_links.take_links(Sink::Rows, &span);
        let write = self.store.write_positions(as_of, &positions);
        let written = write.instrument(span).await;
        if written.is_err() {
            self.fleet.put_back(&positions);
        }
        written.map(|()| positions.len())
    }

    /// Steps until `shutdown` and once more after it, then reports that this replica writes no
    /// more.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new("the writing of positions", &shutdown);
        while work.next_step(EVERY).await {
            work.record(&self.step().await);
        }
        work.record(&self.step().await);
        work.record(&self.store.leave().await);
    }

    async fn read_drivers_in_doubt(&self) -> Result<(), Error> {
        let in_doubt = self.fleet.in_doubt();
        if in_doubt.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = in_doubt.keys().copied().collect();
        for driver in self.store.drivers(&ids).await? {
            self.fleet.update(&driver);
        }
        self.fleet.resolve(&in_doubt);
        Ok(())
    }
}
