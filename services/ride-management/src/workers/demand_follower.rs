//! Keeps this replica's count of demand in step with the table, and reports how far the table is
//! complete. The report moves on while nobody requests a ride, so that readers of the published
//! views can tell a quiet city from a dead service.

use std::{sync::Arc, time::Duration};

use feeds::{
    change_log::{ChangeLog, Changes},
    trace_links::{PendingTraceLinks, Sink},
};
use marketplace::time::MarketTime;
use platform::{background::WorkLoop, clock::MarketClock, sampling};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field::Empty, info_span};

use crate::{demand::DemandTracker, error::Error, store::Store};

/// Reads the requests that other replicas accepted.
#[derive(Debug)]
pub struct DemandFollower {
    demand: Arc<DemandTracker>,
    store: Store,
    clock: MarketClock,
    trace_links: Arc<PendingTraceLinks>,
    change_log: ChangeLog,
}

impl DemandFollower {
    /// A follower whose first step counts all requests; `trace_links` are the requests that it
    /// reports.
    pub fn new(
        demand: Arc<DemandTracker>,
        store: Store,
        clock: MarketClock,
        trace_links: Arc<PendingTraceLinks>,
    ) -> Self {
        let change_log = store.change_log();
        Self {
            demand,
            store,
            clock,
            trace_links,
            change_log,
        }
    }

    /// Counts what other replicas accepted since the last step, or everything where the count is in
    /// doubt, then reports how far this replica's requests are complete.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn step(&mut self) -> Result<(), Error> {
        let span = sampling::background_span(|| {
            info_span!("publish ride.demand_watermark", surge.origins = Empty)
        });
        self.trace_links.take_links(Sink::Rows, &span);
        self.follow_and_report().instrument(span).await?;
        // Not part of the trace: the report does not need it.
        Ok(self.change_log.prune().await?)
    }

    async fn follow_and_report(&mut self) -> Result<(), Error> {
        if self.demand.take_new_doubt() {
            self.change_log.mark_in_doubt();
        }
        let changes = match self.change_log.needs_full_read() || self.change_log.is_in_doubt() {
            true => self.recount().await?,
            false => self.count_of_others().await?,
        };
        let peers_as_of = changes.peers_as_of.map(Into::into);
        self.demand.set_peers_as_of(peers_as_of);
        self.change_log.commit_offset(changes);
        let now = MarketTime::from_millis(self.clock.now_millis());
        self.store.report_as_of(now).await
    }

    async fn recount(&mut self) -> Result<Changes, Error> {
        let _no_request_commits = self.demand.recount_guard().await;
        let (counts, changes) = self.store.window_counts(&mut self.change_log).await?;
        self.demand.replace_counts(&counts);
        Ok(changes)
    }

    async fn count_of_others(&mut self) -> Result<Changes, Error> {
        let changes = self.change_log.read().await?;
        let unseen = self.change_log.unseen(&changes);
        for (zone, at) in self.store.requests(&unseen).await? {
            self.demand.record(zone, at);
        }
        Ok(changes)
    }

    /// Steps each `period`, in real time, until `shutdown`, then reports that this replica writes
    /// no more.
    pub async fn run(mut self, period: Duration, shutdown: CancellationToken) {
        let mut work = WorkLoop::new("the watermark in PostgreSQL", &shutdown);
        while work.next_step(period).await {
            work.run(self.step()).await;
        }
        work.record(&self.store.leave().await);
    }
}
