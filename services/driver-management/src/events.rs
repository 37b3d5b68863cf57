//! The messages that driver-management publishes: the supply of every zone with its watermark, as
//! levels on a stream, and the progress of trips, as events that leave by the outbox. A level may
//! be lost or repeated, because the next one replaces it; a trip event may not be lost.

use feeds::outbox::OutboxEvent;
use marketplace::{time::MarketTime, view::Level, zone::Zone};
use platform::nats::{self, PublishMessage};
use prost::Message;
use surge_proto::{
    convert::timestamp,
    subjects::{SUPPLY_WATERMARK, supply_of},
    v1::{SupplyLevel, TripProgress, TripStage, Watermark},
};
use uuid::Uuid;

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
    let name = match stage {
        TripStage::Unspecified => "unspecified",
        TripStage::PickedUp => "picked_up",
        TripStage::DroppedOff => "dropped_off",
        TripStage::GivenBack => "given_back",
    };
    OutboxEvent {
        subject: format!("{TRIP_EVENTS}.{name}"),
        schema: "surge.v1.TripProgress",
        payload: progress.encode_to_vec(),
    }
}

/// Subject and message of the supply of a zone.
pub fn supply_level(zone: Zone, level: Level) -> (String, PublishMessage) {
    let level = SupplyLevel::new(zone, level).encode_to_vec();
    (
        supply_of(zone),
        nats::message("surge.v1.SupplyLevel", level),
    )
}

/// Subject and message of the watermark: the supply of every zone is complete as of this moment.
pub fn supply_watermark(as_of: MarketTime) -> (String, PublishMessage) {
    let as_of = Some(timestamp(as_of));
    let watermark = Watermark { as_of }.encode_to_vec();
    let message = nats::message("surge.v1.Watermark", watermark);
    (SUPPLY_WATERMARK.to_owned(), message)
}
