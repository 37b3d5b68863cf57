//! The ground truth: the multiplier that an observer with perfect and current knowledge would
//! compute.
//!
//! **How this works.** The city created every driver and every rider, so it knows supply and demand
//! without a question to anybody. Whenever a service has accepted a change, the city records it
//! here as a [`Fact`]. The arithmetic is that of the services, the functions of `marketplace`:
//!
//! ```text
//! service:  change -> table, events, calls -> levels of some age -> multiplier     what was quoted
//! city:     change -> Fact ------------------> levels of age zero -> multiplier    the oracle
//! ```
//!
//! If a quoted multiplier differs from the oracle's, the dataflow is the cause. A dataflow without
//! delay must agree with the oracle.

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
    // A std mutex: the city's loop holds it for microseconds to record a fact, and each quote of a
    // load to read.
    market: Mutex<KnownMarket>,
}

/// One fact of the market.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fact {
    /// The activity and position of a driver.
    Driver(Uuid, DriverState),
    /// Positions of drivers at this moment, whose activity stays.
    Positions(MarketTime, Vec<(Uuid, Position)>),
    /// A number of ride requests in the window that holds this moment.
    Requests(Zone, MarketTime, u32),
}

/// The sum of all facts.
#[derive(Debug)]
struct KnownMarket {
    supply: SupplyBook<Uuid>,
    demand: DemandForecaster,
    /// The facts since the last [`GroundTruth::take_facts`], where somebody takes them.
    recent: Option<Vec<Fact>>,
}

impl KnownMarket {
    fn record(&mut self, fact: Fact) {
        match &fact {
            Fact::Driver(driver, state) => {
                self.supply.update(*driver, *state);
            }
            Fact::Positions(at, reports) => self.move_drivers(*at, reports),
            Fact::Requests(zone, at, requests) => {
                self.demand.record_count(*zone, *at, *requests);
            }
        }
        if let Some(recent) = &mut self.recent {
            recent.push(fact);
        }
    }

    fn move_drivers(&mut self, reported_at: MarketTime, reports: &[(Uuid, Position)]) {
        for (driver, position) in reports {
            if let Some(known) = self.supply.get(driver).copied() {
                let state = DriverState {
                    position: *position,
                    reported_at,
                    ..known
                };
                self.supply.update(*driver, state);
            }
        }
    }
}

impl GroundTruth {
    /// A market without drivers. Demand counts from `observed_since`, as ride-management counts.
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
            market: Mutex::new(KnownMarket {
                supply,
                demand,
                recent: None,
            }),
        }
    }

    /// The same, and it keeps every new fact until [`GroundTruth::take_facts`].
    pub(crate) fn keeping_facts(self) -> Self {
        self.market().recent = Some(Vec::new());
        self
    }

    /// The facts since the last call, in order.
    pub(crate) fn take_facts(&self) -> Vec<Fact> {
        let mut market = self.market();
        market.recent.as_mut().map_or_else(Vec::new, std::mem::take)
    }

    /// Records a fact.
    pub(crate) fn record(&self, fact: Fact) {
        self.market().record(fact);
    }

    /// The right multiplier at this moment; `None` for a zone outside the service area.
    pub fn multiplier(&self, zone: Zone, now: MarketTime) -> Option<Multiplier> {
        let zones = self.area.k_ring(zone)?.zones();
        let zones = self.levels(zones, now);
        surge::multiplier(&MarketView { zones }, &self.policy)
    }

    /// The right multiplier of every zone.
    pub(crate) fn multipliers(&self, now: MarketTime) -> HashMap<Zone, Multiplier> {
        self.multipliers_of(&self.levels(self.area.zones(), now))
    }

    /// The right multiplier of every zone, from levels of all zones.
    pub(crate) fn multipliers_of(&self, levels: &[ZoneLevels]) -> HashMap<Zone, Multiplier> {
        let levels: HashMap<Zone, ZoneLevels> =
            levels.iter().map(|levels| (levels.zone, *levels)).collect();
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
        self.market().supply.supply(zone, now, FORECAST_WINDOW)
    }

    /// Expected requests of the zone.
    pub fn demand(&self, zone: Zone, now: MarketTime) -> f64 {
        self.market().demand.forecast(zone, now)
    }

    /// Records the activity and position of a driver.
    pub fn driver_changed(&self, driver: Uuid, state: DriverState) {
        self.record(Fact::Driver(driver, state));
    }

    /// Records positions of drivers, whose activity stays.
    pub fn positions_reported(&self, at: MarketTime, reports: &[(Uuid, Position)]) {
        self.record(Fact::Positions(at, reports.to_vec()));
    }

    /// The driver as the services know it.
    pub fn driver(&self, driver: Uuid) -> Option<DriverState> {
        self.market().supply.get(&driver).copied()
    }

    /// Counts a ride request, served or not.
    pub fn ride_requested(&self, zone: Zone, at: MarketTime) {
        self.record(Fact::Requests(zone, at, 1));
    }

    /// Adds requests that ride-management counted before the city began, in the window that starts
    /// then.
    pub fn requests_counted(&self, zone: Zone, window_start: MarketTime, requests: u32) {
        self.record(Fact::Requests(zone, window_start, requests));
    }

    /// The driver that a dispatch without delay would send.
    pub(crate) fn nearest_idle(&self, from: Position, now: MarketTime) -> Option<(Uuid, Position)> {
        let nearest = self.market().supply.nearest_idle(from, 1, now);
        nearest.first().copied()
    }

    /// The zones of the market.
    pub fn area(&self) -> &Arc<ServiceArea> {
        &self.area
    }

    /// Supply and demand of these zones, as of now.
    pub(crate) fn levels(&self, zones: &[Zone], now: MarketTime) -> Vec<ZoneLevels> {
        let mut market = self.market();
        let demands = market.demand.forecasts(zones, now);
        let level = |value| Some(Level { value, as_of: now });
        let levels = zones.iter().zip(demands).map(|(zone, demand)| ZoneLevels {
            zone: *zone,
            supply: level(market.supply.supply(*zone, now, FORECAST_WINDOW)),
            demand: level(demand),
        });
        levels.collect()
    }

    /// A fact is recorded in one step, so a holder that panicked left nothing half done.
    fn market(&self) -> MutexGuard<'_, KnownMarket> {
        self.market.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A ground truth that expects one request per hour and starts at minute zero.
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
            reported_at: minute(0),
        }
    }

    #[test]
    fn supply_counts_idle_and_soon_idle_drivers() {
        let (truth, zone) = ground_truth();
        let (waiting, driving) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let on_trip = |minutes| DriverState {
            status: DriverStatus::OnTrip,
            position: grand_central(),
            dropoff: Some(Dropoff {
                zone: Some(zone),
                due_at: minute(minutes),
            }),
            reported_at: minute(0),
        };
        truth.driver_changed(waiting, idle(grand_central()));
        truth.driver_changed(driving, on_trip(8));
        assert_eq!(truth.supply(zone, minute(1)), 1.0);
        assert_eq!(truth.supply(zone, minute(3)), 2.0);

        assert_eq!(truth.supply(zone, minute(15)), 0.0, "both fell silent");

        let boston = Position::new(42.36, -71.06).unwrap();
        truth.positions_reported(minute(3), &[(waiting, boston)]);
        assert_eq!(truth.supply(zone, minute(3)), 1.0);
    }

    #[test]
    fn oracle_agrees_with_a_paper_calculation() {
        let (truth, zone) = ground_truth();
        for _ in 0..60 {
            truth.ride_requested(zone, minute(2));
        }
        // One request an hour expected: 1/12 a window, of which 2/5 have passed at minute 2. The
        // only zone is the whole city: rc = (60 + 20) / (1/30 + 20), level = (60 + 15 rc) / (1/30 +
        // 15) = 7.974.
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
    fn adopted_counts_give_the_same_forecast() {
        let ((counting, zone), (taking_over, _)) = (ground_truth(), ground_truth());
        for at in [minute(2), minute(4), minute(6)] {
            counting.ride_requested(zone, at);
        }
        taking_over.requests_counted(zone, minute(0), 2);
        taking_over.requests_counted(zone, minute(5), 1);
        // The window from minute 5 on is still open, and counts on.
        for truth in [&counting, &taking_over] {
            truth.ride_requested(zone, minute(7));
        }
        let at = minute(9);
        assert_eq!(taking_over.demand(zone, at), counting.demand(zone, at));
    }

    #[test]
    fn replayed_facts_give_the_same_market() {
        let (area, zone) = one_zone();
        let profile = Arc::new(DemandProfile::flat(area.zones()));
        let open = || GroundTruth::new(Arc::clone(&area), Arc::clone(&profile), minute(0));
        let (kept, copied) = (open().keeping_facts(), open());
        let driver = Uuid::from_u128(1);
        kept.driver_changed(driver, idle(grand_central()));
        kept.ride_requested(zone, minute(1));
        kept.positions_reported(
            minute(2),
            &[(driver, Position::new(42.36, -71.06).unwrap())],
        );
        let facts = kept.take_facts();
        assert_eq!(facts.len(), 3);
        facts.into_iter().for_each(|fact| copied.record(fact));
        assert_eq!(kept.take_facts(), []);
        assert_eq!(copied.supply(zone, minute(2)), kept.supply(zone, minute(2)));
        assert_eq!(copied.demand(zone, minute(2)), kept.demand(zone, minute(2)));
        assert_eq!(copied.driver(driver), kept.driver(driver));
    }

    #[test]
    fn all_multipliers_equal_the_single_ones() {
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
    fn zone_outside_the_area_has_no_multiplier() {
        let (truth, _) = ground_truth();
        let boston = Zone::at(Position::new(42.36, -71.06).unwrap());
        assert_eq!(truth.multiplier(boston, minute(1)), None);
    }
}
