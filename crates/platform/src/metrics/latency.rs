//! Histograms of durations that point at traces. Each bucket keeps one request whose trace was
//! sampled, as an *exemplar* of OpenMetrics:
//!
//! ```text
//!  surge_quote_duration_seconds_bucket{le="0.05"} 17 # {trace_id="5b8a…"} 0.04
//! ```
//!
//! A dashboard draws the exemplar as a dot, and the dot opens the trace. A request without a trace
//! leaves none.

use std::{
    fmt::Write as _,
    hash::Hash,
    time::{Duration, SystemTime},
};

use opentelemetry::trace::TraceId;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder, MetricEncoder},
    metrics::{MetricType, TypedMetric, exemplar::HistogramWithExemplars, family::Family},
};
use tracing::Span;

use crate::propagation;

/// Bounds of a histogram of latencies, from 100 us to 10 s; 50 ms is an objective of the quotes.
pub const LATENCY_BUCKETS_SECONDS: [f64; 15] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// A histogram of durations in seconds.
#[derive(Clone, Debug)]
pub struct Durations(HistogramWithExemplars<Exemplar>);

/// A family of latency histograms, one for each set of labels.
pub type LatencyFamily<L> = Family<L, Durations, fn() -> Durations>;

/// Makes an empty [`LatencyFamily`].
pub fn latency_family<L: Clone + Hash + Eq>() -> LatencyFamily<L> {
    Family::new_with_constructor(|| Durations::within(LATENCY_BUCKETS_SECONDS))
}

impl Durations {
    /// An empty histogram with these bounds, in seconds.
    pub fn within(bounds_seconds: impl IntoIterator<Item = f64>) -> Self {
        Self(HistogramWithExemplars::new(bounds_seconds.into_iter()))
    }

    /// Records one duration. If `span` belongs to a sampled trace, that trace becomes the exemplar
    /// of the bucket.
    pub fn observe(&self, duration: Duration, span: &Span) {
        let exemplar = propagation::sampled_trace(span).map(|trace| Exemplar {
            trace_id: Hex(trace),
        });
        let at = exemplar.as_ref().map(|_| SystemTime::now());
        self.0.observe(duration.as_secs_f64(), exemplar, at);
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exemplar {
    trace_id: Hex,
}

/// Becomes text only when Prometheus scrapes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Hex(TraceId);

impl EncodeLabelValue for Hex {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        write!(encoder, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn only_traced_request_becomes_exemplar() {
        let provider = SdkTracerProvider::builder().build();
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(traces);
        let durations = Durations::within(LATENCY_BUCKETS_SECONDS);
        let trace = tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("quote");
            durations.observe(Duration::from_millis(40), &span);
            durations.observe(Duration::from_millis(4), &Span::none());
            propagation::trace_id(&span).unwrap()
        });
        let mut registry = Registry::default();
        registry.register("quote", "Quotes", durations);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();

        let exemplars: Vec<&str> = text.lines().filter(|line| line.contains(" # ")).collect();
        let [exemplar] = exemplars[..] else {
            panic!("one exemplar expected in\n{text}");
        };
        let expected = format!("quote_bucket{{le=\"0.05\"}} 2 # {{trace_id=\"{trace}\"}} 0.04 ");
        assert!(exemplar.starts_with(&expected), "{exemplar}");
    }
}
