//! What goes to NATS and what comes from it. Out: levels of demand ([`DemandFeed`]) and, by the
//! transactional outbox, the states that rides enter. In: pickups and drop-offs ([`TripFollower`]).
//! The service does its work without NATS; the others then hear of it later.

mod demand_feed;
mod trip_follower;

pub use demand_feed::{DemandFeed, WatermarkKeeper};

use feeds::outbox::OutboxEvent;
use prost::Message;
use surge_proto::{convert::timestamp, v1};
pub use trip_follower::{FollowError, TripFollower};

use crate::ride::Ride;

/// What the subjects of ride events begin with.
pub const RIDE_EVENTS: &str = "surge.v1.rides";

/// The event that `ride` entered its state.
pub fn ride_event(ride: &Ride) -> OutboxEvent {
    let message = v1::RideEvent {
        ride_id: ride.ride_id.to_string(),
        rider_id: ride.rider_id.to_string(),
        quote_id: ride.quote_id.to_string(),
        state: v1::RideState::from(ride.state) as i32,
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
        payload: message.encode_to_vec(),
    }
}
