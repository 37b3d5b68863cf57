//! Publishes the supply of every zone on JetStream, for the dataflow `events`.

use feeds::{
    snapshot_publisher::{SnapshotPublisher, SnapshotSource},
    trace_links::PendingTraceLinks,
};
use marketplace::{time::MarketTime, view::Level};
use platform::nats::PublishMessage;
use surge_proto::subjects::{SUPPLY, TRIPS};

use crate::{app::App, events};

/// The publisher of supply.
pub type SupplyPublisher = SnapshotPublisher<App>;

impl SnapshotSource for App {
    const FEED: &'static str = "surge.v1.supply";

    const STREAMS: &'static [(&'static str, &'static str)] =
        &[(SUPPLY.name, SUPPLY.subjects), (TRIPS.name, TRIPS.subjects)];

    type AsOf = MarketTime;

    fn now(&self) -> MarketTime {
        self.now()
    }

    fn snapshot(&self) -> (MarketTime, Vec<f64>) {
        let supply = self.supply_everywhere();
        let predicted = supply.zones.iter().map(|zone| zone.predicted);
        (supply.as_of, predicted.collect())
    }

    fn level_message(
        &self,
        index: usize,
        value: f64,
        as_of: MarketTime,
    ) -> (String, PublishMessage) {
        events::supply_level(self.zones()[index], Level { value, as_of })
    }

    fn watermark_message(&self, as_of: MarketTime) -> (String, PublishMessage) {
        events::supply_watermark(as_of)
    }

    fn trace_links(&self) -> &PendingTraceLinks {
        self.trace_links()
    }
}
