//! Publishes the demand of every zone on JetStream, for the dataflow `events`.

use feeds::{
    snapshot_publisher::{SnapshotPublisher, SnapshotSource},
    trace_links::PendingTraceLinks,
};
use marketplace::{time::MarketTime, view::Level};
use platform::nats::PublishMessage;
use surge_proto::subjects::{DEMAND, RIDES};

use crate::{app::App, events};

/// The publisher of demand.
pub type DemandPublisher = SnapshotPublisher<App>;

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
        events::demand_level(self.zones()[index], Level { value, as_of })
    }

    fn watermark_message(&self, as_of: MarketTime) -> (String, PublishMessage) {
        events::demand_watermark(as_of)
    }

    fn trace_links(&self) -> &PendingTraceLinks {
        self.trace_links()
    }
}
