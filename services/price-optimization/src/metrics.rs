//! What is counted of quotes. The handles of each mode are looked up once, at the start, so that counting a quote
//! touches nothing but atomics.

use std::time::Duration;

use platform::metrics::LATENCY_BUCKETS_SECONDS;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use surge_proto::DataflowMode;

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
    duration: Histogram,
    data_age: Histogram,
}

impl QuoteMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let quotes = Family::<QuoteLabels, Counter>::default();
        let duration: Family<DataflowLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS_SECONDS));
        let data_age: Family<DataflowLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(AGE_BUCKETS_SECONDS));
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
    ) {
        let metrics = &self.by_mode[mode as usize];
        if degraded {
            &metrics.degraded
        } else {
            &metrics.quoted
        }
        .inc();
        metrics.duration.observe(took.as_secs_f64());
        if let Some(age) = data_age {
            metrics.data_age.observe(age.as_secs_f64());
        }
        self.multiplier.observe(multiplier);
    }

    pub(crate) fn failed(&self, mode: DataflowMode, took: Duration) {
        let metrics = &self.by_mode[mode as usize];
        metrics.failed.inc();
        metrics.duration.observe(took.as_secs_f64());
    }
}
