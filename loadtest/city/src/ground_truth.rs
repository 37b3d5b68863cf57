//! The city's own truth: what a perfect observer of the market would quote, at data age zero.
//!
//! The city made every driver and every rider, so it knows supply and demand without asking anybody. The arithmetic is
//! that of the services, the very functions of `marketplace`; only the way of the facts differs. What a service quotes
//! beyond this *oracle* is therefore the price of its dataflow, and a dataflow without delay must agree with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use marketplace::{
    DemandForecaster, DemandProfile, DriverState, FilterSettings, Level, MarketTime, MarketView,
    Multiplier, Position, ServiceArea, SupplyBook, SurgePolicy, Zone, ZoneLevels, surge,
};
use uuid::Uuid;

/// The window that supply and demand are forecast for: the default of the services.
pub const FORECAST_WINDOW: Duration = Duration::from_secs(5 * 60);

/// Supply and demand as the city made them.
#[derive(Debug)]
pub struct GroundTruth {
    area: Arc<ServiceArea>,
    policy: SurgePolicy,
    // A plain mutex: it is held for microseconds, by the city's loop to write and by each quote of a load to read.
    facts_lock: Mutex<Facts>,
}

/// What the truth say. Everything else follows from it.
#[derive(Debug)]
struct Facts {
    supply: SupplyBook<Uuid>,
    demand: DemandForecaster,
    /// What was written and not yet taken by [`GroundTruth::take_facts`]; only where somebody wants it.
    facts: Option<Vec<Fact>>,
}

/// One fact of the market, as it is written into the truth.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fact {
    /// What a driver does now.
    Driver(Uuid, DriverState),
    /// Where drivers are; what they do stays as it was.
    Positions(Vec<(Uuid, Position)>),
    /// So many ride requests of the window that holds this instant.
    Requests(Zone, MarketTime, u32),
}

impl Facts {
    fn write(&mut self, fact: Fact) {
        match &fact {
            Fact::Driver(driver, state) => {
                self.supply.update(*driver, *state);
            }
            Fact::Positions(reports) => self.move_drivers(reports),
            Fact::Requests(zone, at, requests) => {
                self.demand.record_count(*zone, *at, *requests);
            }
        }
        if let Some(facts) = &mut self.facts {
            facts.push(fact);
        }
    }

    fn move_drivers(&mut self, reports: &[(Uuid, Position)]) {
        for (driver, position) in reports {
            if let Some(known) = self.supply.get(driver).copied() {
                let position = *position;
                let state = DriverState { position, ..known };
                self.supply.update(*driver, state);
            }
        }
    }
}

impl GroundTruth {
    /// Empty truth. Demand counts from `observed_since`, the instant from which ride-management counts.
    pub fn new(
        area: Arc<ServiceArea>,
        profile: Arc<DemandProfile>,
        observed_since: MarketTime,
    ) -> Self {
        let demand = DemandForecaster::new(
            profile,
            area.zones(),
            FORECAST_WINDOW,
            observed_since,
            FilterSettings::default(),
        );
        let supply = SupplyBook::new(Arc::clone(&area));
        Self {
            area,
            policy: SurgePolicy::default(),
            facts_lock: Mutex::new(Facts {
                supply,
                demand,
                facts: None,
            }),
        }
    }

    /// The same truth, which from now on remember what is written into them until it is taken.
    pub(crate) fn remembering_facts(self) -> Self {
        self.facts_lock().facts = Some(Vec::new());
        self
    }

    /// What was written since this was last asked, in order. Others who write it into truth of their own have the same.
    pub(crate) fn take_facts(&self) -> Vec<Fact> {
        let mut facts_lock = self.facts_lock();
        facts_lock
            .facts
            .as_mut()
            .map_or_else(Vec::new, std::mem::take)
    }

    /// Writes down a fact.
    pub(crate) fn write(&self, fact: Fact) {
        self.facts_lock().write(fact);
    }

    /// The multiplier that is right at this instant; `None` for a zone that is not served.
    pub fn multiplier(&self, zone: Zone, now: MarketTime) -> Option<Multiplier> {
        surge::multiplier(&self.view(zone, now)?, &self.policy)
    }

    /// The right multiplier of every zone. Cheaper than one by one: each level is looked up once, not once for each ring
    /// that it is part of.
    pub(crate) fn multipliers(&self, now: MarketTime) -> HashMap<Zone, Multiplier> {
        let levels = self.levels(self.area.zones(), now);
        let levels: HashMap<Zone, ZoneLevels> =
            levels.map(|levels| (levels.zone, levels)).collect();
        let multiplier = |zone: &Zone| {
            let ring = self.area.k_ring(*zone)?.zones();
            let zones = ring.iter().map(|zone| levels[zone]).collect();
            let multiplier = surge::multiplier(&MarketView { zones }, &self.policy)?;
            Some((*zone, multiplier))
        };
        self.area.zones().iter().filter_map(multiplier).collect()
    }

    /// Predicted available drivers of the zone.
    pub fn supply(&self, zone: Zone, now: MarketTime) -> f64 {
        self.facts_lock().supply.supply(zone, now, FORECAST_WINDOW)
    }

    /// Expected requests of the zone.
    pub fn demand(&self, zone: Zone, now: MarketTime) -> f64 {
        self.facts_lock().demand.forecast(zone, now)
    }

    /// Writes down what a driver does now.
    pub fn driver_changed(&self, driver: Uuid, state: DriverState) {
        self.write(Fact::Driver(driver, state));
    }

    /// Writes down where drivers are; what they do stays as it was.
    pub fn positions_reported(&self, reports: &[(Uuid, Position)]) {
        self.write(Fact::Positions(reports.to_vec()));
    }

    /// The position that the driver reported last.
    pub fn reported_position(&self, driver: Uuid) -> Option<Position> {
        self.facts_lock()
            .supply
            .get(&driver)
            .map(|state| state.position)
    }

    /// Counts a ride request, served or not.
    pub fn ride_requested(&self, zone: Zone, at: MarketTime) {
        self.write(Fact::Requests(zone, at, 1));
    }

    /// Takes over what was counted before these truth were opened: so many requests of the window that starts then.
    pub fn requests_counted(&self, zone: Zone, window_start: MarketTime, requests: u32) {
        self.write(Fact::Requests(zone, window_start, requests));
    }

    /// Whom a dispatch without delay would send.
    pub(crate) fn nearest_idle(&self, from: Position) -> Option<(Uuid, Position)> {
        self.facts_lock()
            .supply
            .nearest_idle(from, 1)
            .first()
            .copied()
    }

    /// The zones the truth are kept for.
    pub fn area(&self) -> &Arc<ServiceArea> {
        &self.area
    }

    /// The market around the zone, every level as of now.
    fn view(&self, zone: Zone, now: MarketTime) -> Option<MarketView> {
        let zones = self.area.k_ring(zone)?.zones();
        Some(MarketView {
            zones: self.levels(zones, now).collect(),
        })
    }

    fn levels(&self, zones: &[Zone], now: MarketTime) -> impl Iterator<Item = ZoneLevels> {
        let mut facts_lock = self.facts_lock();
        let demands = facts_lock.demand.forecasts(zones, now);
        let level = |value| Some(Level { value, as_of: now });
        let levels = zones.iter().zip(demands).map(|(zone, demand)| ZoneLevels {
            zone: *zone,
            supply: level(facts_lock.supply.supply(*zone, now, FORECAST_WINDOW)),
            demand: level(demand),
        });
        let levels: Vec<ZoneLevels> = levels.collect();
        levels.into_iter()
    }

    /// Nothing is written in two steps, so a panic of another holder leaves nothing half done.
    fn facts_lock(&self) -> MutexGuard<'_, Facts> {
        self.facts_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use marketplace::{Bounds, DriverStatus, Dropoff};

    use super::*;

    /// A service area of a single zone: Grand Central, without neighbours to smooth with.
    fn one_zone() -> (Arc<ServiceArea>, Zone) {
        let zone = Zone::at(grand_central());
        let (lat, lon) = (zone.centre().lat(), zone.centre().lon());
        let bounds = Bounds::new(lat - 0.001, lon - 0.001, lat + 0.001, lon + 0.001).unwrap();
        let area = ServiceArea::new(bounds);
        assert_eq!(area.zones(), [zone]);
        (Arc::new(area), zone)
    }

    fn grand_central() -> Position {
        Position::new(40.7527, -73.9772).unwrap()
    }

    fn minute(minute: i64) -> MarketTime {
        MarketTime::from_millis(minute * 60_000)
    }

    /// GroundTruth that expect one request an hour, opened at minute zero.
    fn ground_truth() -> (GroundTruth, Zone) {
        let (area, zone) = one_zone();
        let profile = DemandProfile::flat(area.zones());
        (GroundTruth::new(area, Arc::new(profile), minute(0)), zone)
    }

    fn idle(position: Position) -> DriverState {
        DriverState {
            status: DriverStatus::Idle,
            position,
            dropoff: None,
        }
    }

    #[test]
    fn supply_is_who_is_idle_and_who_drops_off_soon() {
        let (truth, zone) = ground_truth();
        let (waiting, driving) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let on_trip = |minutes| DriverState {
            status: DriverStatus::OnTrip,
            position: grand_central(),
            dropoff: Some(Dropoff {
                zone: Some(zone),
                due_at: minute(minutes),
            }),
        };
        truth.driver_changed(waiting, idle(grand_central()));
        truth.driver_changed(driving, on_trip(8));
        assert_eq!(truth.supply(zone, minute(1)), 1.0);
        assert_eq!(truth.supply(zone, minute(3)), 2.0);

        let boston = Position::new(42.36, -71.06).unwrap();
        truth.positions_reported(&[(waiting, boston)]);
        assert_eq!(truth.supply(zone, minute(3)), 1.0);
    }

    #[test]
    fn the_oracle_agrees_with_a_sum_on_paper() {
        let (truth, zone) = ground_truth();
        for _ in 0..60 {
            truth.ride_requested(zone, minute(2));
        }
        // One request an hour expected: 1/12 a window, of which 2/5 have passed at minute 2. The only zone is the
        // whole city: rc = (60 + 20) / (1/30 + 20), level = (60 + 15 rc) / (1/30 + 15) = 7.974.
        let rc: f64 = 80.0 / (20.0 + 1.0 / 30.0);
        let demand = (60.0 + 15.0 * rc) / (15.0 + 1.0 / 30.0) / 12.0;
        assert!((truth.demand(zone, minute(2)) - demand).abs() < 1e-3);
        assert!((demand - 0.664).abs() < 1e-3, "{demand}");
        // R = 3.2 (1 - exp(-0.664 / 3.2)) = 0.60; no driver: rho = (0.664 + 0.60 + 2) / 2 = 1.63.
        let surging = truth.multiplier(zone, minute(2)).unwrap();
        assert_eq!(surging.tenths(), 16);
        // One driver: 3.26 / 3 = 1.09; two: 0.82.
        truth.driver_changed(Uuid::from_u128(1), idle(grand_central()));
        assert_eq!(truth.multiplier(zone, minute(2)).unwrap().tenths(), 11);
        truth.driver_changed(Uuid::from_u128(2), idle(grand_central()));
        assert_eq!(truth.multiplier(zone, minute(2)), Some(Multiplier::ONE));
    }

    #[test]
    fn books_that_take_over_a_count_expect_what_those_who_counted_expect() {
        let ((counting, zone), (taking_over, _)) = (ground_truth(), ground_truth());
        for at in [minute(2), minute(4), minute(6)] {
            counting.ride_requested(zone, at);
        }
        taking_over.requests_counted(zone, minute(0), 2);
        taking_over.requests_counted(zone, minute(5), 1);
        // The window from minute 5 on is open still, and goes on being counted.
        for truth in [&counting, &taking_over] {
            truth.ride_requested(zone, minute(7));
        }
        let at = minute(9);
        assert_eq!(taking_over.demand(zone, at), counting.demand(zone, at));
    }

    #[test]
    fn who_writes_the_journal_of_books_into_others_has_the_same() {
        let (area, zone) = one_zone();
        let profile = Arc::new(DemandProfile::flat(area.zones()));
        let open = || GroundTruth::new(Arc::clone(&area), Arc::clone(&profile), minute(0));
        let (kept, copied) = (open().remembering_facts(), open());
        let driver = Uuid::from_u128(1);
        kept.driver_changed(driver, idle(grand_central()));
        kept.ride_requested(zone, minute(1));
        kept.positions_reported(&[(driver, Position::new(42.36, -71.06).unwrap())]);
        let facts = kept.take_facts();
        assert_eq!(facts.len(), 3);
        facts.into_iter().for_each(|fact| copied.write(fact));
        assert_eq!(kept.take_facts(), []);
        assert_eq!(copied.supply(zone, minute(2)), kept.supply(zone, minute(2)));
        assert_eq!(copied.demand(zone, minute(2)), kept.demand(zone, minute(2)));
        assert_eq!(
            copied.reported_position(driver),
            kept.reported_position(driver)
        );
    }

    #[test]
    fn all_multipliers_at_once_are_those_asked_one_by_one() {
        let area = Arc::new(ServiceArea::new(
            Bounds::new(40.70, -74.0, 40.78, -73.94).unwrap(),
        ));
        let profile = DemandProfile::flat(area.zones());
        let truth = GroundTruth::new(Arc::clone(&area), Arc::new(profile), minute(0));
        let busy = area.zones()[1];
        (0..60).for_each(|_| truth.ride_requested(busy, minute(2)));
        let all = truth.multipliers(minute(3));
        assert_eq!(all.len(), area.len());
        for (zone, multiplier) in &all {
            assert_eq!(truth.multiplier(*zone, minute(3)), Some(*multiplier));
        }
        assert!(all[&busy] > Multiplier::ONE);
    }

    #[test]
    fn a_zone_that_is_not_served_has_no_price() {
        let (truth, _) = ground_truth();
        let boston = Zone::at(Position::new(42.36, -71.06).unwrap());
        assert_eq!(truth.multiplier(boston, minute(1)), None);
    }
}
