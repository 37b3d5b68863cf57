//! Logs, traces and metrics of a process.
//!
//! ```text
//!  info!, info_span! ─▶ RUST_LOG ─▶ Sampler ─┬─▶ spans ─▶ bounded queue ─▶ collector
//!                                            ├─▶ log lines ─▶ standard error
//!                                                 └─▶ counts of log lines
//!  registry ◀── Prometheus scrapes /metrics
//! ```
//!
//! Log lines are JSON for machines and plain text on a terminal. Traces go to the collector that
//! the standard `OTEL_*` variables name; without one no span leaves the process. Telemetry that
//! fails never fails a request: when the queue of spans is full, the process drops new ones and
//! counts them.

mod logs;
mod spans;

use std::str::FromStr as _;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus_client::registry::Registry;
use tracing_subscriber::{
    EnvFilter, filter::Directive, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::{
    identity::Identity,
    metrics,
    sampling::{Sampler, UnknownSampler},
};

/// A registry with the metrics that every process has.
pub fn registry(identity: Identity) -> Registry {
    let mut registry = Registry::default();
    metrics::register(&mut registry, identity);
    logs::register(&mut registry);
    spans::register(&mut registry);
    registry
}

/// Telemetry of the process. Keep it until the end, then [`finish`](Telemetry::finish).
#[derive(Debug)]
#[must_use = "spans that were not exported are lost unless finish() is called"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter's settings make no sense.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT or a sibling of it is wrong: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// `OTEL_TRACES_SAMPLER` or its argument makes no sense.
    #[error(transparent)]
    Sampler(#[from] UnknownSampler),
    /// `RUST_LOG` makes no sense.
    #[error("RUST_LOG is wrong: {0}")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// A subscriber was there already.
    #[error("telemetry was started twice in one process: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

impl Telemetry {
    /// Starts logs and, where a collector is named, traces.
    ///
    /// # Errors
    /// See [`TelemetryError`]. A collector that is not there is no error.
    pub fn start(identity: Identity) -> Result<Self, TelemetryError> {
        let provider = tracer_provider(identity)?;
        let traces = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer().with_tracer(provider.tracer(identity.name))
        });
        let sampler = match provider {
            Some(_) => Sampler::from_env()?,
            None => Sampler::OFF,
        };
        tracing_subscriber::registry()
            .with(logs::layer())
            .with(logs::Counting)
            .with(traces)
            .with(sampler)
            // Outermost, so that the spans that it excludes cost nothing: libraries make some for
            // themselves.
            .with(filter()?)
            .try_init()?;
        Ok(Self { provider })
    }

    /// Exports the spans that wait, within the exporter's own deadline, and drops the rest.
    pub fn finish(self) {
        if let Some(provider) = self.provider {
            // The collector may be gone already, and so may everybody who would want to know.
            let _ = provider.shutdown();
        }
    }
}

fn tracer_provider(identity: Identity) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    if !collector_is_named() {
        return Ok(None);
    }
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let provider = SdkTracerProvider::builder()
        .with_resource(identity.resource())
        .with_span_processor(spans::processor(exporter))
        // `Sampler` has decided before.
        .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOn)
        .build();
    Ok(Some(provider))
}

/// `RUST_LOG`, by default `info`. The SDK would log every export that fails; `spans` logs the
/// first.
fn filter() -> Result<EnvFilter, TelemetryError> {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env()?;
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    if asked.contains("opentelemetry") {
        return Ok(filter);
    }
    let quiet = QUIET_LIBRARIES.map(|library| Directive::from_str(&format!("{library}=off")));
    Ok(quiet
        .into_iter()
        .flatten()
        .fold(filter, EnvFilter::add_directive))
}

const QUIET_LIBRARIES: [&str; 2] = ["opentelemetry_sdk", "opentelemetry_otlp"];

fn collector_is_named() -> bool {
    let named = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ]
    .iter()
    .any(|variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty()));
    let disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value == "true")
        || std::env::var("OTEL_TRACES_EXPORTER").is_ok_and(|value| value == "none");
    named && !disabled
}
