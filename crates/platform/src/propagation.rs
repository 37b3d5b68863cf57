//! W3C trace context across every kind of edge: HTTP headers, gRPC metadata, NATS headers, and a `traceparent` column
//! in a database row. An answer that waits (HTTP, gRPC) continues the trace; data that was left for later (NATS, rows)
//! is linked to it, because its reader is somebody else's request.

use async_nats::HeaderMap as NatsHeaders;
use http::{HeaderName, HeaderValue};
pub use opentelemetry::trace::TraceId;
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::sampling::{self, Beginning};

/// Name of the header, and of the column, that carries the trace context.
pub const TRACEPARENT: &str = "traceparent";

/// [`TRACEPARENT`], ready to be looked up.
static TRACEPARENT_HEADER: HeaderName = HeaderName::from_static(TRACEPARENT);

static TRACE_HEADER: HeaderName = HeaderName::from_static(sampling::TRACE_HEADER);

/// Makes the first span of a request: the child of the span in its headers, or the first of a trace, or disabled, as the
/// caller or the sampler decides.
pub fn continue_from_http(headers: &http::HeaderMap, make: impl FnOnce() -> Span) -> Span {
    let asked = headers.get(&TRACE_HEADER).is_some_and(|on| on == "on");
    let traceparent = headers.get(&TRACEPARENT_HEADER);
    // Nearly every call of our own services carries `UNSAMPLED`, and it needs no parsing.
    let caller = traceparent.filter(|value| *value != UNSAMPLED);
    let caller = caller.map(|_| extract(&HttpCarrier(headers)));
    let beginning = match &caller {
        _ if asked => Beginning::SampledRequest,
        Some(caller) => decision_of(caller),
        None if traceparent.is_some() => Beginning::UnsampledRequest,
        None => Beginning::Request,
    };
    let span = sampling::first_span(beginning, make);
    if let Some(caller) = caller.filter(|_| !span.is_disabled()) {
        // Fails only where no tracer is installed: then there is nothing to continue.
        let _ = span.set_parent(caller);
    }
    span
}

/// Makes the span under which a process takes up a message or a row of another trace: a trace of its own, linked to that
/// one, and sampled like that one.
pub fn take_up(producer: Option<&str>, make: impl FnOnce() -> Span) -> Span {
    let Some(producer) = producer else {
        return sampling::background_span(make);
    };
    let span = sampling::first_span(Beginning::SampledRequest, make);
    link(&span, producer);
    span
}

fn decision_of(caller: &Context) -> Beginning {
    let span = caller.span();
    let caller = span.span_context();
    match (caller.is_valid(), caller.is_sampled()) {
        (false, _) => Beginning::Request,
        (true, true) => Beginning::SampledRequest,
        (true, false) => Beginning::UnsampledRequest,
    }
}

/// Writes the current trace context to the headers of an outgoing gRPC call. Where there is none, the headers say so, or
/// the callee would begin a trace in the middle of a request.
pub fn inject_http(headers: &mut http::HeaderMap) {
    if Span::current().is_disabled() {
        headers.insert(&TRACEPARENT_HEADER, HeaderValue::from_static(UNSAMPLED));
    } else {
        inject(&mut HttpInjector(headers));
    }
}

/// A `traceparent` that says no more than that nobody traces this.
const UNSAMPLED: &str = "00-00000000000000000000000000000001-0000000000000001-00";

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
    if span.is_disabled() {
        return;
    }
    let producer = extract(&Column(Some(traceparent.to_owned())));
    let producer = producer.span().span_context().clone();
    if producer.is_valid() {
        span.add_link(producer);
    }
}

/// The id under which the trace of `span` is found, 32 hexadecimal digits; `None` when nobody traces, and outside a
/// sampled trace: its id would open nothing.
pub fn trace_id(span: &Span) -> Option<String> {
    sampled_trace(span).map(|trace| trace.to_string())
}

/// The trace of `span`, if it is sampled: [`trace_id`] for whoever need not write it out.
pub fn sampled_trace(span: &Span) -> Option<TraceId> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let trace = span.span_context();
    trace.is_sampled().then(|| trace.trace_id())
}

/// The trace that a producer left in a `traceparent`, if it was sampled: any other would open nothing.
pub fn trace_left_in(traceparent: &str) -> Option<TraceId> {
    let producer = extract(&Column(Some(traceparent.to_owned())));
    let span = producer.span();
    let trace = span.span_context();
    (trace.is_valid() && trace.is_sampled()).then(|| trace.trace_id())
}

fn inject(carrier: &mut dyn Injector) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    let context = span.context();
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

struct HttpInjector<'a>(&'a mut http::HeaderMap);

impl Injector for HttpInjector<'_> {
    fn set(&mut self, key: &str, value: String) {
        let key = HeaderName::from_bytes(key.as_bytes());
        if let (Ok(key), Ok(value)) = (key, HeaderValue::try_from(value)) {
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
    fn the_trace_that_a_producer_left_is_read_if_it_can_be_opened() {
        let left = |flags| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        let trace = trace_left_in(&left("01")).unwrap();
        assert_eq!(trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace_left_in(&left("00")), None);
        assert_eq!(trace_left_in("hello"), None);
        assert_eq!(trace_left_in(""), None);
    }

    #[test]
    fn only_a_trace_that_can_be_opened_has_an_id() {
        let sampled = trace_id_sampled_by(Sampler::AlwaysOn).unwrap();
        assert_eq!(sampled.len(), 32);
        assert_eq!(trace_id_sampled_by(Sampler::AlwaysOff), None);
        assert_eq!(trace_id(&Span::none()), None);
    }
}
