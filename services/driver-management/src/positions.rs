//! The way of positions from memory to the table: one batch a tick, with the watermark that says
//! how far it reaches. A crash loses the last tick at most; a database that is away loses nothing,
//! because each driver has one newest position and that waits in the fleet.

use std::{sync::Arc, time::Duration};

use feeds::trace_links::{PendingTraceLinks, Sink};
use platform::{background::WorkLoop, sampling};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field::Empty, info_span};
use uuid::Uuid;

use crate::{error::Error, fleet::Fleet, store::Store};

/// How often positions are written, in real time.
const EVERY: Duration = Duration::from_millis(250);

/// Writes positions, and reads doubtful drivers again.
#[derive(Debug)]
pub struct PositionWriter {
    fleet: Arc<Fleet>,
    store: Store,
    origins: Arc<PendingTraceLinks>,
}

impl PositionWriter {
    /// A writer from the fleet to the table, which is written because of `origins`.
    pub const fn new(fleet: Arc<Fleet>, store: Store, origins: Arc<PendingTraceLinks>) -> Self {
        Self {
            fleet,
            store,
            origins,
        }
    }

    /// Writes what has moved since the last step; returns how many drivers that were.
    ///
    /// # Errors
    /// Those of the database. Nothing is lost then: the next step writes it.
    pub async fn step(&self) -> Result<usize, Error> {
        self.read_doubtful().await?;
        let (as_of, moves) = self.fleet.take_moves();
        let span =
            sampling::background_span(|| info_span!("write positions", surge.origins = Empty));
        self.origins.take_links(Sink::Rows, &span);
        let write = self.store.write_moves(as_of, &moves).instrument(span);
        let written = write.await;
        if written.is_err() {
            self.fleet.put_back(&moves);
        }
        written.map(|()| moves.len())
    }

    /// Steps until `shutdown`, once more after it, and says that this was the last.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new("the writing of positions", &shutdown);
        while work.next_step(EVERY).await {
            work.record(&self.step().await);
        }
        work.record(&self.step().await);
        work.record(&self.store.leave().await);
    }

    async fn read_doubtful(&self) -> Result<(), Error> {
        let doubtful = self.fleet.doubtful();
        if doubtful.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = doubtful.keys().copied().collect();
        for driver in self.store.drivers(&ids).await? {
            self.fleet.learn(&driver);
        }
        self.fleet.trust_again(&doubtful);
        Ok(())
    }
}
