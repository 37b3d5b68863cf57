//! Rides, as their drivers see them: sent to the rider, at the pickup, at the drop-off, or called off on the way.

use std::time::Duration;

use marketplace::{DriverStatus, MarketTime, Trip};
use uuid::Uuid;

use super::{Event, Simulation};
use crate::driver::{Activity, Leg, Ride};
use crate::executor::CityCommand;

impl Simulation {
    /// A driver of ours was sent to a rider.
    pub(super) fn matched(&mut self, driver: Uuid, ride: Ride, now: MarketTime) {
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

    /// The service knows the driver where it last reported to be, and promises the rider a car from there.
    fn record_en_route(&self, place: usize, ride: &Ride, now: MarketTime) {
        let driver = &self.fleet[place];
        let reported = self.truth.reported_position(driver.id);
        let position = reported.unwrap_or_else(|| driver.leg.position(now));
        let approach = marketplace::fare::pickup_minutes(position, ride.trip.pickup);
        let due_at = now + minutes(approach) + minutes(expected_minutes(ride));
        self.record(place, DriverStatus::EnRoute, position, Some((ride, due_at)));
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
        let expected = expected_minutes(&ride);
        let driver = &mut self.fleet[place];
        driver.activity = Activity::OnTrip(ride);
        driver.leg = Leg::lasting(pickup, dropoff, now, expected * ride.traffic);
        self.queue
            .push(driver.leg.arrives_at, Event::Dropoff(place, ride.id));
        let due_at = now + minutes(expected);
        self.record(place, DriverStatus::OnTrip, pickup, Some((&ride, due_at)));
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

    /// The rider has arrived. If the driver was sent on before this outcome came, only the rider's part is left of it.
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
            let reported = self.truth.reported_position(driver).unwrap_or(here);
            self.wait_at(place, here, reported, now);
        }
    }

    /// The driver's place in the fleet and its ride, if it is still on that one.
    pub(super) fn on_ride(&self, driver: Uuid, ride: Uuid) -> Option<(usize, Ride)> {
        let place = self.place_of(driver)?;
        let driver = &self.fleet[place];
        let current = driver.ride().filter(|_| driver.is_on(ride));
        current.map(|current| (place, *current))
    }
}

/// How long the services expect the ride to take.
pub(super) fn expected_minutes(ride: &Ride) -> f64 {
    Trip::estimate(ride.trip.pickup, ride.trip.dropoff).minutes
}

pub(super) fn minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64(minutes * 60.0)
}
