//! What driver-management tells on NATS: the supply of every zone as a feed of levels and
//! watermarks, and the progress of trips through the outbox. Levels may be repeated or lost and are
//! simply sent anew; trip events may not be lost.

use feeds::{
    outbox::OutboxEvent,
    snapshot_publisher::{SnapshotPublisher, SnapshotSource},
    trace_links::PendingTraceLinks,
};
use marketplace::{time::MarketTime, view::Level};
use platform::nats::{self, PublishMessage};
use prost::Message;
use surge_proto::{
    convert::timestamp,
    subjects::{SUPPLY, SUPPLY_WATERMARK, TRIPS, supply_of},
    v1::{SupplyLevel, TripProgress, TripStage, Watermark},
};
use uuid::Uuid;

use crate::app::App;

/// What the subjects of trip events begin with.
pub const TRIP_EVENTS: &str = "surge.v1.trips";

/// The event that a trip reached a stage.
pub fn trip_progress(
    stage: TripStage,
    ride_id: Uuid,
    driver_id: Uuid,
    at: MarketTime,
) -> OutboxEvent {
    let progress = TripProgress {
        ride_id: ride_id.to_string(),
        driver_id: driver_id.to_string(),
        stage: stage.into(),
        at: Some(timestamp(at)),
    };
    OutboxEvent {
        subject: format!("{TRIP_EVENTS}.{}", stage_word(stage)),
        schema: "surge.v1.TripProgress",
        payload: progress.encode_to_vec(),
    }
}

fn stage_word(stage: TripStage) -> &'static str {
    match stage {
        TripStage::Unspecified => "unspecified",
        TripStage::PickedUp => "picked_up",
        TripStage::DroppedOff => "dropped_off",
    }
}

/// Publishes the supply of every zone.
pub type SupplyFeed = SnapshotPublisher<App>;

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
        let predicted = supply.zones.iter().map(|level| level.predicted);
        (supply.as_of, predicted.collect())
    }

    fn level_message(
        &self,
        index: usize,
        value: f64,
        as_of: MarketTime,
    ) -> (String, PublishMessage) {
        let zone = self.zones()[index];
        let level = SupplyLevel::new(zone, Level { value, as_of });
        let message = nats::message("surge.v1.SupplyLevel", level.encode_to_vec());
        (supply_of(zone), message)
    }

    fn trace_links(&self) -> &PendingTraceLinks {
        App::origins(self)
    }

    fn watermark_message(&self, as_of: MarketTime) -> (String, PublishMessage) {
        let as_of = Some(timestamp(as_of));
        let watermark = Watermark { as_of }.encode_to_vec();
        let message = nats::message("surge.v1.Watermark", watermark);
        (SUPPLY_WATERMARK.to_owned(), message)
    }
}
