//! Logs and traces of a process. Logs go to standard error: JSON for machines, plain lines on a terminal. Traces go to
//! the collector that the standard `OTEL_*` variables name; with none named, no span leaves the process. Telemetry that
//! fails never fails a request: spans wait in a bounded queue, and what does not fit is dropped.

use std::io::IsTerminal;

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::sampling::{HeadSampling, Sampler, UnknownSampler};

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
    /// Starts logs and, where a collector is named, traces under `service_name` (`OTEL_SERVICE_NAME` overrides it).
    ///
    /// # Errors
    /// See [`TelemetryError`]. A collector that is not there is no error.
    pub fn start(
        service_name: &'static str,
        version: &'static str,
    ) -> Result<Self, TelemetryError> {
        let provider = tracer_provider(service_name, version)?;
        let traces = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer().with_tracer(provider.tracer(service_name))
        });
        let sampler = match provider {
            Some(_) => Sampler::from_env()?,
            None => Sampler::OFF,
        };
        let filter = EnvFilter::builder()
            .with_default_directive(tracing::Level::INFO.into())
            .from_env()?;
        tracing_subscriber::registry()
            .with(logs())
            .with(traces)
            .with(HeadSampling::new(sampler))
            // Outermost: what it excludes, such as the spans that libraries make for themselves, costs nothing then.
            .with(filter)
            .try_init()?;
        Ok(Self { provider })
    }

    /// Exports what is left, within the exporter's own deadline. What cannot be exported is dropped.
    pub fn finish(self) {
        if let Some(provider) = self.provider {
            // The collector may be gone already; nobody is left to care.
            let _ = provider.shutdown();
        }
    }
}

/// Logs are made of events alone: wording the fields of every span would cost more than the quotes that it is about.
fn logs() -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        let lines = lines.compact();
        lines
            .with_filter(filter_fn(|metadata| metadata.is_event()))
            .boxed()
    } else {
        let lines = lines.json().with_ansi(false).with_current_span(false);
        lines
            .with_span_list(false)
            .with_filter(filter_fn(|metadata| metadata.is_event()))
            .boxed()
    }
}

fn tracer_provider(
    service_name: &'static str,
    version: &'static str,
) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    if !collector_is_named() {
        return Ok(None);
    }
    let exporter = SpanExporter::builder().with_tonic().build()?;
    let name = std::env::var("OTEL_SERVICE_NAME").unwrap_or_else(|_| service_name.to_owned());
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new("service.version", version))
        .with_attribute(KeyValue::new("service.namespace", "surge"))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        // What is not wanted never becomes a span: `sampling`.
        .with_sampler(opentelemetry_sdk::trace::Sampler::AlwaysOn)
        .with_resource(resource)
        .build();
    Ok(Some(provider))
}

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
