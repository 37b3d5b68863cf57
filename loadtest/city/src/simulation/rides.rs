//! Rides from the view of their drivers: dispatched, at the pickup, at the dropoff, or cancelled on
//! the way.

use marketplace::{DriverStatus, MarketTime};
use uuid::Uuid;

use super::{Event, Simulation};
use crate::driver::{Activity, Leg, SimulatedRide, minutes};
use crate::executor::CityCommand;

impl Simulation {
    /// The service sent a driver of this city to a rider.
    pub(super) fn matched(&mut self, driver: Uuid, ride: SimulatedRide, now: MarketTime) {
        self.counters.matched += 1;
        let Some(place) = self.place_of(driver) else {
            self.counters.lost += 1;
            return;
        };
        let driver = &mut self.fleet[place];
        driver.leg = Leg::unladen(driver.leg.position(now), ride.trip.pickup, now);
        driver.activity = Activity::EnRoute(ride);
        driver.disputed = false;
        self.queue
            .push(driver.leg.arrives_at, Event::Pickup(place, ride.id));
        self.record_en_route(place, &ride, now);
    }

    /// The service sees the driver at the last reported position, and expects the car from there.
    fn record_en_route(&self, place: usize, ride: &SimulatedRide, now: MarketTime) {
        let driver = &self.fleet[place];
        let reported = self.truth.driver(driver.id);
        let position = reported.map_or_else(|| driver.leg.position(now), |known| known.position);
        let approach = marketplace::fare::pickup_minutes(position, ride.trip.pickup);
        let due_at = now + minutes(approach) + ride.expected();
        let dropoff = Some((ride, due_at));
        self.record(place, DriverStatus::EnRoute, position, dropoff, now);
    }

    pub(super) fn pick_up(&self, place: usize, ride: Uuid) -> Option<CityCommand> {
        match &self.fleet[place].activity {
            Activity::EnRoute(current) if current.id == ride => Some(CityCommand::Progress {
                driver: self.fleet[place].id,
                ride,
                status: DriverStatus::OnTrip,
                position: current.trip.pickup,
            }),
            _ => None,
        }
    }

    pub(super) fn picked_up(&mut self, driver: Uuid, ride: Uuid, now: MarketTime) {
        let Some((place, ride)) = self.on_ride(driver, ride) else {
            return;
        };
        let (pickup, dropoff) = (ride.trip.pickup, ride.trip.dropoff);
        let expected = ride.expected();
        let driver = &mut self.fleet[place];
        driver.activity = Activity::OnTrip(ride);
        driver.leg = Leg::lasting(pickup, dropoff, now, expected.mul_f64(ride.traffic));
        self.queue
            .push(driver.leg.arrives_at, Event::Dropoff(place, ride.id));
        let due_at = now + expected;
        let dropoff = Some((&ride, due_at));
        self.record(place, DriverStatus::OnTrip, pickup, dropoff, now);
    }

    pub(super) fn drop_off(&self, place: usize, ride: Uuid) -> Option<CityCommand> {
        match &self.fleet[place].activity {
            Activity::OnTrip(current) if current.id == ride => Some(CityCommand::Progress {
                driver: self.fleet[place].id,
                ride,
                status: DriverStatus::Idle,
                position: current.trip.dropoff,
            }),
            _ => None,
        }
    }

    /// The rider has arrived. If the service already sent the driver to the next ride, only the
    /// count of this one is left to do.
    pub(super) fn dropped_off(&mut self, driver: Uuid, ride: Uuid, now: MarketTime) {
        self.counters.completed += 1;
        if let Some((place, ride)) = self.on_ride(driver, ride) {
            self.wait_at(place, ride.trip.dropoff, ride.trip.dropoff, now);
        }
    }

    pub(super) fn cancelled(&mut self, driver: Uuid, ride: Uuid, now: MarketTime) {
        self.counters.unserved += 1;
        if let Some((place, _)) = self.on_ride(driver, ride) {
            let here = self.fleet[place].leg.position(now);
            let reported = self.truth.driver(driver);
            let reported = reported.map_or(here, |known| known.position);
            self.wait_at(place, here, reported, now);
        }
    }

    /// The index of the driver and the ride, if the driver is still on it.
    pub(super) fn on_ride(&self, driver: Uuid, ride: Uuid) -> Option<(usize, SimulatedRide)> {
        let place = self.place_of(driver)?;
        let driver = &self.fleet[place];
        let current = driver.ride().filter(|_| driver.is_on(ride));
        current.map(|current| (place, *current))
    }
}
