//! The receipt of a comparison: what `compare.json` holds, key by key. A figure that was not measured is `null`.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;

use super::baseline::Baseline;
use super::capacity::{Capacities, Capacity};
use super::climb::Breakpoint;
use super::extent::Extent;
use super::machine::Machine;
use super::market_cost::MarketCost;
use super::measure::Measured;
use super::series::Series;
use super::stolen::StolenByPhase;
use super::tally::Tally;
use super::workload::Arrivals;
use city::CityOutcome;
use engine::Transport;

/// The name and version of this format.
pub const SCHEMA: &str = "surge.compare/1";

/// One comparison.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// When the run began, RFC 3339, real time.
    pub started_at: String,
    /// The commit that was compared.
    pub git: Option<String>,
    /// Where it ran.
    pub machine: Machine,
    /// What the hypervisor took of it meanwhile.
    #[serde(default)]
    pub stolen: StolenByPhase,
    /// What was asked of it.
    pub workload: Workload,
    /// Whether the figures may be believed.
    pub valid: bool,
    /// Why not, a sentence each; empty when valid.
    pub void_reasons: Vec<String>,
    /// How much of what was asked for was done; `None` in receipts from before that was told.
    #[serde(default)]
    pub extent: Option<Extent>,
    /// What a reader should know besides; a warning does not void the run.
    pub warnings: Vec<String>,
    /// The figures of each mode that was asked.
    pub modes: BTreeMap<DataflowMode, ModeFigures>,
    /// What the frameworks alone can do on this machine.
    pub floors: Floors,
    /// What the load generator itself takes.
    pub generator: Generator,
    /// The market that was priced.
    pub city: Market,
    /// The changes since an older run, where one was named.
    #[serde(default)]
    pub baseline: Option<Baseline>,
    /// What the charts are drawn from.
    #[serde(default)]
    pub series: Series,
    /// What data as old as each mode's costs the market; `None` when that was left out.
    #[serde(default)]
    pub market_cost: Option<MarketCost>,
    /// Where the rate broke a dataflow; `None` where the scenario did not look for that.
    #[serde(default)]
    pub breakpoint: Option<Breakpoint>,
}

impl Report {
    /// Whether the run came to its end.
    pub(crate) fn is_complete(&self) -> bool {
        self.extent.is_none_or(|extent| extent.complete)
    }

    /// Bare servers speak HTTP only. Quotes over another transport are not held against them, and what the load generator
    /// takes for those was not measured.
    pub(crate) fn without_what_another_transport_told(mut self) -> Self {
        if self.workload.transport != Transport::Http {
            self.generator = Generator::default();
            for mode in self.modes.values_mut() {
                mode.share_of_floor = None;
            }
        }
        self
    }

    /// Whether capacities were looked for, and any was found.
    pub(crate) fn has_capacities(&self) -> bool {
        self.modes
            .values()
            .any(|mode| mode.capacity_per_s.is_some())
    }
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
    /// Quotes asked a second, all modes together.
    pub rate_per_s: u32,
    /// How they follow one another.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// How they were asked.
    #[serde(default)]
    pub transport: Transport,
    /// Length of the measurement, real seconds.
    pub seconds: u32,
    /// How the rate changed during the measurement; empty for a level one.
    #[serde(default)]
    pub rate_steps: Vec<RateStep>,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RateStep {
    /// Quotes asked a second, all modes together.
    pub rate_per_s: u32,
    /// Length, real seconds.
    pub seconds: f64,
}

/// What happened in the city meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Market {
    /// Drivers in the fleet.
    pub fleet: usize,
    /// Market time when the first measured quote was asked, RFC 3339.
    pub measured_from: Option<String>,
    /// Market time when the last measured quote was asked, RFC 3339.
    pub measured_until: Option<String>,
    /// Riders and rides from the start of the warm-up to the end; not read again, since no page shows it.
    #[serde(skip_deserializing)]
    pub outcome: Option<CityOutcome>,
}

/// The figures of one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModeFigures {
    /// Quotes answered and found right.
    pub quotes: u64,
    /// Quotes asked that brought no right answer.
    pub errors: u64,
    /// Quotes priced without surge for want of fresh data.
    pub degraded: u64,
    /// Quotes asked a second.
    pub offered_per_s: Option<f64>,
    /// Quotes answered a second.
    pub achieved_per_s: Option<f64>,
    /// From the intended send to the complete answer.
    pub latency_us: LatencyMicros,
    /// Age of the older feed behind the price, real time.
    pub data_age_ms: AgeMillis,
    /// CheckedQuote minus oracle.
    pub multiplier_error: MultiplierError,
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

/// How far the quoted multipliers were from the oracle's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MultiplierError {
    /// Mean absolute difference.
    pub mean_abs: Option<f64>,
    /// Share of quotes off by 0.2 or more, 0 to 1.
    pub share_off_by_0_2: Option<f64>,
}

/// The bare frameworks.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Floors {
    /// A bare HTTP handler: the floor of `events`.
    pub http: Floor,
    /// A bare HTTP handler with two bare gRPC calls: the floor of `request`.
    pub rpc_fanout: Floor,
    /// A bare HTTP handler with one indexed SQL read: the floor of `database`.
    pub sql_row: Floor,
}

/// The load generator, measured against the bare HTTP handler.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Generator {
    /// The rate beyond which it would measure itself.
    pub ceiling_per_s: Option<f64>,
    /// Its processor time for one quote, asked, checked and recorded.
    pub cpu_us_per_quote: Option<f64>,
}

impl Generator {
    /// The figures of a run with a bare HTTP handler among the floors.
    pub(crate) fn of(capacities: &Capacities) -> Self {
        let bare = capacities.floors.get(&DataflowMode::Events);
        Self {
            ceiling_per_s: bare.and_then(Capacity::median),
            cpu_us_per_quote: bare
                .and_then(Capacity::generator_us_per_quote)
                .map(|micros| round(micros, 1)),
        }
    }
}

/// One bare framework.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Floor {
    /// Highest rate with p99 at or under 50 ms and no error: the median of the rounds.
    pub capacity_per_s: Option<f64>,
    /// The lowest and the highest of the rounds.
    pub capacity_range_per_s: Option<[u32; 2]>,
    /// Latency at the rate at which a mode was asked in the comparison.
    pub latency_us: LatencyMicros,
}

/// The figures of every mode that was measured.
pub(crate) fn figures(
    measured: &Measured,
    capacities: &Capacities,
) -> BTreeMap<DataflowMode, ModeFigures> {
    let each = |(&mode, tally): (&DataflowMode, &Tally)| {
        let mut figures = mode_figures(tally, measured);
        figures.add(capacities.modes.get(&mode), capacities.floors.get(&mode));
        (mode, figures)
    };
    measured.tallies.iter().map(each).collect()
}

impl ModeFigures {
    fn add(&mut self, capacity: Option<&Capacity>, floor: Option<&Capacity>) {
        let of_floor = floor.and_then(Capacity::median);
        self.capacity_per_s = capacity.and_then(Capacity::median);
        self.capacity_range_per_s = capacity.and_then(Capacity::range);
        self.cpu_us_per_quote = capacity
            .and_then(Capacity::cpu_us_per_quote)
            .map(|micros| round(micros, 1));
        self.share_of_floor = self
            .capacity_per_s
            .zip(of_floor)
            .map(|(mode, floor)| round(mode / floor, 3));
    }
}

impl Floors {
    /// The figures of the floors that were measured.
    pub(crate) fn of(capacities: &Capacities) -> Self {
        let under = |mode| capacities.floors.get(&mode).map(Floor::of);
        Self {
            http: under(DataflowMode::Events).unwrap_or_default(),
            rpc_fanout: under(DataflowMode::Request).unwrap_or_default(),
            sql_row: under(DataflowMode::Database).unwrap_or_default(),
        }
    }

    /// The floor that a mode stands on.
    pub(crate) const fn under(&self, mode: DataflowMode) -> &Floor {
        match mode {
            DataflowMode::Events => &self.http,
            DataflowMode::Request => &self.rpc_fanout,
            DataflowMode::Database => &self.sql_row,
        }
    }
}

impl Floor {
    fn of(capacity: &Capacity) -> Self {
        Self {
            capacity_per_s: capacity.median(),
            capacity_range_per_s: capacity.range(),
            latency_us: latency(&capacity.quiet),
        }
    }
}

fn mode_figures(tally: &Tally, measured: &Measured) -> ModeFigures {
    let per_second = |count: u64, span: Option<Duration>| {
        let seconds = span?.as_secs_f64();
        (seconds > 0.0).then(|| round(count as f64 / seconds, 1))
    };
    ModeFigures {
        quotes: tally.quotes,
        errors: tally.errors(),
        degraded: tally.degraded,
        offered_per_s: per_second(tally.offered, measured.paced_for()),
        achieved_per_s: per_second(tally.quotes, measured.answered_within),
        latency_us: latency(&tally.latency),
        data_age_ms: data_age(&tally.data_age),
        multiplier_error: MultiplierError {
            mean_abs: tally.deviation.mean_abs().map(|mean| round(mean, 4)),
            share_off_by_0_2: tally
                .deviation
                .share_off_by_0_2()
                .map(|share| round(share, 4)),
        },
        capacity_per_s: None,
        capacity_range_per_s: None,
        cpu_us_per_quote: None,
        share_of_floor: None,
    }
}

/// The percentiles of a histogram of microseconds.
pub(crate) fn latency(histogram: &Histogram<u64>) -> LatencyMicros {
    let at = |quantile| (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile));
    LatencyMicros {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
    }
}

fn data_age(histogram: &Histogram<u64>) -> AgeMillis {
    let at = |quantile| {
        let micros = (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))?;
        Some(micros as f64 / 1000.0)
    };
    AgeMillis {
        p50: at(0.5),
        p99: at(0.99),
        max: at(1.0),
    }
}

fn round(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

/// A hand-made report; no run ever gave these figures.
#[cfg(test)]
pub(crate) fn example() -> Report {
    let figures = |p50, p99, age_p50, age_p99, mean_abs, share| ModeFigures {
        quotes: 6000,
        errors: 0,
        degraded: 0,
        offered_per_s: Some(100.0),
        achieved_per_s: Some(100.0),
        latency_us: LatencyMicros {
            p50: Some(p50),
            p90: Some(p50 * 2),
            p99: Some(p99),
            p999: Some(p99 * 2),
            max: Some(p99 * 3),
        },
        data_age_ms: AgeMillis {
            p50: Some(age_p50),
            p99: Some(age_p99),
            max: Some(age_p99),
        },
        multiplier_error: MultiplierError {
            mean_abs: Some(mean_abs),
            share_off_by_0_2: Some(share),
        },
        capacity_per_s: None,
        capacity_range_per_s: None,
        cpu_us_per_quote: None,
        share_of_floor: None,
    };
    Report {
        schema: SCHEMA.to_owned(),
        started_at: "2000-01-01T00:00:00Z (made up in a test)".to_owned(),
        git: None,
        machine: Machine {
            cpus: Some(2),
            memory_gib: Some(24.0),
        },
        stolen: StolenByPhase::default(),
        workload: Workload {
            scenario: "friday-evening".to_owned(),
            seed: 1,
            speed: 60.0,
            rate_per_s: 300,
            arrivals: Arrivals::Constant,
            transport: Transport::Http,
            seconds: 60,
            rate_steps: Vec::new(),
        },
        valid: true,
        void_reasons: Vec::new(),
        extent: Some(Extent {
            complete: true,
            planned_s: 60.0,
            measured_s: 60.0,
            ..Extent::default()
        }),
        warnings: vec!["these figures were made up in a test".to_owned()],
        modes: BTreeMap::from([
            (
                DataflowMode::Database,
                figures(612, 2_310, 2_540.0, 4_980.0, 0.0561, 0.112),
            ),
            (
                DataflowMode::Request,
                figures(1_105, 4_210, 0.9, 2.1, 0.0008, 0.0),
            ),
            (
                DataflowMode::Events,
                figures(301, 1_190, 141.0, 287.0, 0.0061, 0.0),
            ),
        ]),
        floors: Floors::default(),
        generator: Generator::default(),
        city: Market {
            fleet: 240,
            measured_from: Some("2014-04-04T21:20:00.000Z".to_owned()),
            measured_until: Some("2014-04-04T22:20:00.000Z".to_owned()),
            outcome: None,
        },
        baseline: None,
        series: Series::default(),
        market_cost: None,
        breakpoint: None,
    }
}
