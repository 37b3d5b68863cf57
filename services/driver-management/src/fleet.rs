//! The fleet in memory: where every driver is and what they do, from which the service answers how
//! much supply a zone has and who is the nearest idle driver.
//!
//! # How this works
//!
//! PostgreSQL is the authority for every change of status; the fleet is updated after the commit.
//! Positions go the other way: they come here first, and `position_writer` writes them in batches.
//! What other replicas write arrives by `fleet_follower`. A driver's newest version and newest
//! position win, in whatever order they arrive.
//!
//! Between a reservation and the end of its transaction, memory and table may differ. So an idle
//! driver is in one of three states here:
//!
//! ```text
//!               reserve_nearest             made: the row says en_route
//!   available ──────────────────▶ reserved ─────────────────────────────▶ on a ride
//!       ▲  ▲                       │    │
//!       │  └────── not made ───────┘    │ no outcome: the answer was lost, or the caller left
//!       │                               ▼
//!       └───── the row is read ───── in doubt
//! ```
//!
//! Only available drivers are sent to rides. A change of any other driver can come into doubt too.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use marketplace::{
    supply::{DriverState, DriverStatus, SupplyBook},
    time::MarketTime,
    zone::{Position, ServiceArea, Zone},
};
use platform::clock::MarketClock;
use uuid::Uuid;

use crate::driver::Driver;

/// All drivers, as this replica knows them.
#[derive(Debug)]
pub struct Fleet {
    area: Arc<ServiceArea>,
    clock: MarketClock,
    // A std mutex: it is locked for microseconds, and never across an await.
    state: Mutex<FleetState>,
}

#[derive(Debug)]
struct FleetState {
    book: SupplyBook<Uuid>,
    /// The version of each driver's row that the fleet knows.
    versions: HashMap<Uuid, i64>,
    /// Drivers whose position is not in the table yet.
    moved: HashSet<Uuid>,
    reserved: HashSet<Uuid>,
    /// Drivers in doubt, each with the number of changes without an outcome so far.
    in_doubt: HashMap<Uuid, u32>,
    /// Whether a driver came into doubt since the follower asked last.
    has_new_doubt: bool,
    /// Up to when this replica has read what the others wrote; `None` while there is no other.
    peers_as_of: Option<MarketTime>,
}

/// A reported position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DriverPosition {
    /// Who reported it.
    pub driver_id: Uuid,
    /// The position.
    pub position: Position,
    /// When it was reported, in market time.
    pub moved_at: MarketTime,
}

/// The supply of some zones at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct SupplySnapshot {
    /// The moment, in market time.
    pub as_of: MarketTime,
    /// The zones, in the order in which they were asked for.
    pub zones: Vec<ZoneSupply>,
}

/// The supply of one zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZoneSupply {
    /// The zone.
    pub zone: Zone,
    /// S: drivers predicted to be available during the next window.
    pub predicted: f64,
    /// Drivers idle at the moment itself.
    pub idle: u64,
}

impl Fleet {
    /// A fleet without drivers.
    pub fn new(area: Arc<ServiceArea>, clock: MarketClock) -> Self {
        let state = FleetState {
            book: SupplyBook::new(area.clone()),
            versions: HashMap::new(),
            moved: HashSet::new(),
            reserved: HashSet::new(),
            in_doubt: HashMap::new(),
            has_new_doubt: false,
            peers_as_of: None,
        };
        Self {
            area,
            clock,
            state: Mutex::new(state),
        }
    }

    /// Updates a driver from its row. A row older than what the fleet knows changes nothing.
    pub fn update(&self, driver: &Driver) {
        self.lock().update(driver, &self.area);
    }

    /// Updates drivers that other replicas wrote: all their changes up to `peers_as_of`.
    pub fn follow(&self, drivers: &[Driver], peers_as_of: Option<MarketTime>) {
        // One lock for each driver, so that no request waits for a whole fleet.
        for driver in drivers {
            self.update(driver);
        }
        self.lock().peers_as_of = peers_as_of;
    }

    /// Moves a driver; false when the driver is unknown or offline.
    pub fn move_driver(&self, driver_id: Uuid, position: Position) -> bool {
        let mut state = self.lock();
        // The clock is read under the lock: then a report is never older than an earlier snapshot.
        let moved_at = self.now();
        state.move_driver(DriverPosition {
            driver_id,
            position,
            moved_at,
        })
    }

    /// The supply of `zones` as of now, or as of what this replica has read from the others.
    pub fn supply(&self, zones: &[Zone], window: Duration) -> SupplySnapshot {
        let state = self.lock();
        let now = self.now();
        let as_of = state.peers_as_of.map_or(now, |peers| peers.min(now));
        let supply_of = |zone: &Zone| ZoneSupply {
            zone: *zone,
            predicted: state.book.supply(*zone, as_of, window),
            // No drop-off is due within a window of zero: only the idle drivers count.
            idle: state.book.supply(*zone, as_of, Duration::ZERO) as u64,
        };
        let zones = zones.iter().map(supply_of).collect();
        SupplySnapshot { as_of, zones }
    }

    /// Reserves the nearest available driver but for some.
    pub fn reserve_nearest(
        &self,
        pickup: Position,
        excluded: &[Uuid],
    ) -> Option<ReservedDriver<'_>> {
        let mut state = self.lock();
        // All whom it may not be may be nearer than the first whom it may.
        let limit = 1 + state.reserved.len() + state.in_doubt.len() + excluded.len();
        let nearest = state.book.nearest_idle(pickup, limit, self.now());
        let (driver_id, position) = nearest
            .into_iter()
            .find(|(id, _)| state.is_available(id) && !excluded.contains(id))?;
        state.reserved.insert(driver_id);
        Some(ReservedDriver {
            driver_id,
            position,
            change: self.pending(driver_id, true),
        })
    }

    /// Announces a change of `driver_id` in the table.
    pub const fn expect_change(&self, driver_id: Uuid) -> PendingChange<'_> {
        self.pending(driver_id, false)
    }

    /// Takes the positions that are not in the table yet, and the moment up to which they are all.
    pub fn take_positions(&self) -> (MarketTime, Vec<DriverPosition>) {
        let mut state = self.lock();
        let as_of = self.now();
        let moved = std::mem::take(&mut state.moved);
        let positions = moved.into_iter().filter_map(|id| state.last_position(id));
        let mut positions: Vec<DriverPosition> = positions.collect();
        // Replicas that update rows in the same order cannot wait for each other in a circle.
        positions.sort_unstable_by_key(|reported| reported.driver_id);
        (as_of, positions)
    }

    /// Gives back positions that could not be written. A driver who has moved on since then is
    /// written with the newer position.
    pub fn put_back(&self, positions: &[DriverPosition]) {
        let ids = positions.iter().map(|reported| reported.driver_id);
        self.lock().moved.extend(ids);
    }

    /// The drivers in doubt, each with the number of changes without an outcome so far.
    pub fn in_doubt(&self) -> HashMap<Uuid, u32> {
        self.lock().in_doubt.clone()
    }

    /// Whether a driver came into doubt since the last call. Reading its row again may come too
    /// early: the change may take effect later.
    pub fn take_new_doubt(&self) -> bool {
        std::mem::take(&mut self.lock().has_new_doubt)
    }

    /// Ends the doubt about drivers whose rows were read after `in_doubt` was taken, but for those
    /// with another change without an outcome since then.
    pub fn resolve(&self, in_doubt: &HashMap<Uuid, u32>) {
        let mut state = self.lock();
        let is_unresolved = |id: &Uuid, changes: &mut u32| in_doubt.get(id) != Some(changes);
        state.in_doubt.retain(is_unresolved);
    }

    /// The number of drivers in each status.
    pub fn counts(&self) -> impl Iterator<Item = (DriverStatus, usize)> + use<> {
        self.lock().book.counts().into_iter()
    }

    /// The number of known drivers, offline ones included.
    pub fn size(&self) -> usize {
        self.lock().book.len()
    }

    const fn pending(&self, driver_id: Uuid, is_reserved: bool) -> PendingChange<'_> {
        PendingChange {
            fleet: self,
            driver_id,
            is_reserved,
            has_outcome: false,
        }
    }

    fn now(&self) -> MarketTime {
        MarketTime::from_millis(self.clock.now_millis())
    }

    fn lock(&self) -> MutexGuard<'_, FleetState> {
        self.state
            .lock()
            .expect("no code panics while it holds the fleet")
    }
}

impl FleetState {
    fn update(&mut self, driver: &Driver, area: &ServiceArea) {
        let known = self.versions.get(&driver.driver_id);
        if known.is_some_and(|known| driver.version <= *known) {
            return self.update_position(driver);
        }
        let mut state = driver.state(area);
        if let Some(last) = self.last_position(driver.driver_id)
            && last.moved_at > state.reported_at
        {
            state.position = last.position;
            state.reported_at = last.moved_at;
            // The row has an older position, which may have been written over this one.
            self.moved.insert(driver.driver_id);
        }
        self.book.update(driver.driver_id, state);
        self.versions.insert(driver.driver_id, driver.version);
    }

    /// Another replica wrote a newer position, while the status stayed.
    fn update_position(&mut self, driver: &Driver) {
        let Some(state) = self.book.get(&driver.driver_id).copied() else {
            return;
        };
        if state.reported_at < driver.moved_at {
            let state = DriverState {
                position: driver.position,
                reported_at: driver.moved_at,
                ..state
            };
            self.book.update(driver.driver_id, state);
        }
    }

    fn move_driver(&mut self, report: DriverPosition) -> bool {
        let Some(state) = self.book.get(&report.driver_id).copied() else {
            return false;
        };
        if state.status == DriverStatus::Offline {
            return false;
        }
        let state = DriverState {
            position: report.position,
            reported_at: report.moved_at,
            ..state
        };
        self.book.update(report.driver_id, state);
        self.moved.insert(report.driver_id);
        true
    }

    fn last_position(&self, driver_id: Uuid) -> Option<DriverPosition> {
        let state = self.book.get(&driver_id)?;
        Some(DriverPosition {
            driver_id,
            position: state.position,
            moved_at: state.reported_at,
        })
    }

    fn is_available(&self, driver_id: &Uuid) -> bool {
        !self.reserved.contains(driver_id) && !self.in_doubt.contains_key(driver_id)
    }
}

/// An idle driver whom no other request can reserve until the change is over.
#[derive(Debug)]
pub struct ReservedDriver<'a> {
    /// The driver.
    pub driver_id: Uuid,
    /// Where the driver is.
    pub position: Position,
    /// The change to come.
    pub change: PendingChange<'a>,
}

/// A change on its way to the table. When it is dropped without an outcome, whatever the reason,
/// its driver is in doubt.
#[derive(Debug)]
#[must_use = "a change without an outcome puts its driver in doubt"]
pub struct PendingChange<'a> {
    fleet: &'a Fleet,
    driver_id: Uuid,
    is_reserved: bool,
    has_outcome: bool,
}

impl PendingChange<'_> {
    /// The change was committed, and this is the row.
    pub fn made(mut self, driver: &Driver) {
        self.fleet.update(driver);
        self.has_outcome = true;
    }

    /// The change was not made.
    pub fn not_made(mut self) {
        self.has_outcome = true;
    }
}

impl Drop for PendingChange<'_> {
    fn drop(&mut self) {
        let mut state = self.fleet.lock();
        if self.is_reserved {
            state.reserved.remove(&self.driver_id);
        }
        if !self.has_outcome {
            *state.in_doubt.entry(self.driver_id).or_default() += 1;
            state.has_new_doubt = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use marketplace::{supply::SILENCE_LIMIT, zone::Bounds};

    use super::*;

    fn fleet_of(drivers: &[Driver]) -> Fleet {
        let area = Arc::new(ServiceArea::new(Bounds::NEW_YORK));
        let fleet = Fleet::new(area, MarketClock::real_time());
        for driver in drivers {
            fleet.update(driver);
        }
        fleet
    }

    fn at(lat: f64) -> Position {
        Position::new(lat, -73.98).unwrap()
    }

    fn earlier() -> MarketTime {
        let now = MarketClock::real_time().now_millis();
        MarketTime::from_millis(now) - Duration::from_secs(60)
    }

    fn reports(driver: &Driver, status: DriverStatus) -> Driver {
        driver.reports(status, at(40.75), earlier()).unwrap()
    }

    fn idle_driver(lat: f64) -> Driver {
        let newcomer = Driver::newcomer(Uuid::now_v7(), at(lat), earlier());
        let idle = newcomer.reports(DriverStatus::Idle, at(lat), earlier());
        idle.unwrap()
    }

    #[test]
    fn reserved_driver_is_not_reserved_again() {
        let (near, far) = (idle_driver(40.75), idle_driver(40.76));
        let fleet = fleet_of(&[near, far]);

        let first = fleet.reserve_nearest(at(40.75), &[]).unwrap();
        let second = fleet.reserve_nearest(at(40.75), &[]).unwrap();
        assert_eq!(first.driver_id, near.driver_id);
        assert_eq!(second.driver_id, far.driver_id);
        assert!(fleet.reserve_nearest(at(40.75), &[]).is_none());

        first.change.not_made();
        let again = fleet.reserve_nearest(at(40.75), &[]).unwrap();
        assert_eq!(again.driver_id, near.driver_id);
        again.change.not_made();
        second.change.not_made();
    }

    #[test]
    fn silent_driver_is_sent_after_next_report() {
        let driver = idle_driver(40.75);
        let silent = Driver {
            moved_at: earlier() - SILENCE_LIMIT,
            ..driver
        };
        let fleet = fleet_of(&[silent]);
        let zones = [Zone::at(driver.position)];
        let supply = || fleet.supply(&zones, Duration::ZERO).zones[0].predicted;
        assert_eq!(supply(), 0.0);
        assert!(fleet.reserve_nearest(at(40.75), &[]).is_none());

        assert!(fleet.move_driver(driver.driver_id, driver.position));
        assert_eq!(supply(), 1.0);
        assert!(
            fleet
                .reserve_nearest(at(40.75), &[driver.driver_id])
                .is_none()
        );
        let found = fleet.reserve_nearest(at(40.75), &[]).unwrap();
        found.change.not_made();
    }

    #[test]
    fn driver_in_doubt_is_not_sent() {
        let driver = idle_driver(40.75);
        let fleet = fleet_of(&[driver]);

        drop(fleet.reserve_nearest(at(40.75), &[]));
        let in_doubt = fleet.in_doubt();
        assert_eq!(in_doubt, HashMap::from([(driver.driver_id, 1)]));
        assert!(fleet.reserve_nearest(at(40.75), &[]).is_none());

        fleet.resolve(&in_doubt);
        let reserved = fleet.reserve_nearest(at(40.75), &[]);
        reserved.unwrap().change.not_made();
    }

    #[test]
    fn doubt_during_a_read_stays() {
        let driver = idle_driver(40.75);
        let fleet = fleet_of(&[driver]);

        drop(fleet.expect_change(driver.driver_id));
        let before_the_read = fleet.in_doubt();
        drop(fleet.expect_change(driver.driver_id));
        fleet.resolve(&before_the_read);
        assert!(fleet.reserve_nearest(at(40.75), &[]).is_none());

        fleet.resolve(&fleet.in_doubt());
        assert!(fleet.in_doubt().is_empty());
    }

    #[test]
    fn newest_status_and_newest_position_win() {
        let idle = idle_driver(40.75);
        let offline = reports(&idle, DriverStatus::Offline);
        let fleet = fleet_of(&[offline, idle]);
        assert!(
            fleet.reserve_nearest(at(40.75), &[]).is_none(),
            "an old status"
        );
        assert!(!fleet.move_driver(idle.driver_id, at(40.77)), "offline");

        let back = reports(&offline, DriverStatus::Idle);
        fleet.update(&back);
        assert!(fleet.move_driver(idle.driver_id, at(40.80)));
        fleet.update(&reports(&back, DriverStatus::Idle));
        let found = fleet.reserve_nearest(at(40.75), &[]).unwrap();
        assert_eq!(found.position, at(40.80), "not that of an earlier report");
        found.change.not_made();
    }

    #[test]
    fn position_that_was_not_written_is_kept() {
        let driver = idle_driver(40.75);
        let fleet = fleet_of(&[driver]);
        assert!(fleet.move_driver(driver.driver_id, at(40.76)));

        let (_, positions) = fleet.take_positions();
        assert_eq!(positions.len(), 1);
        assert!(fleet.take_positions().1.is_empty());

        assert!(fleet.move_driver(driver.driver_id, at(40.77)));
        fleet.put_back(&positions);
        let (_, positions) = fleet.take_positions();
        assert_eq!((positions.len(), positions[0].position), (1, at(40.77)));
    }
}
