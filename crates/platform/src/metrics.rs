//! Prometheus metrics: one registry per process, made at the start and passed down. Names follow the semantic
//! conventions of OpenTelemetry in their Prometheus spelling.

use std::{sync::Arc, time::Duration};

use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text::encode},
    metrics::{counter::ConstCounter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use rustix::time::{ClockId, clock_gettime};

use crate::fault::Fault;

/// Bounds of a histogram of latencies, from 100 us to 10 s.
pub const LATENCY_BUCKETS_SECONDS: [f64; 15] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// A family of latency histograms, one for each set of labels.
pub type LatencyFamily<L> = Family<L, Histogram, fn() -> Histogram>;

/// Makes an empty [`LatencyFamily`].
pub fn latency_family<L: Clone + std::hash::Hash + Eq>() -> LatencyFamily<L> {
    Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS_SECONDS))
}

/// Requests that the edges of a service answered.
#[derive(Clone, Debug)]
pub struct EdgeMetrics {
    http: LatencyFamily<HttpLabels>,
    rpc: LatencyFamily<RpcLabels>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    http_request_method: &'static str,
    http_route: Arc<str>,
    http_response_status_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabels {
    rpc_method: Arc<str>,
    rpc_response_status_code: u16,
}

impl EdgeMetrics {
    /// Registers the metrics of both edges.
    pub fn register(registry: &mut Registry) -> Self {
        let edges = Self {
            http: latency_family(),
            rpc: latency_family(),
        };
        registry.register_with_unit(
            "http_server_request_duration",
            "Time to answer an HTTP request",
            Unit::Seconds,
            edges.http.clone(),
        );
        registry.register_with_unit(
            "rpc_server_call_duration",
            "Time to answer a gRPC call",
            Unit::Seconds,
            edges.rpc.clone(),
        );
        edges
    }

    pub(crate) fn http_answered(
        &self,
        method: &http::Method,
        route: Arc<str>,
        status: u16,
        took: Duration,
    ) {
        let labels = HttpLabels {
            http_request_method: known_method(method),
            http_route: route,
            http_response_status_code: status,
        };
        self.http.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn rpc_answered(&self, method: Arc<str>, status: u16, took: Duration) {
        let labels = RpcLabels {
            rpc_method: method,
            rpc_response_status_code: status,
        };
        self.rpc.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

/// A method as a label; whatever a stranger invents counts as `_OTHER`, so that labels stay bounded.
pub(crate) fn known_method(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "PUT" => "PUT",
        "POST" => "POST",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "_OTHER",
    }
}

/// `GET /metrics`, in the OpenMetrics text format.
pub fn router(mut registry: Registry) -> Router {
    registry.register_collector(Box::new(ProcessorTime));
    let registry = Arc::new(registry);
    Router::new().route(
        "/metrics",
        get(move || async move { exposition(&registry) }),
    )
}

/// How much processor time this process has used since its start.
#[derive(Debug)]
struct ProcessorTime;

impl Collector for ProcessorTime {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = ConstCounter::new(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9);
        let metric = encoder.encode_descriptor(
            "process_cpu_time",
            "Processor time of this process, all threads",
            Some(&Unit::Seconds),
            seconds.metric_type(),
        )?;
        seconds.encode(metric)
    }
}

fn exposition(registry: &Registry) -> Result<impl IntoResponse + use<>, Fault> {
    let mut text = String::new();
    encode(&mut text, registry).map_err(Fault::internal)?;
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, open_metrics)], text))
}
