//! The messages that ride-management publishes: the demand of every zone with its watermark, as
//! levels on a stream, and the states that rides enter, as events that leave by the outbox. A level
//! may be lost or repeated, because the next one replaces it; a ride event may not be lost.

use feeds::outbox::OutboxEvent;
use marketplace::{time::MarketTime, view::Level, zone::Zone};
use platform::nats::{self, PublishMessage};
use prost::Message;
use surge_proto::{
    convert::timestamp,
    subjects::{DEMAND_WATERMARK, demand_of},
    v1::{self, DemandLevel, RideEvent, Watermark},
};

use crate::ride::{Ride, RideState};

/// What the subjects of ride events begin with.
pub const RIDE_EVENTS: &str = "surge.v1.rides";

/// The event that `ride` entered its state.
pub fn ride_event(ride: &Ride) -> OutboxEvent {
    let state = match ride.state {
        RideState::Requested => v1::RideState::Requested,
        RideState::Matched => v1::RideState::Matched,
        RideState::PickedUp => v1::RideState::PickedUp,
        RideState::Completed => v1::RideState::Completed,
        RideState::Cancelled => v1::RideState::Cancelled,
        RideState::Unserved => v1::RideState::Unserved,
    };
    let event = RideEvent {
        ride_id: ride.ride_id.to_string(),
        rider_id: ride.rider_id.to_string(),
        quote_id: ride.quote_id.to_string(),
        state: state.into(),
        zone: ride.zone.to_string(),
        pickup: Some(ride.pickup.into()),
        dropoff: Some(ride.dropoff.into()),
        fare_cents: ride.fare_cents,
        driver_id: ride.driver_id.map(|id| id.to_string()).unwrap_or_default(),
        at: Some(timestamp(ride.entered_state_at())),
    };
    OutboxEvent {
        subject: format!("{RIDE_EVENTS}.{}", ride.state),
        schema: "surge.v1.RideEvent",
        payload: event.encode_to_vec(),
    }
}

/// Subject and message of the demand of a zone.
pub fn demand_level(zone: Zone, level: Level) -> (String, PublishMessage) {
    let level = DemandLevel::new(zone, level).encode_to_vec();
    (
        demand_of(zone),
        nats::message("surge.v1.DemandLevel", level),
    )
}

/// Subject and message of the watermark: the demand of every zone is complete as of this moment.
pub fn demand_watermark(as_of: MarketTime) -> (String, PublishMessage) {
    let as_of = Some(timestamp(as_of));
    let watermark = Watermark { as_of }.encode_to_vec();
    let message = nats::message("surge.v1.Watermark", watermark);
    (DEMAND_WATERMARK.to_owned(), message)
}
