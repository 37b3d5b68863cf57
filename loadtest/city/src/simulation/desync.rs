//! Drivers whose state in the city differs from their state in the services, because an answer was
//! lost: how the city finds them and resyncs them.
//!
//! After a lost answer, all idle drivers confirm to the service that they are idle. A driver that
//! the service refuses twice is desynced, and the city makes the driver idle there, whatever it
//! takes.

use marketplace::{DriverStatus, MarketTime, Position};
use uuid::Uuid;

use super::{Event, Simulation};
use crate::driver::Activity;
use crate::executor::CityCommand;

impl Simulation {
    /// The service sees an idle driver on a ride. The outcome of that ride may still be on its way;
    /// if it has not arrived at the next confirmation, it was lost.
    pub(super) fn disputed(&mut self, driver: Uuid, now: MarketTime) -> Option<CityCommand> {
        let place = self.place_of(driver)?;
        let driver = &mut self.fleet[place];
        if driver.activity != Activity::Idle {
            return None;
        }
        if driver.disputed {
            driver.activity = Activity::Desynced;
            return self.resync(place, now);
        }
        driver.disputed = true;
        self.plan_reconcile(now);
        None
    }

    /// The service refused a change of the driver of a ride, so the ride is lost. A driver who has
    /// another ride since then is in sync.
    pub(super) fn desynced(&mut self, driver: Uuid, ride: Uuid, now: MarketTime) {
        self.counters.lost += 1;
        if let Some((place, _)) = self.on_ride(driver, ride) {
            self.fleet[place].activity = Activity::Desynced;
            self.still_desynced(driver, now);
        }
    }

    /// The city resyncs the driver after a while, or tries again.
    pub(super) fn still_desynced(&mut self, driver: Uuid, now: MarketTime) {
        if let Some(place) = self.place_of(driver) {
            let retry_at = now + self.pace.before_retry;
            self.queue.push(retry_at, Event::Resync(place));
        }
    }

    pub(super) fn resync(&self, place: usize, now: MarketTime) -> Option<CityCommand> {
        let driver = &self.fleet[place];
        let position = match driver.activity {
            Activity::Desynced => driver.leg.position(now),
            // Online one forecast window early, at the place of the dropoff: see `prepare`.
            Activity::OnEarlierTrip => driver.leg.to,
            _ => return None,
        };
        Some(CityCommand::Resync {
            driver: driver.id,
            position,
        })
    }

    pub(super) fn plan_reconcile(&mut self, now: MarketTime) {
        if !self.is_reconcile_planned {
            self.is_reconcile_planned = true;
            self.queue
                .push(now + self.pace.before_retry, Event::Reconcile);
        }
    }

    /// All idle drivers confirm their state. Postponed while answers of the last time are missing.
    pub(super) fn reconcile(&mut self, now: MarketTime) -> Vec<CityCommand> {
        self.is_reconcile_planned = false;
        if self.confirms_in_flight > 0 {
            self.plan_reconcile(now);
            return Vec::new();
        }
        let idle = self
            .fleet
            .iter()
            .filter(|driver| driver.activity == Activity::Idle);
        let confirms = idle.map(|driver| CityCommand::Confirm {
            driver: driver.id,
            position: driver.leg.position(now),
        });
        let confirms: Vec<_> = confirms.collect();
        self.confirms_in_flight = confirms.len();
        confirms
    }

    pub(super) fn is_idle(&mut self, driver: Uuid, position: Position, now: MarketTime) {
        let Some(place) = self.place_of(driver) else {
            return;
        };
        match self.fleet[place].activity {
            Activity::Desynced | Activity::OnEarlierTrip => {
                self.wait_at(place, position, position, now);
            }
            Activity::Idle => {
                self.fleet[place].disputed = false;
                self.record(place, DriverStatus::Idle, position, None, now);
            }
            // The service sent the driver to a ride since the question.
            Activity::EnRoute(_) | Activity::OnTrip(_) => {}
        }
    }
}
