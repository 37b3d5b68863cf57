//! The metrics of this service: counters of quotes by mode, counters of batch runs, and gauges that
//! are read when Prometheus scrapes. The counters of each mode are looked up once, at the start, so
//! that counting a quote touches nothing but its own counters. `lib.rs` registers all of them;
//! gauges get the function that reads their value.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use marketplace::{surge::Multiplier, zone::Zone};
use platform::metrics::{Durations, LatencyFamily, latency_family, on_scrape};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use surge_proto::DataflowMode;
use tracing::Span;

use crate::control::ModeInForce;

/// Bounds of data age, in real seconds: from a gRPC round trip to a nightly batch.
const AGE_BUCKETS_SECONDS: [f64; 14] = [
    0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3_600.0, 86_400.0,
];

/// Bounds of the multiplier.
const MULTIPLIER_BUCKETS: [f64; 10] = [1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuoteLabels {
    dataflow: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DataflowLabels {
    dataflow: &'static str,
}

/// The metrics of quotes, by mode.
#[derive(Clone, Debug)]
pub(crate) struct QuoteMetrics {
    by_mode: [ModeMetrics; DataflowMode::ALL.len()],
    multiplier: Histogram,
}

#[derive(Clone, Debug)]
struct ModeMetrics {
    quoted: Counter,
    degraded: Counter,
    failed: Counter,
    duration: Durations,
    data_age: Durations,
}

impl QuoteMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let quotes = Family::<QuoteLabels, Counter>::default();
        let duration: LatencyFamily<DataflowLabels> = latency_family();
        let data_age: LatencyFamily<DataflowLabels> =
            Family::new_with_constructor(|| Durations::within(AGE_BUCKETS_SECONDS));
        let multiplier = Histogram::new(MULTIPLIER_BUCKETS);
        registry.register("surge_quotes", "Quotes asked for", quotes.clone());
        registry.register_with_unit(
            "surge_quote_duration",
            "Time to make a quote",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register_with_unit(
            "surge_data_age",
            "Age of the older feed at the moment of the quote, in real time",
            Unit::Seconds,
            data_age.clone(),
        );
        registry.register("surge_multiplier", "Multipliers quoted", multiplier.clone());

        let by_mode = DataflowMode::ALL.map(|mode| {
            let dataflow = mode.as_str();
            let counter = |outcome| {
                quotes
                    .get_or_create(&QuoteLabels { dataflow, outcome })
                    .clone()
            };
            ModeMetrics {
                quoted: counter("quoted"),
                degraded: counter("degraded"),
                failed: counter("failed"),
                duration: duration.get_or_create(&DataflowLabels { dataflow }).clone(),
                data_age: data_age.get_or_create(&DataflowLabels { dataflow }).clone(),
            }
        });
        Self {
            by_mode,
            multiplier,
        }
    }

    pub(crate) fn quoted(
        &self,
        mode: DataflowMode,
        took: Duration,
        data_age: Option<Duration>,
        multiplier: f64,
        degraded: bool,
        span: &Span,
    ) {
        let metrics = &self.by_mode[mode as usize];
        if degraded {
            &metrics.degraded
        } else {
            &metrics.quoted
        }
        .inc();
        metrics.duration.observe(took, span);
        if let Some(age) = data_age {
            metrics.data_age.observe(age, span);
        }
        self.multiplier.observe(multiplier);
    }

    pub(crate) fn failed(&self, mode: DataflowMode, took: Duration, span: &Span) {
        let metrics = &self.by_mode[mode as usize];
        metrics.failed.inc();
        metrics.duration.observe(took, span);
    }
}

/// Registers `surge_dataflow_in_force{dataflow}` and `surge_dataflow_epoch`.
pub(crate) fn register_mode(
    registry: &mut Registry,
    current: impl Fn() -> ModeInForce + Send + Sync + 'static,
) {
    on_scrape(registry, move |scrape| {
        let in_force = current();
        let is_in_force = |mode| i64::from(mode == in_force.mode);
        let rows = DataflowMode::ALL.map(|mode| ([("dataflow", mode.as_str())], is_in_force(mode)));
        let help = "1 for the dataflow mode in force, 0 for the others";
        scrape.gauges("surge_dataflow_in_force", help, rows);
        let help = "How often the dataflow mode was switched";
        scrape.gauge("surge_dataflow_epoch", help, in_force.epoch);
    });
}

/// Registers `surge_feed_age_seconds{feed}`; a feed without a watermark yet has no age.
pub(crate) fn register_feed_ages(
    registry: &mut Registry,
    ages: impl Fn() -> [(&'static str, Option<Duration>); 2] + Send + Sync + 'static,
) {
    on_scrape(registry, move |scrape| {
        let ages = ages().into_iter();
        let rows = ages.filter_map(|(feed, age)| Some(([("feed", feed)], age?.as_secs_f64())));
        let help = "Age of the newest watermark of a feed of the dataflow events, in real time";
        scrape.gauges("surge_feed_age_seconds", help, rows);
    });
}

/// Registers `surge_zone_multiplier{zone}`; a zone whose data is too old for a price has none.
pub(crate) fn register_multipliers(
    registry: &mut Registry,
    multipliers: impl Fn() -> Vec<(Zone, Multiplier)> + Send + Sync + 'static,
) {
    on_scrape(registry, move |scrape| {
        let multipliers = multipliers().into_iter();
        let rows = multipliers
            .map(|(zone, multiplier)| ([("zone", zone.to_string())], multiplier.as_f64()));
        let help = "Multiplier of a zone, from the local state of the dataflow events";
        scrape.gauges("surge_zone_multiplier", help, rows);
    });
}

/// The metrics of the batch job.
#[derive(Debug)]
pub(crate) struct BatchMetrics {
    runs: Family<OutcomeLabel, Counter>,
    duration: LatencyFamily<OutcomeLabel>,
    last_success: Gauge<f64, AtomicU64>,
    rows: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl BatchMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            runs: Family::default(),
            duration: latency_family(),
            last_success: Gauge::default(),
            rows: Gauge::default(),
        };
        for outcome in ["done", "failed"] {
            metrics.runs.get_or_create_owned(&OutcomeLabel { outcome });
        }
        let help = "Runs of the batch job";
        registry.register("surge_batch_runs", help, metrics.runs.clone());
        let (name, help) = ("surge_batch_duration", "How long a run took");
        registry.register_with_unit(name, help, Unit::Seconds, metrics.duration.clone());
        let name = "surge_batch_last_success_timestamp";
        let help = "When the last run that succeeded ended, Unix time; 0 before the first";
        registry.register_with_unit(name, help, Unit::Seconds, metrics.last_success.clone());
        let help = "Zones that the last run wrote";
        registry.register("surge_batch_rows", help, metrics.rows.clone());
        metrics
    }

    /// Counts a run that wrote a number of rows, or failed.
    pub(crate) fn ran(&self, run: &anyhow::Result<usize>, took: Duration, span: &Span) {
        let outcome = OutcomeLabel {
            outcome: if run.is_ok() { "done" } else { "failed" },
        };
        self.runs.get_or_create(&outcome).inc();
        self.duration.get_or_create(&outcome).observe(took, span);
        if let Ok(rows) = run {
            self.rows.set(*rows as i64);
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            self.last_success.set(now.unwrap_or_default().as_secs_f64());
        }
    }
}
