//! The fleet in memory: what GetSupply, the feed and the search for the nearest driver read.
//! PostgreSQL is the authority for every change of status; the fleet learns of it after the commit.
//! Positions come here first, and `positions` carries them to the table in batches.
//!
//! Other replicas change drivers too: `follower` brings what they wrote. What this one tells is no
//! newer than what it has heard of all of them.
//!
//! Two sets keep memory honest. *Reserved* drivers are being sent to a ride at this moment, so
//! nobody else gets them. *Doubtful* drivers had a change whose outcome we never learned (a lost
//! connection, a caller who left): they are not sent anywhere until they have been read again from
//! the table.

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

/// All drivers, as far as this process knows.
#[derive(Debug)]
pub struct Fleet {
    area: Arc<ServiceArea>,
    clock: MarketClock,
    // A std mutex: it is held for microseconds, and never across an await.
    ledger: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    book: SupplyBook<Uuid>,
    stamps: HashMap<Uuid, Stamp>,
    moved: HashSet<Uuid>,
    reserved: HashSet<Uuid>,
    /// How many doubts there are of each: one that arises while a driver is read is not cleared by
    /// that.
    doubtful: HashMap<Uuid, u32>,
    /// Whether there was a doubt since the follower asked last.
    doubted: bool,
    /// How far we know what other replicas were told; `None` while there are none.
    peers_as_of: Option<MarketTime>,
}

/// How new our knowledge of a driver is: the newest status and the newest position win, whatever
/// arrives last.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    version: i64,
    moved_at: MarketTime,
}

/// A driver's position and when it was reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    /// Who.
    pub driver_id: Uuid,
    /// Where.
    pub position: Position,
    /// When, in market time.
    pub moved_at: MarketTime,
}

/// Supply of some zones, all at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Supply {
    /// The instant, in market time.
    pub as_of: MarketTime,
    /// The zones, in the order of the question.
    pub zones: Vec<ZoneSupply>,
}

/// Supply of one zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZoneSupply {
    /// The zone.
    pub zone: Zone,
    /// S: drivers predicted to be available during the next window.
    pub predicted: f64,
    /// Drivers idle at the instant itself.
    pub idle: u64,
}

impl Fleet {
    /// A fleet without drivers.
    pub fn new(area: Arc<ServiceArea>, clock: MarketClock) -> Self {
        let ledger = Ledger {
            book: SupplyBook::new(area.clone()),
            stamps: HashMap::new(),
            moved: HashSet::new(),
            reserved: HashSet::new(),
            doubtful: HashMap::new(),
            doubted: false,
            peers_as_of: None,
        };
        Self {
            area,
            clock,
            ledger: Mutex::new(ledger),
        }
    }

    /// Takes in what the table says of a driver. What is older than our knowledge changes nothing.
    pub fn learn(&self, driver: &Driver) {
        self.lock().learn(driver, &self.area);
    }

    /// Takes in what other replicas wrote, which is all that they were told up to `peers_as_of`.
    pub fn follow(&self, drivers: &[Driver], peers_as_of: Option<MarketTime>) {
        // One driver at a time, so that whoever asks for supply meanwhile does not wait for a whole
        // fleet.
        for driver in drivers {
            self.learn(driver);
        }
        self.lock().peers_as_of = peers_as_of;
    }

    /// Takes in a position; false when the driver is unknown or offline.
    pub fn moves(&self, driver_id: Uuid, position: Position) -> bool {
        let mut ledger = self.lock();
        // Read under the lock, so that no report is older than an instant that was read before it.
        let moved_at = self.now();
        ledger.moves(Move {
            driver_id,
            position,
            moved_at,
        })
    }

    /// Supply of `zones`, as of now, or as of when other replicas have been heard.
    pub fn supply(&self, zones: &[Zone], window: Duration) -> Supply {
        let ledger = self.lock();
        let now = self.now();
        let as_of = ledger.peers_as_of.map_or(now, |heard| heard.min(now));
        let supply_of = |zone: &Zone| ZoneSupply {
            zone: *zone,
            predicted: ledger.book.supply(*zone, as_of, window),
            // No drop-off is due within no time: what is left are the idle.
            idle: ledger.book.supply(*zone, as_of, Duration::ZERO) as u64,
        };
        let zones = zones.iter().map(supply_of).collect();
        Supply { as_of, zones }
    }

    /// Reserves the nearest idle driver for the caller alone.
    pub fn reserve_nearest(&self, pickup: Position) -> Option<Reservation<'_>> {
        let mut ledger = self.lock();
        // Those withheld may all be nearer; so many more must be looked at to find one who is free.
        let limit = 1 + ledger.reserved.len() + ledger.doubtful.len();
        let nearest = ledger.book.nearest_idle(pickup, limit);
        let (driver_id, position) = nearest.into_iter().find(|(id, _)| ledger.may_be_sent(id))?;
        ledger.reserved.insert(driver_id);
        let change = self.pending(driver_id, true);
        Some(Reservation {
            driver_id,
            position,
            change,
        })
    }

    /// Announces a change of `driver_id` in the table.
    pub const fn expect_change(&self, driver_id: Uuid) -> PendingChange<'_> {
        self.pending(driver_id, false)
    }

    /// Takes the positions that the table does not have yet, and the instant up to which they are
    /// complete.
    pub fn take_moves(&self) -> (MarketTime, Vec<Move>) {
        let mut ledger = self.lock();
        let as_of = self.now();
        let moved = std::mem::take(&mut ledger.moved);
        let moves = moved.into_iter().filter_map(|id| ledger.last_move(id));
        let mut moves: Vec<Move> = moves.collect();
        // Replicas that write the same drivers in the same order cannot wait for one another in a
        // circle.
        moves.sort_unstable_by_key(|known| known.driver_id);
        (as_of, moves)
    }

    /// Gives positions back that could not be written. Their drivers may have moved on; then that
    /// is written.
    pub fn put_back(&self, moves: &[Move]) {
        let mut ledger = self.lock();
        ledger
            .moved
            .extend(moves.iter().map(|known| known.driver_id));
    }

    /// Drivers who have to be read again, each with the number of doubts so far.
    pub fn doubtful(&self) -> HashMap<Uuid, u32> {
        self.lock().doubtful.clone()
    }

    /// Whether anybody has become doubtful since this was asked last. Being read again may have
    /// been too early for such a driver: what was written may take effect after it.
    pub fn take_doubt(&self) -> bool {
        std::mem::take(&mut self.lock().doubted)
    }

    /// Drivers were read again after `doubtful` was told. Who has become doubtful once more since
    /// then stays so.
    pub fn trust_again(&self, doubtful: &HashMap<Uuid, u32>) {
        let mut ledger = self.lock();
        ledger
            .doubtful
            .retain(|driver_id, doubts| doubtful.get(driver_id) != Some(doubts));
    }

    /// How many drivers are in each status.
    pub fn counts(&self) -> impl Iterator<Item = (DriverStatus, usize)> + use<> {
        self.lock().book.counts().into_iter()
    }

    /// How many drivers are known, offline ones included.
    pub fn size(&self) -> usize {
        self.lock().book.len()
    }

    const fn pending(&self, driver_id: Uuid, reserved: bool) -> PendingChange<'_> {
        PendingChange {
            fleet: self,
            driver_id,
            reserved,
            outcome_known: false,
        }
    }

    fn now(&self) -> MarketTime {
        MarketTime::from_millis(self.clock.now_millis())
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger
            .lock()
            .expect("nothing panics while it holds the ledger")
    }
}

impl Ledger {
    fn learn(&mut self, driver: &Driver, area: &ServiceArea) {
        let known = self.stamps.get(&driver.driver_id).copied();
        if known.is_some_and(|known| driver.version <= known.version) {
            return self.learn_position(driver);
        }
        let mut state = driver.state(area);
        let mut moved_at = driver.moved_at;
        if let Some(newer) = self
            .last_move(driver.driver_id)
            .filter(|last| last.moved_at > moved_at)
        {
            state.position = newer.position;
            moved_at = newer.moved_at;
            // The row was written with an older position, perhaps over this one.
            self.moved.insert(driver.driver_id);
        }
        self.book.update(driver.driver_id, state);
        let stamp = Stamp {
            version: driver.version,
            moved_at,
        };
        self.stamps.insert(driver.driver_id, stamp);
    }

    /// A replica wrote a position that is newer than ours, while the status stayed.
    fn learn_position(&mut self, driver: &Driver) {
        let Some(stamp) = self.stamps.get_mut(&driver.driver_id) else {
            return;
        };
        let known = self.book.get(&driver.driver_id).copied();
        let Some(state) = known.filter(|_| stamp.moved_at < driver.moved_at) else {
            return;
        };
        stamp.moved_at = driver.moved_at;
        let state = DriverState {
            position: driver.position,
            ..state
        };
        self.book.update(driver.driver_id, state);
    }

    fn moves(&mut self, report: Move) -> bool {
        let Some(state) = self.book.get(&report.driver_id).copied() else {
            return false;
        };
        if state.status == DriverStatus::Offline {
            return false;
        }
        let state = DriverState {
            position: report.position,
            ..state
        };
        self.book.update(report.driver_id, state);
        if let Some(stamp) = self.stamps.get_mut(&report.driver_id) {
            stamp.moved_at = report.moved_at;
        }
        self.moved.insert(report.driver_id);
        true
    }

    fn last_move(&self, driver_id: Uuid) -> Option<Move> {
        Some(Move {
            driver_id,
            position: self.book.get(&driver_id)?.position,
            moved_at: self.stamps.get(&driver_id)?.moved_at,
        })
    }

    fn may_be_sent(&self, driver_id: &Uuid) -> bool {
        !self.reserved.contains(driver_id) && !self.doubtful.contains_key(driver_id)
    }
}

/// An idle driver who is offered to nobody else until the change is over.
#[derive(Debug)]
pub struct Reservation<'a> {
    /// Who.
    pub driver_id: Uuid,
    /// Where the driver is.
    pub position: Position,
    /// The change to come.
    pub change: PendingChange<'a>,
}

/// A change that is being written to the table. Dropped before its outcome is known, whatever the
/// reason, it leaves the driver doubtful.
#[derive(Debug)]
#[must_use = "a change whose outcome is not told makes its driver doubtful"]
pub struct PendingChange<'a> {
    fleet: &'a Fleet,
    driver_id: Uuid,
    reserved: bool,
    outcome_known: bool,
}

impl PendingChange<'_> {
    /// The change was committed.
    pub fn happened(mut self, driver: &Driver) {
        self.fleet.learn(driver);
        self.outcome_known = true;
    }

    /// The change was not made.
    pub fn did_not_happen(mut self) {
        self.outcome_known = true;
    }
}

impl Drop for PendingChange<'_> {
    fn drop(&mut self) {
        let mut ledger = self.fleet.lock();
        if self.reserved {
            ledger.reserved.remove(&self.driver_id);
        }
        if !self.outcome_known {
            *ledger.doubtful.entry(self.driver_id).or_default() += 1;
            ledger.doubted = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> Fleet {
        let area = ServiceArea::new(marketplace::zone::Bounds::NEW_YORK);
        Fleet::new(Arc::new(area), MarketClock::real_time())
    }

    fn at(lat: f64) -> Position {
        Position::new(lat, -73.98).unwrap()
    }

    fn idle_driver(lat: f64, now: MarketTime) -> Driver {
        Driver::newcomer(Uuid::now_v7(), at(lat), now)
            .reports(DriverStatus::Idle, at(lat), now)
            .unwrap()
    }

    #[test]
    fn a_reserved_driver_is_offered_once() {
        let fleet = fleet();
        let (near, far) = (
            idle_driver(40.75, fleet.now()),
            idle_driver(40.76, fleet.now()),
        );
        fleet.learn(&near);
        fleet.learn(&far);

        let first = fleet.reserve_nearest(at(40.75)).unwrap();
        let second = fleet.reserve_nearest(at(40.75)).unwrap();
        assert_eq!(
            (first.driver_id, second.driver_id),
            (near.driver_id, far.driver_id)
        );
        assert!(fleet.reserve_nearest(at(40.75)).is_none());

        first.change.did_not_happen();
        let again = fleet.reserve_nearest(at(40.75)).unwrap();
        assert_eq!(again.driver_id, near.driver_id);
        again.change.did_not_happen();
        second.change.did_not_happen();
    }

    #[test]
    fn a_driver_whose_change_has_no_known_outcome_is_withheld_until_read_again() {
        let fleet = fleet();
        let driver = idle_driver(40.75, fleet.now());
        fleet.learn(&driver);

        drop(fleet.reserve_nearest(at(40.75)));
        let doubtful = fleet.doubtful();
        assert_eq!(doubtful, HashMap::from([(driver.driver_id, 1)]));
        assert!(fleet.reserve_nearest(at(40.75)).is_none());

        fleet.trust_again(&doubtful);
        fleet
            .reserve_nearest(at(40.75))
            .unwrap()
            .change
            .did_not_happen();
    }

    #[test]
    fn a_doubt_that_arises_while_its_driver_is_read_again_stays() {
        let fleet = fleet();
        let driver = idle_driver(40.75, fleet.now());
        fleet.learn(&driver);

        drop(fleet.expect_change(driver.driver_id));
        let before_reading = fleet.doubtful();
        drop(fleet.expect_change(driver.driver_id));
        fleet.trust_again(&before_reading);
        assert!(fleet.reserve_nearest(at(40.75)).is_none());

        fleet.trust_again(&fleet.doubtful());
        assert!(fleet.doubtful().is_empty());
    }

    #[test]
    fn the_newest_status_and_the_newest_position_win() {
        let fleet = fleet();
        let yesterday = fleet.now() - Duration::from_secs(86_400);
        let idle = idle_driver(40.75, yesterday);
        let offline = idle
            .reports(DriverStatus::Offline, at(40.76), yesterday)
            .unwrap();
        fleet.learn(&offline);
        fleet.learn(&idle);
        assert!(
            fleet.reserve_nearest(at(40.75)).is_none(),
            "an old status came late"
        );
        assert!(
            !fleet.moves(idle.driver_id, at(40.77)),
            "an offline driver does not move"
        );

        let back = offline
            .reports(DriverStatus::Idle, at(40.75), yesterday)
            .unwrap();
        fleet.learn(&back);
        assert!(fleet.moves(idle.driver_id, at(40.80)));
        fleet.learn(
            &back
                .reports(DriverStatus::Idle, at(40.75), yesterday)
                .unwrap(),
        );
        let found = fleet.reserve_nearest(at(40.75)).unwrap();
        assert_eq!(
            found.position,
            at(40.80),
            "a report of yesterday moved the driver back"
        );
        found.change.did_not_happen();
    }

    #[test]
    fn moves_that_could_not_be_written_are_not_lost() {
        let fleet = fleet();
        let driver = idle_driver(40.75, fleet.now());
        fleet.learn(&driver);
        assert!(fleet.moves(driver.driver_id, at(40.76)));

        let (_, moves) = fleet.take_moves();
        assert_eq!(moves.len(), 1);
        assert!(fleet.take_moves().1.is_empty());

        assert!(fleet.moves(driver.driver_id, at(40.77)));
        fleet.put_back(&moves);
        let (_, moves) = fleet.take_moves();
        assert_eq!((moves.len(), moves[0].position), (1, at(40.77)));
    }
}
