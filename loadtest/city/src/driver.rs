//! Drivers: where each is, what each does, and where each goes while nobody calls.

use std::time::Duration;

use marketplace::{MarketTime, Position, fare};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use super::random::{self, RandomStreams, Subject};
use super::rider::TripRequest;

/// One driver of the fleet.
#[derive(Debug, Clone)]
pub(crate) struct Driver {
    /// Who.
    pub(crate) id: Uuid,
    /// By which the driver's rng is drawn.
    pub(crate) number: u64,
    /// What the driver is activity.
    pub(crate) activity: Activity,
    /// The drive under way, or the last one.
    pub(crate) leg: Leg,
    /// The service denied, when last asked, that this driver is idle.
    pub(crate) disputed: bool,
}

/// What a driver is activity, as far as the city knows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Activity {
    /// Waiting for a ride, standing or drifting.
    Idle,
    /// Driving to the rider.
    EnRoute(Ride),
    /// Driving the rider.
    OnTrip(Ride),
    /// Out of step with driver-management; being brought back to idle.
    Desynced,
}

/// A ride that a driver was sent on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ride {
    /// The id that ride-management gave it.
    pub(crate) id: Uuid,
    /// From where to where.
    pub(crate) trip: TripRequest,
    /// The factor by which the drive takes longer or shorter than expected.
    pub(crate) traffic: f64,
}

impl Driver {
    /// The driver with this number, idle at a place drawn from where riders are picked up.
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

    /// The ride under way.
    pub(crate) fn ride(&self) -> Option<&Ride> {
        match &self.activity {
            Activity::EnRoute(ride) | Activity::OnTrip(ride) => Some(ride),
            Activity::Idle | Activity::Desynced => None,
        }
    }

    /// Whether the driver is on this ride.
    pub(crate) fn is_on(&self, ride: Uuid) -> bool {
        self.ride().is_some_and(|current| current.id == ride)
    }

    /// Whether the driver stands idle, and has for at least this long.
    pub(crate) fn has_waited(&self, least: Duration, now: MarketTime) -> bool {
        self.activity == Activity::Idle
            && !self.leg.is_moving(now)
            && self.leg.arrives_at + least <= now
    }

    /// Drives off without a rider.
    pub(crate) fn head_for(&mut self, place: Position, now: MarketTime) {
        self.leg = Leg::unladen(self.leg.position(now), place, now);
    }
}

/// A drive along a straight line at steady pace; a stop is a drive that has ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Leg {
    from: Position,
    to: Position,
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

    /// A drive without a rider, to one or to wherever one may be: ten miles an hour and the detour of the grid.
    pub(crate) fn unladen(from: Position, to: Position, now: MarketTime) -> Self {
        Self::lasting(from, to, now, fare::pickup_minutes(from, to))
    }

    /// A drive of so many minutes.
    pub(crate) fn lasting(from: Position, to: Position, now: MarketTime, minutes: f64) -> Self {
        Self {
            from,
            to,
            departs_at: now,
            arrives_at: now + Duration::from_secs_f64(minutes * 60.0),
        }
    }

    /// Where the car is.
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
        .expect("a point between two places of a city lies on earth")
    }

    /// Whether the drive has not ended yet.
    pub(crate) fn is_moving(&self, now: MarketTime) -> bool {
        now < self.arrives_at
    }
}

/// Where an idle driver drifts to: of a few places where riders are picked up, the nearest.
pub(crate) fn drift_target(from: Position, places: &[Position], rng: &mut ChaCha8Rng) -> Position {
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
    fn half_way_through_a_drive_the_car_is_half_way() {
        let leg = Leg::lasting(place(40.7), place(40.8), minute(0), 10.0);
        assert_eq!(leg.position(minute(0)), place(40.7));
        assert!(leg.position(minute(5)).is_same_spot(place(40.75)));
        assert_eq!(leg.position(minute(10)), place(40.8));
        assert!(!leg.is_moving(minute(10)));
    }

    #[test]
    fn only_a_driver_who_stands_has_waited() {
        let places = [place(40.7)];
        let mut driver = Driver::starting(0, RandomStreams::new(1), &places, minute(0));
        let five_minutes = Duration::from_secs(300);
        assert!(!driver.has_waited(five_minutes, minute(4)));
        assert!(driver.has_waited(five_minutes, minute(5)));
        driver.head_for(place(40.75), minute(5));
        assert!(!driver.has_waited(five_minutes, minute(6)));
        assert_eq!(driver.leg.position(minute(5)), place(40.7));
    }
}
