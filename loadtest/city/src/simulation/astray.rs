//! Drivers of whom the services and the city think differently, because an answer was lost: how they are found out, and
//! how they are brought back.

use marketplace::{DriverStatus, MarketTime, Position};
use uuid::Uuid;

use super::{Event, Simulation};
use crate::driver::Doing;
use crate::errands::Errand;

impl Simulation {
    /// The service has sent a driver somewhere who knows nothing of it. The news may still be on its way; if they have not
    /// come by the next roll call, their answer was lost.
    pub(super) fn disputed(&mut self, driver: Uuid, now: MarketTime) -> Option<Errand> {
        let place = self.place_of(driver)?;
        let driver = &mut self.fleet[place];
        if driver.doing != Doing::Idle {
            return None;
        }
        if driver.disputed {
            driver.doing = Doing::Astray;
            return self.bring_back(place, now);
        }
        driver.disputed = true;
        self.plan_roll_call(now);
        None
    }

    /// The service would not take what the driver of a ride said, so the ride is lost. A driver who has been sent on another
    /// one since then is where it should be.
    pub(super) fn astray(&mut self, driver: Uuid, ride: Uuid, now: MarketTime) {
        self.tally.lost += 1;
        if let Some((place, _)) = self.on_ride(driver, ride) {
            self.fleet[place].doing = Doing::Astray;
            self.still_astray(driver, now);
        }
    }

    /// After a while the driver is brought back, or that is tried again.
    pub(super) fn still_astray(&mut self, driver: Uuid, now: MarketTime) {
        if let Some(place) = self.place_of(driver) {
            let retry_at = now + self.pace.before_retry;
            self.agenda.enter(retry_at, Event::BringBack(place));
        }
    }

    pub(super) fn bring_back(&self, place: usize, now: MarketTime) -> Option<Errand> {
        let driver = &self.fleet[place];
        (driver.doing == Doing::Astray).then(|| Errand::BringBack {
            driver: driver.id,
            position: driver.leg.position(now),
        })
    }

    pub(super) fn plan_roll_call(&mut self, now: MarketTime) {
        if !self.is_roll_call_planned {
            self.is_roll_call_planned = true;
            self.agenda
                .enter(now + self.pace.before_retry, Event::RollCall);
        }
    }

    /// All idle drivers say so. Put off while some have not been answered since the last time.
    pub(super) fn call_the_roll(&mut self, now: MarketTime) -> Vec<Errand> {
        self.is_roll_call_planned = false;
        if self.confirms_under_way > 0 {
            self.plan_roll_call(now);
            return Vec::new();
        }
        let idle = self
            .fleet
            .iter()
            .filter(|driver| driver.doing == Doing::Idle);
        let confirms = idle.map(|driver| Errand::Confirm {
            driver: driver.id,
            position: driver.leg.position(now),
        });
        let confirms: Vec<_> = confirms.collect();
        self.confirms_under_way = confirms.len();
        confirms
    }

    pub(super) fn is_idle(&mut self, driver: Uuid, position: Position, now: MarketTime) {
        let Some(place) = self.place_of(driver) else {
            return;
        };
        match self.fleet[place].doing {
            Doing::Astray => self.wait_at(place, position, position, now),
            Doing::Idle => {
                self.fleet[place].disputed = false;
                self.book(place, DriverStatus::Idle, position, None);
            }
            // Sent on a ride since it was asked.
            Doing::EnRoute(_) | Doing::OnTrip(_) => {}
        }
    }
}
