//! The gamma-Poisson filter: the requests of the last hours move the profile up or down.
//!
//! # How this works
//!
//! The profile says how many requests `B` a zone usually gets in a window. Today may be busier or
//! quieter by a factor, the zone's *level*. The number of requests `y` in a window is then Poisson
//! with mean `level * B`. A gamma distribution describes what is known of the level, and each
//! window updates it by two sums that fade with a half-life:
//!
//! ```text
//! a <- d a + y,  b <- d b + B                d = 0.5^(window / half-life)
//! forecast = B (a + k0 rc) / (b + k0)
//! rc = (A + kc) / (Bc + kc)                  the same sums over the whole city
//! ```
//!
//! `k0` and `kc` are pseudo-requests. A zone with few requests follows the city (`rc`), a busy one
//! follows its own, and without any data the forecast is the profile. The open window enters with
//! the share that has passed, so that a request counts at once and the forecast does not jump when
//! the window closes:
//!
//! ```text
//! windows   |  closed  |  closed  |  closed  |  open .now         |
//! weight       d^2.4      d^1.4      d^0.4      1, B times 0.4
//! ```
//!
//! A forecast depends only on the counts per window and on `now`. A live service that counts events
//! and a batch job that reads a table of counts therefore forecast the same, to the last bit, in
//! any order of arrival. For that, the sums over closed windows always start at the oldest window;
//! they are kept until the next window closes or a request arrives for a closed one.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::DemandProfile;
use super::window_counts::WindowCounts;
use crate::new_york;
use crate::time::{MarketTime, WEEK_MILLIS, millis_of};
use crate::zone::Zone;

/// How quickly the filter learns and forgets, and how much it trusts the city. The defaults were
/// chosen on pickups of July 2014.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FilterSettings {
    /// Time after which a request counts half.
    pub half_life: Duration,
    /// Expected requests that a zone must have had to trust itself as much as the city: `k0`.
    pub zone_pseudo_requests: f64,
    /// Expected requests that the city must have had to trust itself as much as its profile: `kc`.
    pub city_pseudo_requests: f64,
    /// Counts older than this are ignored. After 24 half-lives nothing is left of them anyway, and
    /// a limit makes what must be stored, and read again after a restart, finite.
    pub memory: Duration,
}

impl Default for FilterSettings {
    fn default() -> Self {
        Self {
            half_life: Duration::from_secs(60 * 60),
            zone_pseudo_requests: 15.0,
            city_pseudo_requests: 20.0,
            memory: Duration::from_secs(24 * 3600),
        }
    }
}

/// Forecasts the requests of the coming window from a profile and the requests of the last day.
#[derive(Debug, Clone)]
pub struct DemandForecaster {
    profile: Arc<DemandProfile>,
    zones: Vec<Zone>,
    indices: HashMap<Zone, usize>,
    window: Duration,
    settings: FilterSettings,
    /// The window in which counting began, and the share of it that had passed by then.
    first_window: i64,
    missed_of_first: f64,
    /// The profile in windows of this forecaster: per zone, the city last, one number per slot of
    /// the week.
    expected: Vec<Vec<f64>>,
    counts: WindowCounts,
    closed: ClosedSums,
}

impl DemandForecaster {
    /// A forecaster without requests. Counting began at `observed_since`: before that, zero
    /// requests mean that nobody counted. Pass the same time when you rebuild a forecaster from a
    /// table.
    ///
    /// # Panics
    /// If the window does not divide an hour; the calendar grid would not fit the week.
    pub fn new(
        profile: Arc<DemandProfile>,
        zones: &[Zone],
        window: Duration,
        observed_since: MarketTime,
        settings: FilterSettings,
    ) -> Self {
        let divides_an_hour = millis_of(window) > 0 && 3_600_000 % millis_of(window) == 0;
        assert!(
            divides_an_hour,
            "a window of {window:?} does not divide an hour"
        );
        let indices: HashMap<Zone, usize> = zones
            .iter()
            .enumerate()
            .map(|(index, zone)| (*zone, index))
            .collect();
        let expected = weeks_ahead(&profile, zones, window);
        let first_window = observed_since.window_index(window);
        let kept_windows = 2 * (millis_of(settings.memory) / millis_of(window)) + 1;
        Self {
            profile,
            zones: zones.to_vec(),
            indices,
            window,
            settings,
            first_window,
            missed_of_first: share_passed(first_window, observed_since, window),
            expected,
            counts: WindowCounts::new(zones.len() + 1, kept_windows),
            closed: ClosedSums::default(),
        }
    }

    /// Continues with a newer profile. The counts stay and are compared with its expectations.
    pub fn adopt(&mut self, profile: Arc<DemandProfile>) {
        self.expected = weeks_ahead(&profile, &self.zones, self.window);
        self.profile = profile;
        self.closed.sums.clear();
    }

    /// Counts one request. A late request counts in its own window; one older than the memory, or
    /// in a zone that is not served, is ignored.
    pub fn record(&mut self, zone: Zone, at: MarketTime) {
        self.record_count(zone, at, 1);
    }

    /// Counts `count` more requests of the window that starts at `window_start`, for instance a row
    /// of a table of counts.
    pub fn record_count(&mut self, zone: Zone, window_start: MarketTime, count: u32) {
        let Some(&index) = self.indices.get(&zone) else {
            return;
        };
        let window = window_start.window_index(self.window);
        for column in [index, self.city()] {
            self.counts.add(window, column, count);
        }
        // A late request changes a closed window, and one from far ahead drops the oldest ones.
        if window != self.closed.open {
            self.closed.sums.clear();
        }
    }

    /// The requests of the zone that a forecast at `now` uses: the start and the count of each
    /// window that had any, oldest first. At most one entry per window of the memory, and one for
    /// the open window.
    ///
    /// A second forecaster with the same profile, zones, window and `observed_since` that
    /// [records](Self::record_count) these counts of every zone forecasts the same.
    pub fn counts(&self, zone: Zone, now: MarketTime) -> Vec<(MarketTime, u32)> {
        let Some(&index) = self.indices.get(&zone) else {
            return Vec::new();
        };
        let open = now.window_index(self.window);
        self.closed_windows(open)
            .chain([open])
            .map(|window| (window, self.counts.get(window, index)))
            .filter(|(_, requests)| *requests > 0)
            .map(|(window, requests)| (MarketTime::of_window(window, self.window), requests))
            .collect()
    }

    /// Expected requests of the zone in `[now, now + window)`; zero for a zone that is not served.
    pub fn forecast(&mut self, zone: Zone, now: MarketTime) -> f64 {
        self.forecasts(&[zone], now)[0]
    }

    /// The forecast of several zones, in their order. Cheaper than one by one: the city is added up
    /// only once.
    pub fn forecasts(&mut self, zones: &[Zone], now: MarketTime) -> Vec<f64> {
        let time = self.time_of(now);
        let city_ratio = self.city_ratio(&time);
        let forecast = |zone: &Zone| match self.indices.get(zone) {
            Some(&index) => self.forecast_of(*zone, index, &time, city_ratio),
            None => 0.0,
        };
        zones.iter().map(forecast).collect()
    }

    fn forecast_of(
        &mut self,
        zone: Zone,
        index: usize,
        time: &ForecastTime,
        city_ratio: f64,
    ) -> f64 {
        let seen = self.faded(index, time);
        let pseudo = self.settings.zone_pseudo_requests;
        let level = (seen.requests + pseudo * city_ratio) / (seen.expected + pseudo);
        self.profile.expected_in(zone, &time.ahead) * level
    }

    /// How busy the city is, compared to its profile.
    fn city_ratio(&mut self, time: &ForecastTime) -> f64 {
        let seen = self.faded(self.city(), time);
        let pseudo = self.settings.city_pseudo_requests;
        (seen.requests + pseudo) / (seen.expected + pseudo)
    }

    fn time_of(&self, now: MarketTime) -> ForecastTime {
        let open = now.window_index(self.window);
        let passed = share_passed(open, now, self.window);
        ForecastTime {
            ahead: self.profile.overlaps(now, self.window),
            open,
            slot: self.slot_of(open),
            fade: self.fade(passed),
            observed: self.observed_until(open, passed),
        }
    }

    /// The faded sums at that moment: all closed windows, then the part of the open one that has
    /// passed.
    fn faded(&mut self, column: usize, time: &ForecastTime) -> Faded {
        let seen = self.counts.get(time.open, column);
        let expected = self.expected[column][time.slot] * time.observed;
        self.closed(column, time.open)
            .after(time.fade, seen, expected)
    }

    /// The faded sums when that window opened: computed at the first call, then remembered.
    fn closed(&mut self, column: usize, open: i64) -> Faded {
        if self.closed.open != open || self.closed.sums.is_empty() {
            let windows = self.closed_windows(open);
            let with_slot = |window| (window, self.slot_of(window));
            self.closed = ClosedSums {
                open,
                windows: windows.map(with_slot).collect(),
                sums: vec![None; self.expected.len()],
            };
        }
        if let Some(sums) = self.closed.sums[column] {
            return sums;
        }
        let sums = self.added_up(column);
        self.closed.sums[column] = Some(sums);
        sums
    }

    fn added_up(&self, column: usize) -> Faded {
        let fade = self.fade(1.0);
        let mut sums = Faded::default();
        for &(window, slot) in &self.closed.windows {
            let seen = self.counts.get(window, column);
            let expected = self.expected[column][slot] * self.observed_until(window, 1.0);
            sums = sums.after(fade, seen, expected);
        }
        sums
    }

    /// The closed windows within memory, oldest first.
    fn closed_windows(&self, open: i64) -> Range<i64> {
        let remembered = millis_of(self.settings.memory) / millis_of(self.window);
        let first = (open - remembered).max(self.first_window);
        first..open
    }

    /// The share of a window in which requests were counted, up to the point where `passed` of it
    /// has passed.
    fn observed_until(&self, window: i64, passed: f64) -> f64 {
        match window.cmp(&self.first_window) {
            Ordering::Less => 0.0,
            Ordering::Equal => (passed - self.missed_of_first).max(0.0),
            Ordering::Greater => passed,
        }
    }

    fn fade(&self, windows: f64) -> f64 {
        0.5_f64.powf(windows * self.window.as_secs_f64() / self.settings.half_life.as_secs_f64())
    }

    fn slot_of(&self, window: i64) -> usize {
        new_york::slot_of_week(MarketTime::of_window(window, self.window), self.window)
    }

    /// The column of the whole city, after those of the zones.
    fn city(&self) -> usize {
        self.zones.len()
    }
}

/// The share of a window that has passed at `now`.
fn share_passed(index: i64, now: MarketTime, window: Duration) -> f64 {
    let passed = MarketTime::of_window(index, window).age_of(now);
    (passed.as_secs_f64() / window.as_secs_f64()).min(1.0)
}

/// The values that depend on the time alone, computed once for all zones.
#[derive(Debug, Clone)]
struct ForecastTime {
    /// The slots of the profile in the window that begins now.
    ahead: Vec<(usize, f64)>,
    open: i64,
    /// Of the open window: its slot of the week, the fade of older requests, and the share in which
    /// requests were counted.
    slot: usize,
    fade: f64,
    observed: f64,
}

/// The faded sums over all windows before the open one, for the columns that were asked for.
#[derive(Debug, Clone, Default)]
struct ClosedSums {
    open: i64,
    /// Each with its slot of the week, which is the same for all columns.
    windows: Vec<(i64, usize)>,
    /// Empty when none is known.
    sums: Vec<Option<Faded>>,
}

/// Requests seen and requests that the profile expected, both faded: `a` and `b` of the filter.
#[derive(Debug, Clone, Copy, Default)]
struct Faded {
    requests: f64,
    expected: f64,
}

impl Faded {
    fn after(self, fade: f64, requests: u32, expected: f64) -> Self {
        Self {
            requests: fade * self.requests + f64::from(requests),
            expected: fade * self.expected + expected,
        }
    }
}

/// The expectation of each zone, and of the city last, for every window of the week.
fn weeks_ahead(profile: &DemandProfile, zones: &[Zone], window: Duration) -> Vec<Vec<f64>> {
    let slots = 0..WEEK_MILLIS / millis_of(window);
    let monday = new_york::a_monday();
    let starts: Vec<Vec<(usize, f64)>> = slots
        .map(|slot| MarketTime::from_millis(monday.millis() + slot * millis_of(window)))
        .map(|start| profile.overlaps(start, window))
        .collect();
    let week_of = |zone: &Zone| {
        starts
            .iter()
            .map(|overlaps| profile.expected_in(*zone, overlaps))
            .collect()
    };
    let mut weeks: Vec<Vec<f64>> = zones.iter().map(week_of).collect();
    let city = (0..starts.len())
        .map(|slot| weeks.iter().map(|week| week[slot]).sum())
        .collect();
    weeks.push(city);
    weeks
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::zone::{Bounds, ServiceArea};

    const WINDOW: Duration = Duration::from_secs(300);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn friday() -> MarketTime {
        "2014-04-04T16:00:00-04:00".parse().unwrap()
    }

    static ZONES: LazyLock<Vec<Zone>> = LazyLock::new(|| {
        ServiceArea::new(Bounds::new(40.70, -74.00, 40.76, -73.94).unwrap()).zones()[..3].to_vec()
    });

    fn zones() -> Vec<Zone> {
        ZONES.clone()
    }

    /// Made once, for hundreds of random histories.
    static COUNTING_FOR_A_DAY: LazyLock<DemandForecaster> = LazyLock::new(|| {
        let profile = Arc::new(DemandProfile::flat(&zones()));
        let settings = FilterSettings::default();
        DemandForecaster::new(profile, &zones(), WINDOW, friday() - DAY, settings)
    });

    fn forecaster() -> DemandForecaster {
        COUNTING_FOR_A_DAY.clone()
    }

    #[test]
    fn forecast_without_requests_is_the_profile() {
        let profile = Arc::new(DemandProfile::flat(&zones()));
        let mut new = DemandForecaster::new(
            profile,
            &zones(),
            WINDOW,
            friday(),
            FilterSettings::default(),
        );
        assert!((new.forecast(zones()[0], friday()) - 1.0 / 12.0).abs() < 1e-12);
    }

    #[test]
    fn request_raises_its_own_zone_most() {
        let mut forecaster = forecaster();
        let before = forecaster.forecasts(&zones(), friday());
        forecaster.record(zones()[0], friday());
        let after = forecaster.forecasts(&zones(), friday());
        assert!(after[0] - before[0] > after[1] - before[1]);
        assert!(after[1] > before[1]);
    }

    #[test]
    fn busy_day_raises_forecast_part_way() {
        let mut forecaster = forecaster();
        for minute in 1..=24 * 60 {
            if minute % 30 == 0 {
                let at = friday() - Duration::from_secs(60 * minute);
                zones().iter().for_each(|zone| forecaster.record(*zone, at));
            }
        }
        let ratio = forecaster.forecast(zones()[0], friday()) * 12.0;
        assert!((1.1..2.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn silence_lowers_forecast_above_zero() {
        let silent = forecaster().forecast(zones()[0], friday());
        assert!(0.0 < silent && silent < 1.0 / 12.0);
    }

    #[test]
    fn forecast_is_continuous_across_windows() {
        let mut forecaster = forecaster();
        forecaster.record(zones()[0], friday() + Duration::from_secs(10));
        let one_ms = Duration::from_millis(1);
        let before = forecaster.forecast(zones()[0], friday() + WINDOW - one_ms);
        let after = forecaster.forecast(zones()[0], friday() + WINDOW);
        assert!((before - after).abs() < 1e-6, "{before} {after}");
    }

    #[test]
    fn requests_older_than_memory_are_forgotten() {
        let mut forecaster = forecaster();
        let silent = forecaster.forecast(zones()[0], friday());
        forecaster.record(zones()[0], friday() - DAY - WINDOW);
        forecaster.record(zones()[0], friday() - DAY * 40);
        assert_eq!(forecaster.forecast(zones()[0], friday()), silent);
    }

    #[test]
    fn request_far_ahead_drops_oldest_windows() {
        let (before, ahead) = (friday() - Duration::from_secs(7_200), friday() + DAY * 2);
        let mut asked = forecaster();
        asked.record(zones()[0], before);
        asked.forecasts(&zones(), friday());
        asked.record(zones()[1], ahead);
        let mut successor = forecaster();
        successor.record(zones()[1], ahead);
        successor.record(zones()[0], before);
        assert_eq!(
            asked.forecasts(&zones(), friday()),
            successor.forecasts(&zones(), friday())
        );
    }

    #[test]
    fn forecaster_rebuilt_from_counts_is_equal() {
        let mut forecaster = forecaster();
        for (zone, minutes_ago) in [(0, 0), (0, 1), (1, 7), (2, 90), (2, 91)] {
            let at = friday() - Duration::from_secs(60 * minutes_ago);
            forecaster.record(zones()[zone], at);
        }
        forecaster.record(zones()[0], friday() - DAY - WINDOW);
        assert_eq!(
            forecaster.counts(zones()[0], friday()),
            [(friday() - WINDOW, 1), (friday(), 1)]
        );

        let mut successor = COUNTING_FOR_A_DAY.clone();
        for zone in zones() {
            for (window_start, requests) in forecaster.counts(zone, friday()) {
                successor.record_count(zone, window_start, requests);
            }
        }
        let later = friday() + Duration::from_secs(600);
        assert_eq!(
            successor.forecasts(&zones(), later),
            forecaster.forecasts(&zones(), later)
        );
        let boston = Zone::at(crate::zone::Position::new(42.36, -71.06).unwrap());
        assert_eq!(forecaster.counts(boston, friday()), []);
    }

    #[test]
    fn years_of_silence_cost_no_memory() {
        let mut forecaster = forecaster();
        for year in 0..20 {
            forecaster.record(zones()[0], friday() + DAY * 365 * year);
        }
        assert!(forecaster.forecast(zones()[0], friday() + DAY * 365 * 19) > 0.0);
    }

    #[test]
    fn unserved_zone_expects_nothing() {
        let mut forecaster = forecaster();
        let boston = "872a30660ffffff".parse().unwrap();
        forecaster.record(boston, friday());
        assert_eq!(forecaster.forecast(boston, friday()), 0.0);
    }

    #[test]
    fn forecast_follows_adopted_profile() {
        let mut forecaster = forecaster();
        let before = forecaster.forecast(zones()[0], friday());
        let span = friday() - DAY..friday();
        let settings = super::super::ProfileSettings::default();
        let rush: Vec<_> = (0..500)
            .map(|minute| (friday() - Duration::from_secs(minute * 60), zones()[0]))
            .collect();
        forecaster.adopt(Arc::new(DemandProfile::train(
            &rush,
            &zones(),
            span,
            &settings,
        )));
        assert!(forecaster.forecast(zones()[0], friday()) > before);
    }

    proptest! {
        /// So the batch job, which reads a table of counts, quotes the price of the live service.
        #[test]
        fn events_and_counts_forecast_equal_bits(
            events in prop::collection::vec((0_usize..3, 0_u64..24 * 3600), 0..60),
            asked in 0_u64..300_000,
        ) {
            let now = friday() + Duration::from_millis(asked);
            let mut live = forecaster();
            let mut table = std::collections::BTreeMap::<(i64, usize), u32>::new();
            for (zone, seconds_ago) in events {
                let at = friday() - Duration::from_secs(seconds_ago);
                live.record(zones()[zone], at);
                live.forecast(zones()[zone], now);
                *table.entry((at.window_index(WINDOW), zone)).or_default() += 1;
            }
            let mut rebuilt = forecaster();
            for ((window, zone), count) in table {
                rebuilt.record_count(zones()[zone], MarketTime::of_window(window, WINDOW), count);
            }
            for zone in zones() {
                let both = (live.forecast(zone, now), rebuilt.forecast(zone, now));
                prop_assert_eq!(both.0.to_bits(), both.1.to_bits());
            }
        }
    }
}
