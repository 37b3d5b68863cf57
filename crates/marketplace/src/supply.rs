//! Supply: where the drivers are, what they do, and how many of them a zone will have in the coming
//! window.
//!
//! ```text
//! offline <-> idle -> en_route -> on_trip -> idle     a driver is supply of a zone
//!             ^^^^                ^^^^^^^             idle there, or with a drop-off due there
//! ```
//!
//! The forecast is simple on purpose: idle drivers plus drop-offs that are due inside the window.
//! Dispatch knows the trips under way, and no public data set shows supply, so a finer model could
//! not be tested.
//!
//! A driver's word is not believed for ever: phones run empty, and cars drive into tunnels and
//! home. See [`SILENCE_LIMIT`] and [`PICKUP_GRACE`].

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::MarketTime;
use crate::zone::{Position, ServiceArea, Zone};

/// For how long a driver who says nothing is still believed. After that the driver is no supply and
/// is not sent to rides, until the next report.
///
/// It is the age at which a price stops believing its data ([`Freshness`](crate::Freshness)): at
/// the ten miles per hour of a New York evening the car may be two zones away by then. Apps report
/// every few seconds, so this is no hiccup of the network.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(15 * 60);

/// How long after the expected pickup a ride is taken from its driver and given to another.
///
/// The patience of riders has a median of 8 minutes and is log-normal with a sigma of 0.4, as in
/// the simulated city: 95 of 100 do not wait 15 minutes.
pub const PICKUP_GRACE: Duration = Duration::from_secs(15 * 60);

/// Predicted available drivers: those idle, plus the drop-offs due after `now - window` and up to
/// `now + window`.
///
/// A trip may run a little late and still free its car soon. A trip overdue by more than a window
/// has no driver who reports, and is not supply.
pub fn predicted_available(
    idle: usize,
    dropoffs_due_at: impl IntoIterator<Item = MarketTime>,
    now: MarketTime,
    window: Duration,
) -> f64 {
    let is_due = |due_at: &MarketTime| now - window < *due_at && *due_at <= now + window;
    (idle + dropoffs_due_at.into_iter().filter(is_due).count()) as f64
}

/// What a driver is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum DriverStatus {
    /// Not working.
    Offline,
    /// Online without a rider: available now.
    Idle,
    /// On the way to a rider.
    EnRoute,
    /// With a rider in the car.
    OnTrip,
}

impl DriverStatus {
    /// All statuses, in the order of a driver's day.
    pub const ALL: [Self; 4] = [Self::Offline, Self::Idle, Self::EnRoute, Self::OnTrip];

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Idle => "idle",
            Self::EnRoute => "en_route",
            Self::OnTrip => "on_trip",
        }
    }

    /// Whether a drop-off lies ahead.
    pub const fn is_on_a_ride(self) -> bool {
        matches!(self, Self::EnRoute | Self::OnTrip)
    }
}

impl fmt::Display for DriverStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DriverStatus {
    type Err = DriverStatusError;

    fn from_str(text: &str) -> Result<Self, DriverStatusError> {
        let named = Self::ALL.into_iter().find(|status| status.as_str() == text);
        named.ok_or_else(|| DriverStatusError {
            text: text.to_owned(),
        })
    }
}

/// For JSON, where the derived form would also take `{"idle":null}`.
impl TryFrom<String> for DriverStatus {
    type Error = DriverStatusError;

    fn try_from(text: String) -> Result<Self, DriverStatusError> {
        text.parse()
    }
}

/// The text names no driver status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("status `{text}` is not one of offline, idle, en_route, on_trip")]
pub struct DriverStatusError {
    text: String,
}

/// Where and when a ride under way will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropoff {
    /// The zone of the destination; `None` outside the service area.
    pub zone: Option<Zone>,
    /// When the car is expected to be free again.
    pub due_at: MarketTime,
}

/// Everything supply needs to know of one driver.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DriverState {
    /// What the driver is doing.
    pub status: DriverStatus,
    /// The last reported position.
    pub position: Position,
    /// The end of the ride under way; counts only while the status says that there is one.
    pub dropoff: Option<Dropoff>,
    /// When the driver last reported.
    pub reported_at: MarketTime,
}

impl DriverState {
    /// Whether the driver reported lately enough to be believed at `now`.
    pub fn is_recent(&self, now: MarketTime) -> bool {
        is_recent(self.reported_at, now)
    }
}

fn is_recent(reported_at: MarketTime, now: MarketTime) -> bool {
    reported_at + SILENCE_LIMIT > now
}

/// All drivers, indexed by zone, so that a quote and a dispatch find them quickly.
///
/// A driver outside the service area is kept but is supply of no zone.
#[derive(Debug, Clone)]
pub struct SupplyBook<Id> {
    area: Arc<ServiceArea>,
    drivers: HashMap<Id, DriverState>,
    by_zone: Vec<ZoneDrivers<Id>>,
}

impl<Id: Ord + Copy + Hash> SupplyBook<Id> {
    /// An empty book for the area.
    pub fn new(area: Arc<ServiceArea>) -> Self {
        let by_zone = (0..area.len()).map(|_| ZoneDrivers::default()).collect();
        Self {
            area,
            drivers: HashMap::new(),
            by_zone,
        }
    }

    /// Sets the driver's state and returns the previous one.
    pub fn update(&mut self, id: Id, state: DriverState) -> Option<DriverState> {
        let previous = self.remove(&id);
        self.enter(id, &state);
        self.drivers.insert(id, state);
        previous
    }

    /// Forgets the driver.
    pub fn remove(&mut self, id: &Id) -> Option<DriverState> {
        let state = self.drivers.remove(id)?;
        self.leave(id, &state);
        Some(state)
    }

    /// The last known state of a driver.
    pub fn get(&self, id: &Id) -> Option<&DriverState> {
        self.drivers.get(id)
    }

    /// Predicted available drivers of the zone in `[now, now + window)`, of those who still report;
    /// see [`predicted_available`].
    pub fn supply(&self, zone: Zone, now: MarketTime, window: Duration) -> f64 {
        let Some(index) = self.area.index_of(zone) else {
            return 0.0;
        };
        let drivers = &self.by_zone[index];
        let idle = drivers.idle.values();
        let idle = idle
            .filter(|(_, reported_at)| is_recent(*reported_at, now))
            .count();
        let due = drivers.dropoffs.values();
        let due = due.filter(|(_, reported_at)| is_recent(*reported_at, now));
        predicted_available(idle, due.map(|(due_at, _)| *due_at), now, window)
    }

    /// Up to `limit` idle drivers who still report, nearest first; equally near ones in the order
    /// of their ids.
    ///
    /// The search goes outward zone by zone and ends when no further zone can hold a nearer driver.
    /// Its cost depends on the density of drivers, not on the size of the fleet.
    pub fn nearest_idle(
        &self,
        from: Position,
        limit: usize,
        now: MarketTime,
    ) -> Vec<(Id, Position)> {
        let mut nearest = Nearest::new(from, limit);
        for (zone, least_miles) in self.area.outward_from(from) {
            if least_miles > nearest.worth_miles() {
                break;
            }
            for (id, (position, reported_at)) in &self.by_zone[zone].idle {
                if is_recent(*reported_at, now) {
                    nearest.offer(*id, *position);
                }
            }
        }
        nearest
            .found
            .into_iter()
            .map(|(_, id, position)| (id, position))
            .collect()
    }

    /// How many drivers are in each status; every status is present.
    pub fn counts(&self) -> BTreeMap<DriverStatus, usize> {
        let mut counts = BTreeMap::from(DriverStatus::ALL.map(|status| (status, 0)));
        for state in self.drivers.values() {
            *counts.entry(state.status).or_default() += 1;
        }
        counts
    }

    /// How many drivers are known, offline ones included.
    pub fn len(&self) -> usize {
        self.drivers.len()
    }

    /// Whether no driver is known.
    pub fn is_empty(&self) -> bool {
        self.drivers.is_empty()
    }

    /// All drivers, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &DriverState)> {
        self.drivers.iter().map(|(id, state)| (*id, state))
    }

    fn enter(&mut self, id: Id, state: &DriverState) {
        match self.place_of(state) {
            Some(SupplyPlace::Idle(zone)) => {
                let idle = (state.position, state.reported_at);
                self.by_zone[zone].idle.insert(id, idle);
            }
            Some(SupplyPlace::Dropoff(zone, due_at)) => {
                let dropoff = (due_at, state.reported_at);
                self.by_zone[zone].dropoffs.insert(id, dropoff);
            }
            None => {}
        }
    }

    fn leave(&mut self, id: &Id, state: &DriverState) {
        match self.place_of(state) {
            Some(SupplyPlace::Idle(zone)) => {
                self.by_zone[zone].idle.remove(id);
            }
            Some(SupplyPlace::Dropoff(zone, _)) => {
                self.by_zone[zone].dropoffs.remove(id);
            }
            None => {}
        }
    }

    /// In which zone, if any, this state makes a driver count.
    fn place_of(&self, state: &DriverState) -> Option<SupplyPlace> {
        if state.status == DriverStatus::Idle {
            return self
                .area
                .index_of(Zone::at(state.position))
                .map(SupplyPlace::Idle);
        }
        let dropoff = state.dropoff.filter(|_| state.status.is_on_a_ride())?;
        let zone = self.area.index_of(dropoff.zone?)?;
        Some(SupplyPlace::Dropoff(zone, dropoff.due_at))
    }
}

/// The drivers that are supply of one zone. The maps are ordered, so that every run visits them in
/// the same order.
#[derive(Debug, Clone)]
struct ZoneDrivers<Id> {
    /// The position of each, and when it was reported.
    idle: BTreeMap<Id, (Position, MarketTime)>,
    /// When each is due, and when the driver last reported.
    dropoffs: BTreeMap<Id, (MarketTime, MarketTime)>,
}

impl<Id> Default for ZoneDrivers<Id> {
    fn default() -> Self {
        Self {
            idle: BTreeMap::new(),
            dropoffs: BTreeMap::new(),
        }
    }
}

/// The nearest drivers found so far.
struct Nearest<Id> {
    from: Position,
    limit: usize,
    /// Nearest first, equally near ones by id.
    found: Vec<(f64, Id, Position)>,
}

impl<Id: Ord + Copy> Nearest<Id> {
    fn new(from: Position, limit: usize) -> Self {
        Self {
            from,
            limit,
            found: Vec::new(),
        }
    }

    /// A driver further away than this is of no interest.
    fn worth_miles(&self) -> f64 {
        if self.found.len() < self.limit {
            return f64::INFINITY;
        }
        self.found
            .last()
            .map_or(f64::NEG_INFINITY, |(miles, ..)| *miles)
    }

    fn offer(&mut self, id: Id, position: Position) {
        // Most drivers of a dense zone are ruled out here, without trigonometry.
        if self.from.least_miles_to(position) > self.worth_miles() {
            return;
        }
        let miles = self.from.miles_to(position);
        let nearer = |(other_miles, other, _): &(f64, Id, Position)| {
            other_miles.total_cmp(&miles).then(other.cmp(&id)).is_lt()
        };
        let rank = self.found.partition_point(nearer);
        self.found.insert(rank, (miles, id, position));
        self.found.truncate(self.limit);
    }
}

/// Where a driver counts: by index of the zone in the area.
enum SupplyPlace {
    Idle(usize),
    Dropoff(usize, MarketTime),
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::zone::Bounds;

    const NOW: MarketTime = MarketTime::from_millis(1_396_641_600_000);
    const WINDOW: Duration = Duration::from_secs(300);

    fn midtown() -> Position {
        Position::new(40.7527, -73.9772).unwrap()
    }

    fn state(status: DriverStatus, position: Position) -> DriverState {
        DriverState {
            status,
            position,
            dropoff: None,
            reported_at: NOW,
        }
    }

    fn on_trip(due_at: MarketTime) -> DriverState {
        let dropoff = Dropoff {
            zone: Some(Zone::at(midtown())),
            due_at,
        };
        DriverState {
            status: DriverStatus::OnTrip,
            position: midtown(),
            dropoff: Some(dropoff),
            reported_at: NOW,
        }
    }

    /// Made once: hundreds of random fleets drive in it.
    static AREA: LazyLock<Arc<ServiceArea>> =
        LazyLock::new(|| Arc::new(ServiceArea::new(Bounds::NEW_YORK)));

    fn book() -> SupplyBook<u32> {
        SupplyBook::new(AREA.clone())
    }

    #[test]
    fn dropoff_counts_one_window_either_side() {
        let available = |due_at| predicted_available(2, [due_at], NOW, WINDOW);
        let one_ms = Duration::from_millis(1);
        assert_eq!(available(NOW), 3.0);
        assert_eq!(available(NOW + WINDOW), 3.0);
        assert_eq!(available(NOW + WINDOW + one_ms), 2.0);
        assert_eq!(available(NOW - WINDOW + one_ms), 3.0);
        assert_eq!(available(NOW - WINDOW), 2.0);
    }

    #[test]
    fn driver_is_supply_when_idle_or_due() {
        let mut book = book();
        let zone = Zone::at(midtown());
        let supply = |book: &SupplyBook<u32>| book.supply(zone, NOW, WINDOW);
        assert_eq!(book.update(1, state(DriverStatus::Idle, midtown())), None);
        assert_eq!(supply(&book), 1.0);
        book.update(1, state(DriverStatus::EnRoute, midtown()));
        assert_eq!(supply(&book), 0.0);
        book.update(1, on_trip(NOW + Duration::from_secs(60)));
        assert_eq!(supply(&book), 1.0);
        book.update(1, state(DriverStatus::Offline, midtown()));
        assert_eq!(supply(&book), 0.0);
        assert!(book.remove(&1).is_some() && book.is_empty());
    }

    #[test]
    fn silent_driver_is_no_supply() {
        let mut book = book();
        let silent_at = NOW + SILENCE_LIMIT;
        book.update(1, state(DriverStatus::Idle, midtown()));
        book.update(2, on_trip(silent_at));
        let one_ms = Duration::from_millis(1);
        let supply = |now| book.supply(Zone::at(midtown()), now, WINDOW);
        assert_eq!(supply(silent_at - one_ms), 2.0);
        assert_eq!(supply(silent_at), 0.0);
        assert_eq!(book.nearest_idle(midtown(), 1, silent_at - one_ms).len(), 1);
        assert_eq!(book.nearest_idle(midtown(), 1, silent_at), []);
    }

    #[test]
    fn idle_driver_with_old_dropoff_counts_once() {
        let mut book = book();
        book.update(
            1,
            DriverState {
                status: DriverStatus::Idle,
                ..on_trip(NOW)
            },
        );
        assert_eq!(book.supply(Zone::at(midtown()), NOW, WINDOW), 1.0);
    }

    #[test]
    fn driver_outside_area_is_not_offered() {
        let mut book = book();
        book.update(
            1,
            state(DriverStatus::Idle, Position::new(42.36, -71.06).unwrap()),
        );
        assert_eq!(book.counts()[&DriverStatus::Idle], 1);
        assert_eq!(book.nearest_idle(midtown(), 5, NOW), vec![]);
    }

    #[test]
    fn equally_near_drivers_come_by_id() {
        let mut book = book();
        for id in [3, 1, 2] {
            book.update(id, state(DriverStatus::Idle, midtown()));
        }
        let ids: Vec<u32> = book
            .nearest_idle(midtown(), 2, NOW)
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        assert_eq!(ids, [1, 2]);
        assert!(book.nearest_idle(midtown(), 0, NOW).is_empty());
    }

    #[test]
    fn statuses_read_back_as_written() {
        for status in DriverStatus::ALL {
            assert_eq!(status.to_string().parse(), Ok(status));
            assert_eq!(
                serde_json::to_string(&status).unwrap(),
                format!("\"{status}\"")
            );
        }
        let refused = "asleep".parse::<DriverStatus>().unwrap_err().to_string();
        assert!(refused.contains("offline, idle, en_route, on_trip"));
    }

    proptest! {
        #[test]
        fn nearest_drivers_equal_a_full_search(
            places in prop::collection::vec((40.60..40.90, -74.08..-73.70), 0..80),
            from in (40.60..40.90, -74.08..-73.70),
            limit in 0_usize..12,
        ) {
            let mut book = book();
            for (id, (lat, lon)) in places.into_iter().enumerate() {
                book.update(id as u32, state(DriverStatus::Idle, Position::new(lat, lon).unwrap()));
            }
            let from = Position::new(from.0, from.1).unwrap();
            let mut all: Vec<(f64, u32)> = book
                .iter()
                .filter(|(_, driver)| book.area.zone_of(driver.position).is_ok())
                .map(|(id, driver)| (from.miles_to(driver.position), id))
                .collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let expected: Vec<u32> = all.into_iter().take(limit).map(|(_, id)| id).collect();
            let found = book.nearest_idle(from, limit, NOW);
            let found: Vec<u32> = found.into_iter().map(|(id, _)| id).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
