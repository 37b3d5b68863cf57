//! The two ways in which demand is published besides the gRPC answer: levels on JetStream for the
//! `events` dataflow, and a watermark beside the counts in PostgreSQL for the `database` dataflow.
//! Two loops, because neither may wait for the other's server.

use std::time::Duration;

use feeds::{
    change_log::ChangeLog,
    snapshot_publisher::{SnapshotPublisher, SnapshotSource},
    trace_links::{PendingTraceLinks, Sink},
};
use marketplace::{time::MarketTime, view::Level};
use platform::{
    background::WorkLoop,
    nats::{self, PublishMessage},
    sampling,
};
use prost::Message;
use surge_proto::{
    convert::timestamp,
    subjects::{DEMAND, DEMAND_WATERMARK, RIDES, demand_of},
    v1,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field::Empty, info_span};

use crate::{app::App, error::Error};

/// Publishes the demand of every zone.
pub type DemandFeed = SnapshotPublisher<App>;

impl SnapshotSource for App {
    const FEED: &'static str = "surge.v1.demand";

    const STREAMS: &'static [(&'static str, &'static str)] =
        &[(DEMAND.name, DEMAND.subjects), (RIDES.name, RIDES.subjects)];

    type AsOf = MarketTime;

    fn now(&self) -> MarketTime {
        self.now()
    }

    fn snapshot(&self) -> (MarketTime, Vec<f64>) {
        let as_of = self.known_as_of();
        let levels = self.all_demands(as_of);
        (as_of, levels.iter().map(|level| level.value).collect())
    }

    fn level_message(
        &self,
        index: usize,
        value: f64,
        as_of: MarketTime,
    ) -> (String, PublishMessage) {
        let zone = self.zones()[index];
        let level = v1::DemandLevel::new(zone, Level { value, as_of });
        let message = nats::message("surge.v1.DemandLevel", level.encode_to_vec());
        (demand_of(zone), message)
    }

    fn trace_links(&self) -> &PendingTraceLinks {
        App::origins(self)
    }

    fn watermark_message(&self, as_of: MarketTime) -> (String, PublishMessage) {
        let as_of = Some(timestamp(as_of));
        let watermark = v1::Watermark { as_of }.encode_to_vec();
        let message = nats::message("surge.v1.Watermark", watermark);
        (DEMAND_WATERMARK.to_owned(), message)
    }
}

/// Keeps the watermark in the database moving, so that its readers can tell a quiet city from a
/// dead service, and this replica's count in step with the others.
#[derive(Debug)]
pub struct WatermarkKeeper {
    app: App,
    journal: ChangeLog,
    every: Duration,
}

impl WatermarkKeeper {
    /// A keeper that moves the watermark `every` so often in real time, and has counted up to this
    /// place in the journal.
    pub const fn new(app: App, journal: ChangeLog, every: Duration) -> Self {
        Self {
            app,
            journal,
            every,
        }
    }

    /// Moves the watermark to now.
    ///
    /// # Errors
    /// The database is away.
    pub async fn step(&mut self) -> Result<(), Error> {
        let span = sampling::background_span(|| {
            info_span!("publish ride.demand_watermark", surge.origins = Empty)
        });
        self.app.origins().take_links(Sink::Rows, &span);
        let marking = self.app.mark_demand(&mut self.journal);
        marking.instrument(span).await?;
        // Not part of the trace: it does nothing for the watermark.
        self.app.clean_journal(&mut self.journal).await
    }

    /// Goes on until `shutdown`, and says that this was the last.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new("the watermark in PostgreSQL", &shutdown);
        while work.next_step(self.every).await {
            work.run(self.step()).await;
        }
        work.record(&self.app.leave().await);
    }
}
