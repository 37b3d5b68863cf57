//! Records a measurement as time series: figures per interval and mode, multipliers per zone.
//!
//! Everything is bounded: a long measurement has longer intervals, and only the busiest zones are
//! kept in the end.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::{CheckedQuote, QuoteFailure};
use hdrhistogram::Histogram;
use marketplace::{Multiplier, Zone};
use surge_proto::DataflowMode;

use super::mode_statistics::{ModeStatistics, value_at};
use crate::report::{CurvePoint, Interval, ZoneSeries};

/// Ten minutes are recorded second by second, an hour by six seconds.
const MOST_INTERVALS: u32 = 600;

/// Zones that keep a time series of their own.
const BUSIEST: usize = 6;

#[derive(Debug)]
pub(crate) struct TimeSeries {
    interval_s: u32,
    intervals: usize,
    // Std mutexes: held for a few additions, never across an await. One per mode, so that modes do
    // not wait for each other.
    modes: BTreeMap<DataflowMode, Mutex<Vec<ModeStatistics>>>,
    zones: Mutex<BTreeMap<Zone, ZoneSeries>>,
}

impl TimeSeries {
    pub(crate) fn new(modes: &[DataflowMode], seconds: u32) -> Self {
        let interval_s = seconds.div_ceil(MOST_INTERVALS).max(1);
        Self {
            interval_s,
            intervals: seconds.div_ceil(interval_s) as usize,
            modes: modes.iter().map(|&mode| (mode, Mutex::default())).collect(),
            zones: Mutex::default(),
        }
    }

    /// Adds the outcome of a quote to the interval in which it was due, counted from the beginning
    /// of the measurement.
    pub(crate) fn add(
        &self,
        due: Duration,
        mode: DataflowMode,
        latency: Duration,
        outcome: &Result<CheckedQuote, QuoteFailure>,
        oracle: Option<Multiplier>,
    ) {
        let interval = (due.as_secs() / u64::from(self.interval_s)) as usize;
        let Some(statistics) = self.modes.get(&mode).filter(|_| interval < self.intervals) else {
            return;
        };
        let mut statistics = locked(statistics);
        entry(&mut statistics, interval, ModeStatistics::coarse).add(due, latency, outcome, oracle);
        drop(statistics);
        if let Ok(quoted) = outcome {
            let mut zones = locked(&self.zones);
            let zone = zones.entry(quoted.zone).or_insert_with(|| ZoneSeries {
                zone: quoted.zone,
                quotes: 0,
                oracle: Vec::new(),
                quoted: BTreeMap::new(),
            });
            zone.quotes += 1;
            let series = zone.quoted.entry(mode).or_default();
            *entry(series, interval, || None) = Some(quoted.multiplier);
            if oracle.is_some() {
                *entry(&mut zone.oracle, interval, || None) = oracle;
            }
        }
    }

    /// Length of an interval; 0 when nothing was recorded.
    pub(crate) fn interval_s(&self) -> u32 {
        let empty = self
            .modes
            .values()
            .all(|intervals| locked(intervals).is_empty());
        if empty { 0 } else { self.interval_s }
    }

    pub(crate) fn timeline(&self) -> BTreeMap<DataflowMode, Vec<Interval>> {
        let modes = self.modes.iter();
        modes
            .map(|(mode, intervals)| (*mode, locked(intervals).iter().map(figures).collect()))
            .collect()
    }

    pub(crate) fn busiest_zones(&self) -> Vec<ZoneSeries> {
        let mut zones: Vec<ZoneSeries> = locked(&self.zones).values().cloned().collect();
        zones.sort_by_key(|zone| Reverse(zone.quotes));
        zones.truncate(BUSIEST);
        zones
    }
}

fn figures(statistics: &ModeStatistics) -> Interval {
    let age_ms = |quantile| Some(value_at(&statistics.data_age, quantile)? as f64 / 1000.0);
    Interval {
        quotes: statistics.quotes,
        errors: statistics.errors(),
        latency_us_p50: value_at(&statistics.latency, 0.5),
        latency_us_p99: value_at(&statistics.latency, 0.99),
        data_age_ms_p50: age_ms(0.5),
        data_age_ms_max: age_ms(1.0),
        multiplier_error_mean_abs: statistics.deviation.error().mean_abs,
    }
}

/// The latency curve of a mode: as many points from 0 to 90 % as from 90 to 99 % and from there to
/// 99.9 %, then the slowest quote. Points beyond would rest on a handful of
/// quotes.
pub(crate) fn latency_curve(latency: &Histogram<u64>) -> Vec<CurvePoint> {
    const POINTS_PER_DECADE: u32 = 20;
    const DECADES: u32 = 3;
    // Rounded, because a hair above 0.99 would ask for one quote more.
    let quantile = |step| {
        let decades = f64::from(step) / f64::from(POINTS_PER_DECADE);
        crate::statistics::rounded(1.0 - 0.1_f64.powf(decades), 6)
    };
    let quantiles = (0..=POINTS_PER_DECADE * DECADES).map(quantile).chain([1.0]);
    let point = |quantile| {
        Some(CurvePoint {
            percentile: quantile * 100.0,
            latency_us: value_at(latency, quantile)?,
        })
    };
    quantiles.filter_map(point).collect()
}

/// Nothing is written in two steps, so a panic of another holder leaves nothing half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The entry of an interval in a list that grows as time goes on.
fn entry<T>(list: &mut Vec<T>, interval: usize, empty: impl FnMut() -> T) -> &mut T {
    if list.len() <= interval {
        list.resize_with(interval + 1, empty);
    }
    &mut list[interval]
}

#[cfg(test)]
mod tests {
    use marketplace::{Position, ServiceArea};

    use super::*;
    use crate::report::{Moment, Series, example_with_series};

    const MODES: [DataflowMode; 2] = [DataflowMode::Database, DataflowMode::Events];

    fn zone(lat: f64) -> Zone {
        Zone::at(Position::new(lat, -73.98).unwrap())
    }

    fn quoted(zone: Zone, tenths: u16) -> Result<CheckedQuote, QuoteFailure> {
        Ok(CheckedQuote {
            zone,
            multiplier: Multiplier::from_tenths(tenths).unwrap(),
            data_age: Some(Duration::from_micros(1_234_567)),
            degraded: false,
        })
    }

    #[test]
    fn outcome_counts_in_its_due_second() {
        let series = TimeSeries::new(&MODES, 2);
        let failure = Err(QuoteFailure::Wrong("token empty".to_owned()));
        let mode = DataflowMode::Events;
        let add = |due, latency, outcome: &_| {
            let [due, latency] = [due, latency].map(Duration::from_millis);
            series.add(due, mode, latency, outcome, None);
        };
        add(999, 1_500, &quoted(zone(40.7), 12));
        add(1_000, 2, &quoted(zone(40.7), 12));
        add(1_200, 2, &failure);
        let timeline = series.timeline();
        let events = &timeline[&mode];
        assert_eq!((events[0].quotes, events[1].quotes), (1, 1));
        assert_eq!((events[0].errors, events[1].errors), (0, 1));
        assert!(events[0].latency_us_p50 > Some(1_400_000));
        assert!(events[1].latency_us_p99 < Some(2_100));
        assert_eq!(timeline[&DataflowMode::Database], []);
    }

    #[test]
    fn busiest_zone_comes_first_with_oracle() {
        let series = TimeSeries::new(&MODES, 3);
        let oracle = Multiplier::from_tenths(15).ok();
        for (due, lat) in [(0, 40.7), (100, 40.8), (200, 40.8), (2_000, 40.8)] {
            let due = Duration::from_millis(due);
            series.add(
                due,
                MODES[0],
                Duration::ZERO,
                &quoted(zone(lat), 13),
                oracle,
            );
        }
        let zones = series.busiest_zones();
        assert_eq!((zones[0].zone, zones[0].quotes), (zone(40.8), 3));
        assert_eq!(zones[0].oracle, [oracle, None, oracle]);
        let quoted = Multiplier::from_tenths(13).ok();
        assert_eq!(zones[0].quoted[&MODES[0]], [quoted, None, quoted]);
        assert_eq!(zones.len(), 2);
    }

    #[test]
    fn day_has_as_many_intervals_as_minutes() {
        let day = 86_400;
        let series = TimeSeries::new(&MODES, day);
        let last = Duration::from_secs(u64::from(day) - 1);
        series.add(
            last,
            MODES[0],
            Duration::ZERO,
            &quoted(zone(40.7), 10),
            None,
        );
        assert_eq!(series.timeline()[&MODES[0]].len(), 600);
        assert_eq!(series.interval_s(), 144);
    }

    #[test]
    fn empty_measurement_has_no_intervals() {
        let series = TimeSeries::new(&MODES, 60);
        assert_eq!((series.interval_s(), series.busiest_zones().len()), (0, 0));
    }

    #[test]
    fn curve_rises_to_the_slowest_quote() {
        let mut latency = engine::histogram();
        (1..=1_000).for_each(|micros| latency.record(micros).unwrap());
        let curve = latency_curve(&latency);
        assert_eq!(curve.len(), 62);
        assert!(curve.is_sorted_by_key(|point| point.latency_us));
        let at = |percentile: f64| {
            let near = |point: &&CurvePoint| (point.percentile - percentile).abs() < 1e-9;
            curve.iter().find(near).unwrap().latency_us
        };
        assert_eq!((at(90.0), at(99.0), at(99.9)), (900, 990, 999));
        assert_eq!(curve.last().unwrap().latency_us, 1_000);
        assert_eq!(latency_curve(&engine::histogram()), []);
    }

    /// The largest report of ten minutes: every second of every mode, and as many zones as New York
    /// has.
    #[test]
    fn ten_minutes_stay_under_two_megabytes() {
        let (rate, seconds) = (3_u32, 600);
        let recorded = TimeSeries::new(&DataflowMode::ALL, seconds);
        let zones = ServiceArea::new(marketplace::Bounds::NEW_YORK)
            .zones()
            .to_vec();
        let multiplier = Multiplier::from_tenths(13).ok();
        for arrival in 0..u64::from(rate * seconds) {
            let mode = DataflowMode::ALL[(arrival % 3) as usize];
            let due = Duration::from_secs(arrival / u64::from(rate));
            let quoted = quoted(zones[(arrival / 1_800) as usize], 13);
            recorded.add(
                due,
                mode,
                Duration::from_micros(123_456),
                &quoted,
                multiplier,
            );
        }
        let zone_series = ZoneSeries {
            zone: zones[0],
            quotes: 1,
            oracle: vec![multiplier; 600],
            quoted: DataflowMode::ALL
                .map(|mode| (mode, vec![multiplier; 600]))
                .into(),
        };
        let everywhere = zones.iter().map(|&zone| (zone, multiplier.unwrap()));
        let everywhere: BTreeMap<_, _> = everywhere.collect();
        let example = example_with_series().series;
        let moment = Moment {
            oracle: everywhere.clone(),
            quoted: DataflowMode::ALL
                .map(|mode| (mode, everywhere.clone()))
                .into(),
            ..example.map[0].clone()
        };
        let series = Series {
            timeline: recorded.timeline(),
            zones: vec![zone_series; 6],
            map: vec![moment; 6],
            probes: vec![example.probes[0]; 500],
            ..example
        };
        let size = serde_json::to_string_pretty(&series).unwrap().len();
        assert!(size < 2_000_000, "{size} bytes");
    }
}
