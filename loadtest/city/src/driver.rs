//! Drivers: the position, the activity and the current drive of each.
//!
//! ```text
//!            dispatched          picked up           dropped off
//!   Idle --------------> EnRoute ---------> OnTrip ---------------> Idle
//!    ^                      |                                        ^
//!    |                      +-- cancelled ---------------------------+
//!    +--- OnEarlierTrip: on a trip that began before the city did
//!    +--- Desynced: the service sees this driver in another state
//! ```

use std::time::Duration;

use marketplace::{MarketTime, Position, Trip, fare};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::random::{self, RandomStreams, Subject};
use super::rider::TripRequest;

/// One driver of the fleet.
#[derive(Debug, Clone)]
pub(crate) struct SimulatedDriver {
    /// The id in the services.
    pub(crate) id: Uuid,
    /// The number of the driver's random stream.
    pub(crate) number: u64,
    /// What the driver is doing.
    pub(crate) activity: Activity,
    /// The current drive, or the last one.
    pub(crate) leg: Leg,
    /// Whether the service denied at the last question that this driver is idle.
    pub(crate) disputed: bool,
}

/// The activity of a driver, as far as the city knows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Activity {
    /// Waits for a ride, standing or driving about.
    Idle,
    /// Drives to the rider.
    EnRoute(SimulatedRide),
    /// Drives the rider.
    OnTrip(SimulatedRide),
    /// Drives a rider since before the city began; no service knows the trip.
    OnEarlierTrip,
    /// Is in another state in driver-management, and about to become idle.
    Desynced,
}

/// A ride to which the services sent a driver.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SimulatedRide {
    /// The id that ride-management gave it.
    pub(crate) id: Uuid,
    /// Pickup and dropoff.
    pub(crate) trip: TripRequest,
    /// The factor by which the drive takes longer or shorter than expected.
    pub(crate) traffic: f64,
}

impl SimulatedRide {
    /// How long the services expect the trip to take.
    pub(crate) fn expected(&self) -> Duration {
        minutes(Trip::estimate(self.trip.pickup, self.trip.dropoff).minutes)
    }
}

/// A number of minutes, as the functions of `marketplace` compute them.
pub(crate) fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64(minutes * 60.0)
}

impl SimulatedDriver {
    /// The driver with this number: idle, at a place drawn from the pickups on record.
    pub(crate) fn starting(
        number: u64,
        streams: RandomStreams,
        places: &[Position],
        now: MarketTime,
    ) -> Self {
        let rng = &mut streams.of(Subject::Driver, number, 0);
        Self {
            id: random::id(rng),
            number,
            activity: Activity::Idle,
            leg: Leg::standing(random::place(places, rng), now),
            disputed: false,
        }
    }

    /// Whether the driver waits for a ride.
    pub(crate) fn is_idle(&self) -> bool {
        self.activity == Activity::Idle
    }

    /// The current ride.
    pub(crate) fn ride(&self) -> Option<&SimulatedRide> {
        match &self.activity {
            Activity::EnRoute(ride) | Activity::OnTrip(ride) => Some(ride),
            Activity::Idle | Activity::OnEarlierTrip | Activity::Desynced => None,
        }
    }

    /// Whether the driver is on this ride.
    pub(crate) fn is_on(&self, ride: Uuid) -> bool {
        self.ride().is_some_and(|current| current.id == ride)
    }

    /// Whether the driver stands idle, and has done so for at least this long.
    pub(crate) fn has_waited(&self, least: Duration, now: MarketTime) -> bool {
        self.is_idle() && !self.leg.is_moving(now) && self.leg.arrives_at + least <= now
    }

    /// Drives off without a rider.
    pub(crate) fn head_for(&mut self, place: Position, now: MarketTime) {
        self.leg = Leg::unladen(self.leg.position(now), place, now);
    }

    /// From here to the dropoff of the current ride; `None` without a ride.
    pub(crate) fn leg_to_dropoff(&self, now: MarketTime) -> Option<Leg> {
        let ride = self.ride()?;
        let ends_at = match self.activity {
            Activity::EnRoute(_) => self.leg.arrives_at + ride.expected().mul_f64(ride.traffic),
            _ => self.leg.arrives_at,
        };
        let (here, left) = (self.leg.position(now), now.age_of(ends_at));
        Some(Leg::lasting(here, ride.trip.dropoff, now, left))
    }
}

/// A drive along a straight line at constant speed; a stop is a drive that has ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Leg {
    from: Position,
    /// The destination.
    pub(crate) to: Position,
    departs_at: MarketTime,
    /// When it ends, or ended.
    pub(crate) arrives_at: MarketTime,
}

impl Leg {
    /// Standing at a place since `now`.
    pub(crate) const fn standing(place: Position, now: MarketTime) -> Self {
        Self {
            from: place,
            to: place,
            departs_at: now,
            arrives_at: now,
        }
    }

    /// A drive without a rider: ten miles per hour, with the detour of the street grid.
    pub(crate) fn unladen(from: Position, to: Position, now: MarketTime) -> Self {
        Self::lasting(from, to, now, minutes(fare::pickup_minutes(from, to)))
    }

    /// A drive that takes this long.
    pub(crate) fn lasting(
        from: Position,
        to: Position,
        now: MarketTime,
        duration: Duration,
    ) -> Self {
        Self {
            from,
            to,
            departs_at: now,
            arrives_at: now + duration,
        }
    }

    /// The position of the car.
    pub(crate) fn position(&self, now: MarketTime) -> Position {
        if !self.is_moving(now) {
            return self.to;
        }
        let passed = self.departs_at.age_of(now).as_secs_f64();
        let share = passed / self.departs_at.age_of(self.arrives_at).as_secs_f64();
        let between = |from: f64, to: f64| from + (to - from) * share;
        Position::new(
            between(self.from.lat(), self.to.lat()),
            between(self.from.lon(), self.to.lon()),
        )
        .expect("a point between two places of a city is on earth")
    }

    /// Whether the drive has not ended yet.
    pub(crate) fn is_moving(&self, now: MarketTime) -> bool {
        now < self.arrives_at
    }
}

/// The next destination of an idle driver: the nearest of a few places where riders appear.
pub(crate) fn relocation_target(
    from: Position,
    places: &[Position],
    rng: &mut ChaCha8Rng,
) -> Position {
    const CANDIDATES: usize = 4;
    let candidates = (0..CANDIDATES).map(|_| random::place(places, rng));
    candidates
        .min_by(|a, b| from.miles_to(*a).total_cmp(&from.miles_to(*b)))
        .unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(lat: f64) -> Position {
        Position::new(lat, -74.0).unwrap()
    }

    fn minute(minute: i64) -> MarketTime {
        MarketTime::from_millis(minute * 60_000)
    }

    #[test]
    fn car_is_half_way_at_half_time() {
        let leg = Leg::lasting(place(40.7), place(40.8), minute(0), minutes(10.0));
        assert_eq!(leg.position(minute(0)), place(40.7));
        assert!(leg.position(minute(5)).is_same_spot(place(40.75)));
        assert_eq!(leg.position(minute(10)), place(40.8));
        assert!(!leg.is_moving(minute(10)));
    }

    #[test]
    fn only_standing_drivers_wait() {
        let places = [place(40.7)];
        let mut driver = SimulatedDriver::starting(0, RandomStreams::new(1), &places, minute(0));
        let five_minutes = Duration::from_secs(300);
        assert!(!driver.has_waited(five_minutes, minute(4)));
        assert!(driver.has_waited(five_minutes, minute(5)));
        driver.head_for(place(40.75), minute(5));
        assert!(!driver.has_waited(five_minutes, minute(6)));
        assert_eq!(driver.leg.position(minute(5)), place(40.7));
    }
}
