//! What the charts of a report are drawn from: curves, probes, the course of the measurement, prices by zone.
//!
//! Everything here is bounded, so that the receipt of a long run stays small: time is cut into at most
//! [`recorder::MOST_INTERVALS`] intervals, and only the busiest zones keep a line of their own.

mod curve;
mod recorder;
mod surge_map;

use std::collections::BTreeMap;

use marketplace::{Multiplier, Zone};
use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;

use super::capacity::Capacities;
use super::measure::Measured;
use super::report::LatencyMicros;

pub(crate) use recorder::Recorder;
pub(crate) use surge_map::Surveyor;

/// What the charts are drawn from. A chart whose figures are missing is not drawn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Latency by percentile, of each mode.
    pub latency_curve: BTreeMap<DataflowMode, Vec<CurvePoint>>,
    /// Every rate that was tried in the search for capacities, in the order of trying.
    pub probes: Vec<Probe>,
    /// Length of an interval of `timeline` and of `zones`, real seconds; 0 when nothing was measured.
    pub interval_s: u32,
    /// The course of the measurement, interval by interval.
    pub timeline: BTreeMap<DataflowMode, Vec<Interval>>,
    /// The course of the multiplier in the zones that were asked for most, the busiest first.
    pub zones: Vec<ZoneCourse>,
    /// The multipliers of all zones at a few moments.
    pub map: Vec<Moment>,
}

/// A point of a latency curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Quotes out of a hundred that were answered within `latency_us`; 100 for the slowest.
    pub percentile: f64,
    /// Microseconds from the intended send to the complete answer.
    pub latency_us: u64,
}

/// One rate that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The mode that was asked, or the one that stands on the floor that was.
    pub mode: DataflowMode,
    /// Whether the bare server of the mode was asked instead of the mode.
    pub floor: bool,
    /// Quotes asked a second.
    pub rate_per_s: u32,
    /// Whether the rate was sustained.
    pub held: bool,
    /// Latency of the answered quotes.
    pub latency_us: LatencyMicros,
    /// Processor time of the three services for one quote, of a rate that held.
    pub cpu_us_per_quote: Option<f64>,
    /// Share of the processors' time that the hypervisor took meanwhile, 0 to 1; `None` where nobody tells.
    #[serde(default)]
    pub stolen_share: Option<f64>,
    /// Whether it failed while much was taken, so that the rate was tried again and this is no verdict.
    #[serde(default)]
    pub repeated: bool,
}

/// What one mode answered to the requests that were meant to leave in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Quotes answered and found right.
    pub quotes: u64,
    /// Quotes asked that brought no right answer.
    pub errors: u64,
    /// Half of the quotes were answered within this time, microseconds.
    pub latency_us_p50: Option<u64>,
    /// 99 of 100 quotes were answered within this time, microseconds.
    pub latency_us_p99: Option<u64>,
    /// Half of the quotes were made from younger data, milliseconds.
    pub data_age_ms_p50: Option<f64>,
    /// The oldest data behind a quote, milliseconds.
    pub data_age_ms_max: Option<f64>,
    /// Mean distance of the multiplier from what was right.
    pub multiplier_error_mean_abs: Option<f64>,
}

/// The multiplier of one zone, interval by interval: the last one quoted in each, `None` where none was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneCourse {
    /// The zone.
    pub zone: Zone,
    /// Quotes for it in the whole measurement, all modes together.
    pub quotes: u64,
    /// What the city's books said when the last quote of the interval was asked.
    pub oracle: Vec<Option<Multiplier>>,
    /// What each mode quoted.
    pub quoted: BTreeMap<DataflowMode, Vec<Option<Multiplier>>>,
}

/// The multipliers of all zones at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Market time, RFC 3339.
    pub market_time: String,
    /// Real seconds since the measurement began.
    pub at_s: f64,
    /// What the city's books said.
    pub oracle: BTreeMap<Zone, Multiplier>,
    /// What each mode would have quoted; a mode that did not answer is missing.
    pub quoted: BTreeMap<DataflowMode, BTreeMap<Zone, Multiplier>>,
}

impl Series {
    /// Collects what was recorded.
    pub(crate) fn of(
        measured: &Measured,
        capacities: &Capacities,
        recorder: &Recorder,
        map: Vec<Moment>,
    ) -> Self {
        let curves = measured.tallies.iter();
        let capacities = capacities.modes.values().chain(capacities.floors.values());
        Self {
            latency_curve: curves
                .map(|(mode, tally)| (*mode, curve::of(&tally.latency)))
                .collect(),
            probes: capacities
                .flat_map(|capacity| capacity.probes.iter().copied())
                .collect(),
            interval_s: recorder.interval_s(),
            timeline: recorder.timeline(),
            zones: recorder.busiest_zones(),
            map,
        }
    }
}

/// A few hand-made points of everything; no run ever gave these figures.
#[cfg(test)]
pub(crate) fn example() -> Series {
    let zone = Zone::at(engine::stand_in::pickup());
    let multiplier = |tenths| Multiplier::from_tenths(tenths).unwrap();
    let point = |percentile, latency_us| CurvePoint {
        percentile,
        latency_us,
    };
    let curve = vec![point(0.0, 100), point(90.0, 400), point(100.0, 2_000)];
    let interval = Interval {
        quotes: 10,
        errors: 1,
        latency_us_p50: Some(300),
        latency_us_p99: Some(900),
        data_age_ms_p50: Some(140.0),
        data_age_ms_max: Some(290.0),
        multiplier_error_mean_abs: Some(0.02),
    };
    let probe = |mode, floor, rate_per_s, held| Probe {
        mode,
        floor,
        rate_per_s,
        held,
        latency_us: LatencyMicros {
            p50: Some(2_000),
            p99: Some(if held { 9_000 } else { 90_000 }),
            ..LatencyMicros::default()
        },
        cpu_us_per_quote: None,
        stolen_share: Some(0.0012),
        repeated: false,
    };
    let probes = |mode| [probe(mode, false, 500, true), probe(mode, true, 900, false)];
    let zones = BTreeMap::from([(zone, multiplier(15))]);
    Series {
        latency_curve: DataflowMode::ALL.map(|mode| (mode, curve.clone())).into(),
        probes: DataflowMode::ALL.into_iter().flat_map(probes).collect(),
        interval_s: 1,
        timeline: DataflowMode::ALL
            .map(|mode| (mode, vec![interval; 12]))
            .into(),
        zones: vec![ZoneCourse {
            zone,
            quotes: 40,
            oracle: vec![Some(multiplier(12)); 12],
            quoted: DataflowMode::ALL
                .map(|mode| (mode, vec![Some(multiplier(15)); 12]))
                .into(),
        }],
        map: vec![Moment {
            market_time: "2014-04-04T21:30:00.000Z".to_owned(),
            at_s: 6.0,
            oracle: BTreeMap::from([(zone, multiplier(12))]),
            quoted: DataflowMode::ALL.map(|mode| (mode, zones.clone())).into(),
        }],
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use marketplace::ServiceArea;

    use super::*;
    use engine::{CheckedQuote, QuoteFailure};

    /// The largest receipt of ten minutes: every second of every mode, and as many zones as New York has.
    #[test]
    fn ten_minutes_stay_under_two_megabytes() {
        let (rate, seconds) = (3_u32, 600);
        let recorder = Recorder::new(&DataflowMode::ALL, seconds);
        let zones = ServiceArea::new(marketplace::Bounds::NEW_YORK)
            .zones()
            .to_vec();
        let multiplier = Multiplier::from_tenths(13).ok();
        for arrival in 0..u64::from(rate * seconds) {
            let mode = DataflowMode::ALL[(arrival % 3) as usize];
            let quoted: Result<CheckedQuote, QuoteFailure> = Ok(CheckedQuote {
                zone: zones[(arrival / 1_800) as usize],
                multiplier: multiplier.unwrap(),
                data_age: Some(Duration::from_micros(1_234_567)),
                degraded: false,
            });
            recorder.add(
                Duration::from_secs(arrival / u64::from(rate)),
                mode,
                Duration::from_micros(123_456),
                &quoted,
                multiplier,
            );
        }
        let course = ZoneCourse {
            zone: zones[0],
            quotes: 1,
            oracle: vec![multiplier; 600],
            quoted: DataflowMode::ALL
                .map(|mode| (mode, vec![multiplier; 600]))
                .into(),
        };
        let everywhere: BTreeMap<_, _> = zones
            .iter()
            .map(|&zone| (zone, multiplier.unwrap()))
            .collect();
        let moment = Moment {
            oracle: everywhere.clone(),
            quoted: DataflowMode::ALL
                .map(|mode| (mode, everywhere.clone()))
                .into(),
            ..example().map[0].clone()
        };
        let series = Series {
            timeline: recorder.timeline(),
            zones: vec![course; 6],
            map: vec![moment; 6],
            probes: vec![example().probes[0]; 500],
            ..example()
        };
        let size = serde_json::to_string_pretty(&series).unwrap().len();
        assert!(size < 2_000_000, "{size} bytes");
    }
}
