//! Writes down the course of a measurement while it runs: latency and age by interval, multipliers by zone.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use marketplace::{Multiplier, Zone};
use surge_proto::DataflowMode;

use super::{Interval, ZoneCourse};
use crate::tally::Deviation;
use engine::{CheckedQuote, QuoteFailure};

/// A longer measurement has longer intervals: ten minutes are told second by second, an hour by six seconds.
pub(super) const MOST_INTERVALS: u32 = 600;

/// Zones that keep a line of their own.
const BUSIEST: usize = 6;

/// The course of one measurement.
#[derive(Debug)]
pub(crate) struct Recorder {
    interval_s: u32,
    intervals: usize,
    // Std mutexes: held for a few additions, never across an await; one a mode, so that modes do not wait for another.
    lanes: BTreeMap<DataflowMode, Mutex<Vec<Bin>>>,
    zones: Mutex<BTreeMap<Zone, Prices>>,
}

impl Recorder {
    /// An empty record of a measurement of this length.
    pub(crate) fn new(modes: &[DataflowMode], seconds: u32) -> Self {
        let interval_s = seconds.div_ceil(MOST_INTERVALS).max(1);
        let lanes = modes.iter().map(|&mode| (mode, Mutex::default()));
        Self {
            interval_s,
            intervals: seconds.div_ceil(interval_s) as usize,
            lanes: lanes.collect(),
            zones: Mutex::default(),
        }
    }

    /// Adds the outcome of a quote; it counts where it was due, from the begin of the measurement.
    pub(crate) fn add(
        &self,
        due: Duration,
        mode: DataflowMode,
        latency: Duration,
        outcome: &Result<CheckedQuote, QuoteFailure>,
        oracle: Option<Multiplier>,
    ) {
        let interval = (due.as_secs() / u64::from(self.interval_s)) as usize;
        let Some(lane) = self.lanes.get(&mode) else {
            return;
        };
        if interval >= self.intervals {
            return;
        }
        at(&mut held(lane), interval).add(latency, outcome, oracle);
        if let Ok(quoted) = outcome {
            held(&self.zones).entry(quoted.zone).or_default().add(
                interval,
                mode,
                quoted.multiplier,
                oracle,
            );
        }
    }

    pub(super) fn interval_s(&self) -> u32 {
        let empty = self.lanes.values().all(|lane| held(lane).is_empty());
        if empty { 0 } else { self.interval_s }
    }

    pub(super) fn timeline(&self) -> BTreeMap<DataflowMode, Vec<Interval>> {
        let figures = |lane: &Mutex<Vec<Bin>>| held(lane).iter().map(Bin::figures).collect();
        self.lanes
            .iter()
            .map(|(mode, lane)| (*mode, figures(lane)))
            .collect()
    }

    pub(super) fn busiest_zones(&self) -> Vec<ZoneCourse> {
        let zones = held(&self.zones);
        let mut busiest: Vec<_> = zones.iter().collect();
        busiest.sort_by_key(|(_, prices)| Reverse(prices.quotes));
        let courses = busiest.into_iter().take(BUSIEST);
        courses.map(|(zone, prices)| prices.course(*zone)).collect()
    }
}

/// Nothing is written in two steps, so a panic of another holder leaves nothing half done.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place of an interval in a list that grows as time goes on.
fn at<T: Default>(list: &mut Vec<T>, interval: usize) -> &mut T {
    if list.len() <= interval {
        list.resize_with(interval + 1, T::default);
    }
    &mut list[interval]
}

/// The outcomes of one mode in one interval. Two digits are enough to draw, and take ten kilobytes where three take 200.
#[derive(Debug)]
struct Bin {
    errors: u64,
    latency_us: Histogram<u32>,
    data_age_us: Histogram<u32>,
    deviation: Deviation,
}

impl Default for Bin {
    fn default() -> Self {
        let histogram = || Histogram::new(2).expect("two digits are valid");
        Self {
            errors: 0,
            latency_us: histogram(),
            data_age_us: histogram(),
            deviation: Deviation::default(),
        }
    }
}

impl Bin {
    fn add(
        &mut self,
        latency: Duration,
        outcome: &Result<CheckedQuote, QuoteFailure>,
        oracle: Option<Multiplier>,
    ) {
        match outcome {
            Ok(quoted) => {
                record(&mut self.latency_us, latency);
                if let Some(age) = quoted.data_age {
                    record(&mut self.data_age_us, age);
                }
                if let Some(oracle) = oracle {
                    self.deviation.add(quoted.multiplier, oracle);
                }
            }
            Err(_) => self.errors += 1,
        }
    }

    fn figures(&self) -> Interval {
        let at = |histogram: &Histogram<u32>, quantile| {
            (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))
        };
        let age_ms = |quantile| at(&self.data_age_us, quantile).map(|us| us as f64 / 1000.0);
        Interval {
            quotes: self.latency_us.len(),
            errors: self.errors,
            latency_us_p50: at(&self.latency_us, 0.5),
            latency_us_p99: at(&self.latency_us, 0.99),
            data_age_ms_p50: age_ms(0.5),
            data_age_ms_max: age_ms(1.0),
            multiplier_error_mean_abs: self.deviation.mean_abs(),
        }
    }
}

/// Counts more than an hour as an hour: the histogram grows with what it holds, and must not grow for ever.
fn record(histogram: &mut Histogram<u32>, duration: Duration) {
    const HOUR: u128 = 3_600_000_000;
    let micros = duration.as_micros().min(HOUR) as u64;
    histogram
        .record(micros)
        .expect("a histogram that resizes takes every value");
}

/// The multipliers of one zone.
#[derive(Debug, Default)]
struct Prices {
    quotes: u64,
    oracle: Vec<Option<Multiplier>>,
    quoted: BTreeMap<DataflowMode, Vec<Option<Multiplier>>>,
}

impl Prices {
    fn add(
        &mut self,
        interval: usize,
        mode: DataflowMode,
        quoted: Multiplier,
        oracle: Option<Multiplier>,
    ) {
        self.quotes += 1;
        *at(self.quoted.entry(mode).or_default(), interval) = Some(quoted);
        if oracle.is_some() {
            *at(&mut self.oracle, interval) = oracle;
        }
    }

    fn course(&self, zone: Zone) -> ZoneCourse {
        ZoneCourse {
            zone,
            quotes: self.quotes,
            oracle: self.oracle.clone(),
            quoted: self.quoted.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use marketplace::Position;

    use super::*;

    const MODES: [DataflowMode; 2] = [DataflowMode::Database, DataflowMode::Events];

    fn zone(lat: f64) -> Zone {
        Zone::at(Position::new(lat, -73.98).unwrap())
    }

    fn quoted(zone: Zone, tenths: u16) -> Result<CheckedQuote, QuoteFailure> {
        Ok(CheckedQuote {
            zone,
            multiplier: Multiplier::from_tenths(tenths).unwrap(),
            data_age: Some(Duration::from_millis(250)),
            degraded: false,
        })
    }

    fn milliseconds(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn an_outcome_counts_in_the_second_in_which_it_was_meant_to_leave() {
        let recorder = Recorder::new(&MODES, 2);
        let failure = Err(QuoteFailure::Wrong("token empty".to_owned()));
        let mode = DataflowMode::Events;
        recorder.add(
            milliseconds(999),
            mode,
            milliseconds(1_500),
            &quoted(zone(40.7), 12),
            None,
        );
        recorder.add(
            milliseconds(1_000),
            mode,
            milliseconds(2),
            &quoted(zone(40.7), 12),
            None,
        );
        recorder.add(milliseconds(1_200), mode, milliseconds(2), &failure, None);
        let timeline = recorder.timeline();
        let events = &timeline[&mode];
        assert_eq!((events[0].quotes, events[1].quotes), (1, 1));
        assert_eq!((events[0].errors, events[1].errors), (0, 1));
        assert!(events[0].latency_us_p50 > Some(1_400_000));
        assert!(events[1].latency_us_p99 < Some(2_100));
        assert_eq!(timeline[&DataflowMode::Database], []);
    }

    #[test]
    fn the_busiest_zone_comes_first_with_what_was_right_beside_what_was_quoted() {
        let recorder = Recorder::new(&MODES, 3);
        let oracle = Multiplier::from_tenths(15).ok();
        for (due, zone) in [(0, 40.7), (100, 40.8), (200, 40.8), (2_000, 40.8)] {
            let quoted = quoted(self::zone(zone), 13);
            recorder.add(milliseconds(due), MODES[0], Duration::ZERO, &quoted, oracle);
        }
        let zones = recorder.busiest_zones();
        assert_eq!((zones[0].zone, zones[0].quotes), (zone(40.8), 3));
        assert_eq!(zones[0].oracle, [oracle, None, oracle]);
        let quoted = Multiplier::from_tenths(13).ok();
        assert_eq!(zones[0].quoted[&MODES[0]], [quoted, None, quoted]);
        assert_eq!(zones.len(), 2);
    }

    #[test]
    fn a_day_is_told_in_as_many_intervals_as_ten_minutes() {
        let day = 86_400;
        let recorder = Recorder::new(&MODES, day);
        let last = Duration::from_secs(u64::from(day) - 1);
        recorder.add(
            last,
            MODES[0],
            Duration::ZERO,
            &quoted(zone(40.7), 10),
            None,
        );
        assert_eq!(recorder.timeline()[&MODES[0]].len(), 600);
        assert_eq!(recorder.interval_s(), 144);
    }

    #[test]
    fn a_measurement_that_never_began_has_no_intervals() {
        let recorder = Recorder::new(&MODES, 60);
        assert_eq!(
            (recorder.interval_s(), recorder.busiest_zones().len()),
            (0, 0)
        );
    }
}
