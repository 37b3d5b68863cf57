//! Riders: their destination, the price that they accept, and their patience.
//!
//! The record has only the pickups. The rest is random, from what is known about New York: trip
//! lengths from taxi trips, the elasticity of demand from studies of Uber. Patience is an
//! assumption.

use std::sync::Arc;
use std::time::Duration;

use marketplace::surge::DETOUR;
use marketplace::{MarketTime, Position};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use uuid::Uuid;

use super::random::{self, RandomStreams, Subject};
use super::replay::ReplayedPickup;

/// Pickup and dropoff; as JSON, the body of a quote request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TripRequest {
    /// The pickup.
    pub pickup: Position,
    /// The dropoff.
    pub dropoff: Position,
}

/// Trips between real pickup places, for requests that look like those of riders. Clones share the
/// trips.
#[derive(Debug, Clone)]
pub struct TripSampler {
    trips: Arc<[TripRequest]>,
}

impl TripSampler {
    /// RandomStreams the trips; the same seed and places give the same.
    ///
    /// # Panics
    /// If there are no places.
    pub(crate) fn new(streams: RandomStreams, places: &[Position]) -> Self {
        const TRIPS: u64 = 4_096;
        let trip = |number| {
            let rng = &mut streams.of(Subject::Trip, number, 0);
            TripRequest::drawn(random::place(places, rng), places, rng)
        };
        Self {
            trips: (0..TRIPS).map(trip).collect(),
        }
    }

    /// Trip number `n`; after some thousands they repeat.
    pub fn nth(&self, n: u64) -> TripRequest {
        self.trips[(n % self.trips.len() as u64) as usize]
    }
}

/// One rider.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rider {
    /// The id in the services.
    pub(crate) id: Uuid,
    /// The number of the rider's random stream.
    pub(crate) number: u64,
    /// When the rider requests a quote.
    pub(crate) appears_at: MarketTime,
    /// Pickup and dropoff.
    pub(crate) trip: TripRequest,
    /// The highest multiplier that the rider accepts.
    pub(crate) willingness: f64,
    /// The longest quoted pickup time that the rider accepts, in market time.
    pub(crate) patience: Duration,
    /// The factor by which the drive takes longer or shorter than expected.
    pub(crate) traffic: f64,
}

impl Rider {
    /// The rider behind a recorded pickup.
    pub(crate) fn of_pickup(
        replayed: &ReplayedPickup,
        places: &[Position],
        streams: RandomStreams,
    ) -> Self {
        let rng = &mut streams.of(Subject::Rider, replayed.number, 0);
        let second = rng.random_range(0.0..60.0);
        Self {
            id: random::id(rng),
            number: replayed.number,
            appears_at: replayed.minute + Duration::from_secs_f64(second),
            trip: TripRequest::drawn(replayed.position, places, rng),
            willingness: willingness(rng),
            patience: patience(rng),
            traffic: rng.random_range(0.9..1.1),
        }
    }
}

impl TripRequest {
    /// A trip of a random length: to the one of some places whose distance is closest to it.
    fn drawn(pickup: Position, places: &[Position], rng: &mut ChaCha8Rng) -> Self {
        const CANDIDATES: usize = 256;
        let miles = trip_miles(rng);
        let misses_by = |place: Position| (pickup.miles_to(place) * DETOUR - miles).abs();
        let dropoff = (0..CANDIDATES)
            .map(|_| random::place(places, rng))
            .filter(|place| !place.is_same_spot(pickup))
            .map(|place| (misses_by(place), place))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
            .map_or(pickup, |(_, place)| place);
        Self { pickup, dropoff }
    }
}

/// Miles driven: `ln(miles) ~ N(0.635, 0.898)`, fitted to New York taxi trips of March 2019.
fn trip_miles(rng: &mut ChaCha8Rng) -> f64 {
    random::log_normal(0.635_f64.exp(), 0.898, rng)
}

/// The highest multiplier that a rider accepts, `U^(-1/0.55)`: a price 10 % higher loses 5.5 % of
/// the riders, the elasticity found for Uber (Cohen et al., "Using Big Data to Estimate Consumer
/// Surplus", NBER 22627).
fn willingness(rng: &mut ChaCha8Rng) -> f64 {
    const ELASTICITY: f64 = 0.55;
    let share = 1.0 - rng.random::<f64>(); // in (0, 1]: nobody accepts an infinite price
    share.powf(-1.0 / ELASTICITY)
}

/// The longest wait that a rider accepts: median 8 minutes. An assumption.
fn patience(rng: &mut ChaCha8Rng) -> Duration {
    Duration::from_secs_f64(60.0 * random::log_normal(8.0, 0.4, rng))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places along Broadway, a tenth of a mile apart.
    fn places() -> Vec<Position> {
        let place = |step| Position::new(40.70 + 0.00145 * f64::from(step), -74.0).unwrap();
        (0..100).map(place).collect()
    }

    fn rider(seed: u64, number: u64) -> Rider {
        let replayed = ReplayedPickup {
            number,
            minute: MarketTime::from_millis(0),
            position: places()[50],
        };
        Rider::of_pickup(&replayed, &places(), RandomStreams::new(seed))
    }

    #[test]
    fn same_seed_makes_the_same_riders() {
        assert_eq!(rider(1, 7), rider(1, 7));
        assert_ne!(rider(1, 7).id, rider(2, 7).id);
        assert_ne!(rider(1, 7).willingness, rider(1, 8).willingness);
    }

    #[test]
    fn ten_percent_more_loses_one_in_twenty() {
        let riders = (0..20_000).map(|number| rider(1, number));
        let lost = riders.filter(|rider| rider.willingness < 1.1).count();
        assert!((900..1_130).contains(&lost), "{lost} of 20000");
    }

    #[test]
    fn riders_appear_within_their_minute() {
        for number in 0..100 {
            let rider = rider(1, number);
            assert!((0..60_000).contains(&rider.appears_at.millis()));
            assert!(rider.trip.pickup.miles_to(rider.trip.dropoff) > 0.05);
        }
    }

    #[test]
    fn trips_repeat_by_number() {
        let trips = TripSampler::new(RandomStreams::new(1), &places());
        let same = TripSampler::new(RandomStreams::new(1), &places());
        assert_eq!(trips.nth(5), same.nth(5));
        assert_eq!(trips.nth(5), trips.nth(5 + 4_096));
        assert_ne!(trips.nth(5), trips.nth(6));
    }
}
