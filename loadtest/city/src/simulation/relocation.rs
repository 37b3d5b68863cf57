//! Where idle drivers go: to a more expensive neighbour zone, or to where riders appear.

use std::time::Duration;

use marketplace::{MarketTime, Position, Zone};
use rand::Rng;

use super::Simulation;
use crate::driver;
use crate::random::Subject;
use crate::replay::MINUTE;

impl Simulation {
    /// Once per minute, some idle drivers follow a more expensive neighbour zone, and drivers who
    /// waited long go to where riders appear.
    pub(super) fn relocate(&mut self, now: MarketTime) {
        const RESTLESS_AFTER: Duration = Duration::from_secs(5 * 60);
        const SHARE_WHO_FOLLOW_SURGE: f64 = 0.15;
        let minute = now.window_index(MINUTE).unsigned_abs();
        for place in 0..self.fleet.len() {
            let driver = &self.fleet[place];
            if !driver.has_waited(Duration::ZERO, now) {
                continue;
            }
            let rng = &mut self.streams.of(Subject::Driver, driver.number, minute);
            let here = driver.leg.position(now);
            let follows = rng.random_bool(SHARE_WHO_FOLLOW_SURGE);
            if let Some(zone) = self.more_expensive_neighbour(here).filter(|_| follows) {
                self.fleet[place].head_for(zone.centre(), now);
            } else if driver.has_waited(RESTLESS_AFTER, now) {
                let target = driver::relocation_target(here, &self.places, rng);
                self.fleet[place].head_for(target, now);
            }
        }
    }

    /// The most expensive neighbour zone, if its multiplier is at least 0.2 above that of this
    /// zone.
    pub(super) fn more_expensive_neighbour(&self, here: Position) -> Option<Zone> {
        const WORTH_THE_WAY_TENTHS: u16 = 2;
        let ring = self.area.k_ring(Zone::at(here))?;
        let tenths = |zone: &Zone| self.published.get(zone).map(|published| published.tenths());
        let own = tenths(&ring.centre())?;
        let highest = ring.neighbours().iter().max_by_key(|zone| tenths(zone))?;
        (tenths(highest)? >= own + WORTH_THE_WAY_TENTHS).then_some(*highest)
    }
}
