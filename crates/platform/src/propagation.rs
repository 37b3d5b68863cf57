//! W3C trace context across every kind of edge: HTTP headers, gRPC metadata, NATS headers, and a `traceparent` column
//! in a database row. An answer that waits (HTTP, gRPC) continues the trace; data that was left for later (NATS, rows)
//! is linked to it, because its reader is somebody else's request.

use async_nats::HeaderMap as NatsHeaders;
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Name of the header, and of the column, that carries the trace context.
pub const TRACEPARENT: &str = "traceparent";

/// Makes `span` the child of whatever the HTTP headers carry.
pub fn continue_from_http(span: &Span, headers: &http::HeaderMap) {
    if headers.contains_key(TRACEPARENT) {
        // Fails only where no tracer is installed: then there is nothing to continue.
        let _ = span.set_parent(extract(&HttpCarrier(headers)));
    }
}

/// Writes the current trace context to the metadata of an outgoing gRPC call.
pub fn inject_grpc(metadata: &mut MetadataMap) {
    inject(&mut GrpcCarrier(metadata));
}

/// Writes the current trace context to the headers of a NATS message.
pub fn inject_nats(headers: &mut NatsHeaders) {
    inject(&mut NatsCarrier(headers));
}

/// The current trace context as a `traceparent` value for a database row; `None` outside a sampled trace.
pub fn traceparent() -> Option<String> {
    let mut column = Column(None);
    inject(&mut column);
    column.0
}

/// Links `span` to the trace that produced what it reads.
pub fn link(span: &Span, traceparent: &str) {
    let producer = extract(&Column(Some(traceparent.to_owned())));
    let producer = producer.span().span_context().clone();
    if producer.is_valid() {
        span.add_link(producer);
    }
}

/// The id under which the trace of `span` is found, 32 hexadecimal digits; `None` when nobody traces, and outside a
/// sampled trace: its id would open nothing.
pub fn trace_id(span: &Span) -> Option<String> {
    let context = span.context();
    let span = context.span();
    let trace = span.span_context();
    trace.is_sampled().then(|| trace.trace_id().to_string())
}

fn inject(carrier: &mut dyn Injector) {
    let context = Span::current().context();
    if context.span().span_context().is_sampled() {
        TraceContextPropagator::new().inject_context(&context, carrier);
    }
}

fn extract(carrier: &dyn Extractor) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), carrier)
}

struct HttpCarrier<'a>(&'a http::HeaderMap);

impl Extractor for HttpCarrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

struct GrpcCarrier<'a>(&'a mut MetadataMap);

impl Injector for GrpcCarrier<'_> {
    fn set(&mut self, key: &str, value: String) {
        let key = MetadataKey::from_bytes(key.as_bytes());
        if let (Ok(key), Ok(value)) = (key, MetadataValue::try_from(value)) {
            self.0.insert(key, value);
        }
    }
}

struct NatsCarrier<'a>(&'a mut NatsHeaders);

impl Injector for NatsCarrier<'_> {
    fn set(&mut self, key: &str, value: String) {
        if !value.is_empty() {
            self.0.insert(key, value.as_str());
        }
    }
}

/// A row has room for the `traceparent` alone; `tracestate` stays behind.
struct Column(Option<String>);

impl Injector for Column {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = Some(value);
        }
    }
}

impl Extractor for Column {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.as_deref().filter(|_| key == TRACEPARENT)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn trace_id_sampled_by(sampler: Sampler) -> Option<String> {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(traces);
        tracing::subscriber::with_default(subscriber, || trace_id(&tracing::info_span!("quote")))
    }

    #[test]
    fn only_a_trace_that_can_be_opened_has_an_id() {
        let sampled = trace_id_sampled_by(Sampler::AlwaysOn).unwrap();
        assert_eq!(sampled.len(), 32);
        assert_eq!(trace_id_sampled_by(Sampler::AlwaysOff), None);
        assert_eq!(trace_id(&Span::none()), None);
    }
}
