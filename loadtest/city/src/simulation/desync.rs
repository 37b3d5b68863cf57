//! Drivers of whom the services and the city think differently, because an answer was lost: how they are found out, and
//! how they are brought back.

use marketplace::{DriverStatus, MarketTime, Position};
use uuid::Uuid;

use super::{Event, Simulation};
use crate::driver::Activity;
use crate::executor::CityCommand;

impl Simulation {
    /// The service has sent a driver somewhere who knows nothing of it. The outcome may still be on its way; if they have not
    /// come by the next roll call, their answer was lost.
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

    /// The service would not take what the driver of a ride said, so the ride is lost. A driver who has been sent on another
    /// one since then is where it should be.
    pub(super) fn desynced(&mut self, driver: Uuid, ride: Uuid, now: MarketTime) {
        self.counters.lost += 1;
        if let Some((place, _)) = self.on_ride(driver, ride) {
            self.fleet[place].activity = Activity::Desynced;
            self.still_desynced(driver, now);
        }
    }

    /// After a while the driver is brought back, or that is tried again.
    pub(super) fn still_desynced(&mut self, driver: Uuid, now: MarketTime) {
        if let Some(place) = self.place_of(driver) {
            let retry_at = now + self.pace.before_retry;
            self.queue.push(retry_at, Event::Resync(place));
        }
    }

    pub(super) fn resync(&self, place: usize, now: MarketTime) -> Option<CityCommand> {
        let driver = &self.fleet[place];
        (driver.activity == Activity::Desynced).then(|| CityCommand::Resync {
            driver: driver.id,
            position: driver.leg.position(now),
        })
    }

    pub(super) fn plan_reconcile(&mut self, now: MarketTime) {
        if !self.is_reconcile_planned {
            self.is_reconcile_planned = true;
            self.queue
                .push(now + self.pace.before_retry, Event::Reconcile);
        }
    }

    /// All idle drivers say so. Put off while some have not been answered since the last time.
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
            Activity::Desynced => self.wait_at(place, position, position, now),
            Activity::Idle => {
                self.fleet[place].disputed = false;
                self.record(place, DriverStatus::Idle, position, None);
            }
            // Sent on a ride since it was asked.
            Activity::EnRoute(_) | Activity::OnTrip(_) => {}
        }
    }
}
