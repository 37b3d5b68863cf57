//! What `compare.json` holds, key by key: the format `surge.compare/1`.
//!
//! **How this works.** Everything in this file is plain data. A run fills it once
//! ([`judge::report`](crate::judge::report)), the table and the page read it, and `--from` and
//! `--baseline` read it back from a file. So the page needs nothing that is not in here, and an old
//! file draws the same page again.
//!
//! Keys may be added and are never renamed: a reader of today understands a file of years ago. That
//! is why some keys have an older name than the type they belong to (`stolen`, `extent`, `climb`).
//! A figure that was not measured is `null`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use city::CityOutcome;
use clap::ValueEnum;
use engine::Transport;
use marketplace::{Multiplier, Zone};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strict_serde::Strict;
use surge_proto::{DataflowMode, FloorKind};

/// The name and version of this format.
pub const SCHEMA: &str = "surge.compare/1";

/// The latency that 99 of 100 quotes must keep at a sustained rate.
pub(crate) const LATENCY_LIMIT: Duration = Duration::from_millis(50);

/// One comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompareReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// When the run began, RFC 3339, real time.
    pub started_at: String,
    /// The commit that was compared.
    pub git: Option<String>,
    /// The machine on which it ran.
    pub machine: Machine,
    /// The processor time that the hypervisor took away meanwhile.
    #[serde(default, rename = "stolen")]
    pub steal: StealByPhase,
    /// The settings of the run.
    pub workload: Workload,
    /// Whether the figures may be believed.
    pub valid: bool,
    /// Why not, a sentence each; empty when valid.
    pub void_reasons: Vec<String>,
    /// Why the oracle cannot be trusted, a clause each. Then no multiplier error is printed, nor
    /// anything derived from it.
    #[serde(default)]
    pub untrusted_oracle: Vec<String>,
    /// How much of the plan was carried out; `None` in files older than this key.
    #[serde(default, rename = "extent")]
    pub coverage: Option<Coverage>,
    /// What a reader should know besides; a warning does not void the run.
    pub warnings: Vec<String>,
    /// The figures of each mode that was asked.
    pub modes: BTreeMap<DataflowMode, ModeFigures>,
    /// The figures of the bare servers.
    pub floors: Floors,
    /// What the load generator itself takes.
    pub generator: Generator,
    /// The market that was priced.
    pub city: Market,
    /// The changes since an older run, where one was named.
    #[serde(default)]
    pub baseline: Option<Baseline>,
    /// The data of the charts.
    #[serde(default)]
    pub series: Series,
    /// What old data costs the market; `None` when that was left out.
    #[serde(default)]
    pub market_cost: Option<MarketCost>,
    /// Where the rate broke a dataflow; `None` where the scenario did not look for that.
    #[serde(default)]
    pub breakpoint: Option<Breakpoint>,
}

impl CompareReport {
    /// Reads a report from a file.
    ///
    /// # Errors
    /// When the file cannot be read or has another format.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| {
            format!(
                "{} is not a report of a comparison; `./surge compare --json PATH` writes one",
                path.display()
            )
        })
    }

    /// Looks at the schema first: of another format, a missing key would be all that the error
    /// says.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(text)?;
        let schema = value.get("schema").and_then(Value::as_str);
        let schema = schema.unwrap_or("unknown");
        ensure!(schema == SCHEMA, "its format is {schema}, not {SCHEMA}");
        let Strict(report) = serde_json::from_value(value)?;
        Ok(report)
    }

    /// Whether the run came to its end.
    pub(crate) fn is_complete(&self) -> bool {
        self.coverage.is_none_or(|coverage| coverage.complete)
    }

    /// Whether the run is one to keep: valid, and complete.
    pub(crate) fn is_good(&self) -> bool {
        self.valid && self.is_complete()
    }

    /// Whether any capacity was found.
    pub(crate) fn has_capacities(&self) -> bool {
        self.modes
            .values()
            .any(|mode| mode.capacity_per_s.is_some())
    }
}

/// The machine that ran the load engine; with a local stack also the one under test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors this process may use.
    pub cpus: Option<usize>,
    /// Memory in GiB, one decimal.
    pub memory_gib: Option<f64>,
}

/// CPU steal during one phase: processor time that the hypervisor gave to other machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuSteal {
    /// Share of the processors' time, 0 to 1.
    #[serde(rename = "stolen_share")]
    pub share: f64,
    /// The share in the worst second: a short steal is lost in the mean of a long phase.
    pub worst_second_share: f64,
}

/// CPU steal, phase by phase. `None` where the phase did not take place, or where the operating
/// system does not count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StealByPhase {
    /// While the city warmed up.
    pub warm_up: Option<CpuSteal>,
    /// While quotes were measured.
    pub measurement: Option<CpuSteal>,
    /// During the stress ramp.
    #[serde(rename = "climb")]
    pub stress_ramp: Option<CpuSteal>,
    /// During the search for capacities.
    pub capacity: Option<CpuSteal>,
    /// During the simulated evenings: it makes them fewer, not different.
    pub market: Option<CpuSteal>,
    /// Invalid probes for a capacity: they failed under much steal and were repeated.
    pub probes_repeated: u32,
    /// Probes that failed under much steal when no repetition was left, and so count.
    pub probes_spoiled: u32,
}

/// The settings that make two runs comparable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed of every random decision.
    pub seed: u64,
    /// Market seconds per real second.
    pub speed: f64,
    /// Quotes requested per second, all modes together.
    pub rate_per_s: u32,
    /// Distribution of the arrivals over time.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// The protocol of the quotes.
    #[serde(default)]
    pub transport: Transport,
    /// Length of the measurement, real seconds.
    pub seconds: u32,
    /// The rates of the measurement, one after the other; empty for a constant rate.
    #[serde(default)]
    pub rate_steps: Vec<RateStep>,
}

/// The distribution of the arrivals over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// At even distances, so that a delay is not the load's own doing.
    #[default]
    Constant,
    /// A Poisson process, seeded by `--seed`: now and then several at once, as with independent
    /// riders.
    Poisson,
}

/// A part of the measurement with a rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateStep {
    /// Quotes requested per second, all modes together.
    pub rate_per_s: u32,
    /// Length, real seconds.
    pub seconds: f64,
}

/// How much of the plan was carried out. A part that was not planned has zero planned and zero
/// done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Whether the run came to its end: not interrupted, and nothing left out.
    pub complete: bool,
    /// Planned length of the measurement, real seconds.
    pub planned_s: f64,
    /// Seconds of it in which quotes were requested.
    pub measured_s: f64,
    /// Planned searches for a capacity: one for each mode and each floor in each round.
    pub planned_searches: u32,
    /// Searches that were carried out.
    pub searches: u32,
    /// Evenings to simulate with each pricing at most, where time allows.
    pub most_market_seeds: u32,
    /// Evenings that were simulated with every pricing.
    pub market_seeds: u32,
}

/// The figures of one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModeFigures {
    /// Quotes answered and found right.
    pub quotes: u64,
    /// Quotes requested that brought no right answer.
    pub errors: u64,
    /// Quotes priced without surge for want of fresh data.
    pub degraded: u64,
    /// Quotes requested per second.
    pub offered_per_s: Option<f64>,
    /// Quotes answered per second.
    pub achieved_per_s: Option<f64>,
    /// From the intended send to the complete answer.
    pub latency_us: LatencyMicros,
    /// Age of the older feed behind the price, real time.
    pub data_age_ms: AgeMillis,
    /// Quoted multiplier minus that of the oracle.
    pub multiplier_error: ErrorFigures,
    /// Highest rate with p99 at or under 50 ms and no error: the median of the rounds.
    pub capacity_per_s: Option<f64>,
    /// The lowest and the highest of the rounds.
    pub capacity_range_per_s: Option<[u32; 2]>,
    /// Processor time of the three services for one quote, without what the city costs them.
    pub cpu_us_per_quote: Option<f64>,
    /// Capacity over that of the mode's floor.
    pub share_of_floor: Option<f64>,
}

/// Percentiles of latency in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each field is the percentile it is named after"
)]
pub struct LatencyMicros {
    pub p50: Option<u64>,
    pub p90: Option<u64>,
    pub p99: Option<u64>,
    pub p999: Option<u64>,
    pub max: Option<u64>,
}

/// Percentiles of data age in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each field is the percentile it is named after"
)]
pub struct AgeMillis {
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub max: Option<f64>,
}

/// How far the quoted multipliers were from those of the oracle; `null` also where the oracle
/// cannot be trusted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorFigures {
    /// Mean absolute difference.
    pub mean_abs: Option<f64>,
    /// Share of quotes wrong by 0.2 or more, 0 to 1.
    pub share_off_by_0_2: Option<f64>,
}

/// The floors: what the frameworks alone can do on this machine. A mode is judged as a share of its
/// floor, because a capacity by itself says more about the machine than about the dataflow.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Floors {
    /// A bare HTTP handler: the floor of `events`.
    pub http: FloorFigures,
    /// A bare HTTP handler with two bare gRPC calls: the floor of `request`.
    pub rpc_fanout: FloorFigures,
    /// A bare HTTP handler with one indexed SQL read: the floor of `database`.
    pub sql_row: FloorFigures,
}

impl Floors {
    /// The floor of a mode.
    pub(crate) const fn under(&self, mode: DataflowMode) -> &FloorFigures {
        match mode.profile().floor {
            FloorKind::Http => &self.http,
            FloorKind::RpcFanout => &self.rpc_fanout,
            FloorKind::SqlRow => &self.sql_row,
        }
    }
}

/// One bare server.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct FloorFigures {
    /// Highest rate with p99 at or under 50 ms and no error: the median of the rounds.
    pub capacity_per_s: Option<f64>,
    /// The lowest and the highest of the rounds.
    pub capacity_range_per_s: Option<[u32; 2]>,
    /// Latency at the rate of one mode in the measurement.
    pub latency_us: LatencyMicros,
}

/// The load generator, measured against the bare HTTP handler.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Generator {
    /// The rate beyond which it would measure itself.
    pub ceiling_per_s: Option<f64>,
    /// Its processor time for one quote, requested, checked and recorded.
    pub cpu_us_per_quote: Option<f64>,
}

/// The city during the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Market {
    /// Drivers in the fleet.
    pub fleet: usize,
    /// Market time of the first measured quote, RFC 3339.
    pub measured_from: Option<String>,
    /// Market time of the last measured quote, RFC 3339.
    pub measured_until: Option<String>,
    /// Riders and rides from the start of the warm-up to the end. It is not read back: no page
    /// shows it.
    #[serde(skip_deserializing)]
    pub outcome: Option<CityOutcome>,
}

/// The stress ramp: the rate rises, all dataflows together, until one of them fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breakpoint {
    /// The rates that were tried, in order; the last is the one that failed, if any did.
    pub steps: Vec<RampStep>,
}

/// One rate of the stress ramp.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RampStep {
    /// Quotes requested per second, all dataflows together.
    pub rate_per_s: u32,
    /// Whether the load generator missed its own schedule: then the limit may be its own.
    pub generator_late: bool,
    /// The result of each dataflow.
    pub modes: BTreeMap<DataflowMode, StepResult>,
}

impl RampStep {
    /// Whether every dataflow sustained the rate.
    pub(crate) fn holds(&self) -> bool {
        self.modes.values().all(|result| result.holds)
    }
}

/// How a dataflow did at one rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// Whether every quote was answered, rightly, and 99 of 100 within 50 ms.
    pub holds: bool,
    /// Quotes that brought no right answer.
    pub errors: u64,
    /// 99th percentile of latency, microseconds; `None` without an answer.
    pub latency_us_p99: Option<u64>,
}

/// What old data costs the market: the same evenings, simulated once with each pricing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MarketCost {
    /// Market time from which on riders were scored, RFC 3339.
    pub from: String,
    /// Market time until which they were.
    pub until: String,
    /// Evenings simulated with each pricing, one per seed.
    pub seeds: u32,
    /// Fresh data first.
    pub rows: Vec<MarketRow>,
}

/// One pricing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MarketRow {
    /// The data behind the quotes, in words.
    pub label: String,
    /// The dataflow that this run measured to be like that; `None` for an age that no dataflow had.
    pub mode: Option<DataflowMode>,
    /// Median age of the data behind the quotes, market seconds. `None` where there was none, or it
    /// was of another day.
    pub data_age_market_s: Option<f64>,
    /// Market seconds between two rewritings of the table, for data that is read from one.
    pub batch_period_market_s: Option<f64>,
    /// Evenings behind each figure.
    pub seeds: u32,
    /// Mean of each figure.
    pub figures: BTreeMap<MarketFigure, Estimate>,
    /// Each figure minus that of fresh data in the same evening; empty for fresh data itself.
    pub against_fresh: BTreeMap<MarketFigure, Estimate>,
}

/// A figure of a simulated evening. Completed rides and revenue alone are no measure of a market:
/// without surge more rides are driven and more riders find no car. Read the error of the
/// multiplier, the unserved riders and the wait first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarketFigure {
    /// Mean distance between the multiplier quoted and the right one.
    MultiplierErrorMeanAbs,
    /// Share of quotes wrong by 0.2 or more, 0 to 1.
    #[serde(rename = "share_off_by_0_2")]
    ShareOffBy02,
    /// Mean multiplier quoted.
    MeanMultiplier,
    /// Requests without a driver soon enough.
    Unserved,
    /// Mean wait of the riders who were driven, market minutes.
    MeanWaitMin,
    /// What the riders who were driven would have paid, at most five times the normal fare each, US
    /// dollars.
    ValueUsd,
    /// Requests that were driven.
    Completed,
    /// What the riders paid, US dollars.
    RevenueUsd,
    /// Riders who requested a ride at the price quoted.
    Requests,
    /// Riders who found the price too high.
    PricedOut,
}

impl MarketFigure {
    /// All figures, the most important first.
    pub const ALL: [Self; 10] = [
        Self::MultiplierErrorMeanAbs,
        Self::ShareOffBy02,
        Self::MeanMultiplier,
        Self::Unserved,
        Self::MeanWaitMin,
        Self::ValueUsd,
        Self::Completed,
        Self::RevenueUsd,
        Self::Requests,
        Self::PricedOut,
    ];
}

/// A mean over evenings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error; one evening has none.
    pub standard_error: Option<f64>,
}

/// The changes since an older run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The file of the older run.
    pub path: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// The commit that it compared.
    pub git: Option<String>,
    /// Why the two runs are not comparable, a clause each; empty unless the user insisted, or this
    /// run turned out void.
    pub differences: Vec<String>,
    /// The figures that both runs have, of the modes that both measured.
    pub modes: BTreeMap<DataflowMode, Vec<FigureChange>>,
}

/// One figure in two runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FigureChange {
    /// Its key in the figures of a mode.
    pub figure: String,
    /// In the older run.
    pub before: f64,
    /// In this run.
    pub now: f64,
    /// How far the difference wanders by itself: half of a 95 % interval, or of the range of the
    /// rounds, both runs together. `None` when a run has too few values to know.
    pub noise: Option<f64>,
    /// The judgement.
    pub verdict: Verdict,
}

/// The key of a floor's capacity among the figures of a mode.
pub(crate) const FLOOR_CAPACITY: &str = "floor.capacity_per_s";

/// The judgement of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each variant is its own description")]
pub enum Verdict {
    Faster,
    Slower,
    Fresher,
    Staler,
    MoreAccurate,
    LessAccurate,
    Higher,
    Lower,
    Cheaper,
    #[serde(rename = "dearer")]
    MoreExpensive,
    WithinNoise,
    NoiseUnknown,
}

/// The data of the charts. A chart without data is not drawn. Everything here is bounded, so that
/// the report of a long run stays small: time is cut into at most 600 intervals, and only the
/// busiest zones keep a time series of their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Latency by percentile, of each mode.
    pub latency_curve: BTreeMap<DataflowMode, Vec<CurvePoint>>,
    /// Every rate that was tried in the search for capacities, in the order of trying.
    pub probes: Vec<CapacityProbe>,
    /// Length of an interval of `timeline` and of `zones`, real seconds; 0 when nothing was
    /// measured.
    pub interval_s: u32,
    /// The measurement, interval by interval.
    pub timeline: BTreeMap<DataflowMode, Vec<Interval>>,
    /// The multiplier in the zones with the most quotes, the busiest first.
    pub zones: Vec<ZoneSeries>,
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
pub struct CapacityProbe {
    /// The mode that was asked, or whose floor was asked.
    pub mode: DataflowMode,
    /// Whether the bare server of the mode was asked instead of the mode.
    pub floor: bool,
    /// Quotes requested per second.
    pub rate_per_s: u32,
    /// Whether the rate was sustained.
    pub held: bool,
    /// Latency of the answered quotes.
    pub latency_us: LatencyMicros,
    /// Processor time of the three services for one quote, of a rate that held.
    pub cpu_us_per_quote: Option<f64>,
    /// CPU steal meanwhile, 0 to 1; `None` where the operating system does not count it.
    #[serde(default, rename = "stolen_share")]
    pub steal_share: Option<f64>,
    /// Whether this is an invalid sample: it failed under much CPU steal, and the rate was tried
    /// again.
    #[serde(default)]
    pub repeated: bool,
}

/// The answers of one mode to the requests that were meant to leave in one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Quotes answered and found right.
    pub quotes: u64,
    /// Quotes requested that brought no right answer.
    pub errors: u64,
    /// Half of the quotes were answered within this time, microseconds.
    pub latency_us_p50: Option<u64>,
    /// 99 of 100 quotes were answered within this time, microseconds.
    pub latency_us_p99: Option<u64>,
    /// Half of the quotes were made from younger data, milliseconds.
    pub data_age_ms_p50: Option<f64>,
    /// The oldest data behind a quote, milliseconds.
    pub data_age_ms_max: Option<f64>,
    /// Mean distance of the multiplier from the right one.
    pub multiplier_error_mean_abs: Option<f64>,
}

/// The multiplier of one zone, interval by interval: the last one quoted in each, `None` where none
/// was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneSeries {
    /// The zone.
    pub zone: Zone,
    /// Quotes for it in the whole measurement, all modes together.
    pub quotes: u64,
    /// The multiplier of the oracle when the last quote of the interval was requested.
    pub oracle: Vec<Option<Multiplier>>,
    /// The multiplier that each mode quoted.
    pub quoted: BTreeMap<DataflowMode, Vec<Option<Multiplier>>>,
}

/// The multipliers of all zones at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Market time, RFC 3339.
    pub market_time: String,
    /// Real seconds since the measurement began.
    pub at_s: f64,
    /// The multipliers of the oracle.
    pub oracle: BTreeMap<Zone, Multiplier>,
    /// What each mode would have quoted; a mode that did not answer is missing.
    pub quoted: BTreeMap<DataflowMode, BTreeMap<Zone, Multiplier>>,
}

/// A hand-made report without data of charts; no run ever gave these figures.
#[cfg(test)]
pub(crate) fn example() -> CompareReport {
    let report = CompareReport::parse(include_str!("../tests/data/made-up.json")).unwrap();
    CompareReport {
        series: Series::default(),
        ..report
    }
}

/// The same report with a few points of everything that is drawn.
#[cfg(test)]
pub(crate) fn example_with_series() -> CompareReport {
    CompareReport::parse(include_str!("../tests/data/made-up.json")).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by a build from before `untrusted_oracle` was a key; cut down to a few points of
    /// each series.
    const FROM_BEFORE: &str = include_str!("../tests/data/from-before.json");

    /// Every key of `old` is in `new`, with the same value; numbers may be written differently.
    fn assert_kept(path: &str, old: &Value, new: &Value) {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => {
                for (key, value) in old.iter().filter(|(key, _)| *key != "outcome") {
                    let kept = new
                        .get(key)
                        .unwrap_or_else(|| panic!("{path}.{key} is lost"));
                    assert_kept(&format!("{path}.{key}"), value, kept);
                }
            }
            (Value::Array(old), Value::Array(new)) => {
                assert_eq!(old.len(), new.len(), "{path}");
                old.iter()
                    .zip(new)
                    .for_each(|(old, new)| assert_kept(path, old, new));
            }
            _ => {
                let same_number = old.as_f64().is_some() && old.as_f64() == new.as_f64();
                assert!(same_number || old == new, "{path}: {old} became {new}");
            }
        }
    }

    #[test]
    fn report_of_earlier_build_keeps_every_key() {
        let written = serde_json::to_value(CompareReport::parse(FROM_BEFORE).unwrap()).unwrap();
        assert_kept("", &serde_json::from_str(FROM_BEFORE).unwrap(), &written);
    }

    #[test]
    fn report_without_optional_keys_is_read() {
        let mut old = serde_json::to_value(example()).unwrap();
        for key in ["series", "extent", "stolen", "untrusted_oracle"] {
            old.as_object_mut().unwrap().remove(key).unwrap();
        }
        let report = CompareReport::parse(&old.to_string()).unwrap();
        assert!(report.is_complete(), "nothing says otherwise");
        assert_eq!(report.series, Series::default());
    }

    #[test]
    fn another_format_is_named() {
        let refused = CompareReport::parse(r#"{"schema": "surge.compare/2"}"#).unwrap_err();
        assert!(refused.to_string().contains("surge.compare/2"), "{refused}");
    }
}
