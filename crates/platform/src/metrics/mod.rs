//! Prometheus metrics. A process makes one registry at its start and passes it to the parts that
//! count. Names follow the semantic conventions of OpenTelemetry in their Prometheus spelling;
//! docs/telemetry.md has them all.

pub mod clients;
mod ending;
mod latency;
mod process;
mod scrape;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::info::Info,
    registry::{Registry, Unit},
};
use tracing::Span;

pub use self::{
    ending::report_end,
    latency::{Durations, LATENCY_BUCKETS_SECONDS, LatencyFamily, latency_family},
    scrape::{Scrape, on_scrape},
};
use crate::identity::Identity;

/// Registers the metrics that every process has, but those of its telemetry.
pub(crate) fn register(registry: &mut Registry, identity: Identity) {
    process::register(registry);
    let target = Info::new(identity.labels());
    registry.register("target", "What this process is", target);
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let build = Info::new([("version", identity.version), ("profile", profile)]);
    registry.register("surge_build", "How this process was built", build);
    clients::register(registry);
}

/// Requests that came to the edges of a service.
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
    rpc_system_name: &'static str,
    rpc_method: Arc<str>,
    rpc_response_status_code: &'static str,
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
            "Time until an HTTP request was answered, or given up by its caller",
            Unit::Seconds,
            edges.http.clone(),
        );
        registry.register_with_unit(
            "rpc_server_call_duration",
            "Time until a gRPC call was answered, or given up by its caller",
            Unit::Seconds,
            edges.rpc.clone(),
        );
        edges
    }

    pub(crate) fn http_ended(
        &self,
        method: &'static str,
        route: Arc<str>,
        status: u16,
        took: Duration,
        span: &Span,
    ) {
        let labels = HttpLabels {
            http_request_method: method,
            http_route: route,
            http_response_status_code: status,
        };
        self.http.get_or_create(&labels).observe(took, span);
    }

    pub(crate) fn rpc_ended(
        &self,
        method: Arc<str>,
        status: &'static str,
        took: Duration,
        span: &Span,
    ) {
        let labels = RpcLabels {
            rpc_system_name: "grpc",
            rpc_method: method,
            rpc_response_status_code: status,
        };
        self.rpc.get_or_create(&labels).observe(took, span);
    }
}

/// A method as a label. A method that is not in the list counts as `_OTHER`, so that the number of
/// labels stays bounded.
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
pub(crate) fn router(registry: Registry) -> Router {
    let registry = Arc::new(registry);
    Router::new().route(
        "/metrics",
        get(move || async move { exposition(&registry) }),
    )
}

fn exposition(registry: &Registry) -> Result<impl IntoResponse + use<>, StatusCode> {
    let mut text = String::new();
    encode(&mut text, registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, open_metrics)], text))
}
