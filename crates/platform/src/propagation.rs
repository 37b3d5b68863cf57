//! How a trace goes on in another process: W3C trace context in HTTP headers, gRPC metadata, NATS
//! headers, and in a column `traceparent` of database rows.
//!
//! ```text
//!  quote ──▶ call ──▶ callee's span     the quote waits: the callee continues its trace
//!  publisher ~~ message ~~▶ quote       the message waited: the quote's trace links to it
//! ```
//!
//! A message or a row that was left for later is linked, because its reader belongs to another
//! request, and to many publishers at once.

use std::collections::HashMap;

use async_nats::HeaderMap as NatsHeaders;
use http::{HeaderName, HeaderValue};
pub use opentelemetry::trace::TraceId;
use opentelemetry::{
    Context,
    propagation::TextMapPropagator,
    trace::{SpanContext, TraceContextExt},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::sampling::{self, Beginning};

/// Name of the header, and of the column, that carries the trace context.
pub const TRACEPARENT: &str = "traceparent";

static TRACEPARENT_HEADER: HeaderName = HeaderName::from_static(TRACEPARENT);

static TRACE_HEADER: HeaderName = HeaderName::from_static(sampling::TRACE_HEADER);

/// A `traceparent` that says only that the caller does not trace its request.
const UNSAMPLED: &str = "00-00000000000000000000000000000001-0000000000000001-00";

/// Makes the first span of a request: the child of the span in its headers, or the first of a
/// trace, or disabled, as the caller or the sampler decides.
pub fn continue_from_http(headers: &http::HeaderMap, make: impl FnOnce() -> Span) -> Span {
    let asked = headers.get(&TRACE_HEADER).is_some_and(|on| on == "on");
    let traceparent = headers.get(&TRACEPARENT_HEADER);
    // Nearly every call of our own services carries `UNSAMPLED`, and it needs no parsing.
    let caller = traceparent.filter(|value| *value != UNSAMPLED);
    let caller = caller.map(|_| {
        let names = [TRACEPARENT, "tracestate"].into_iter();
        extract(names.filter_map(|name| Some((name, headers.get(name)?.to_str().ok()?))))
    });
    let beginning = match &caller {
        _ if asked => Beginning::SampledRequest,
        Some(caller) => decision_of(caller.span().span_context()),
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

fn decision_of(caller: &SpanContext) -> Beginning {
    match (caller.is_valid(), caller.is_sampled()) {
        (false, _) => Beginning::Request,
        (true, true) => Beginning::SampledRequest,
        (true, false) => Beginning::UnsampledRequest,
    }
}

/// Makes the span under which a process takes up a message or a row of another trace: a trace of
/// its own, linked to that one, and sampled like that one.
pub fn take_up(producer: Option<&str>, make: impl FnOnce() -> Span) -> Span {
    let Some(producer) = producer else {
        return sampling::background_span(make);
    };
    let span = sampling::first_span(Beginning::SampledRequest, make);
    link(&span, producer);
    span
}

/// Writes the current trace context to the headers of an outgoing gRPC call. Without a trace the
/// headers say so, or the callee would begin one in the middle of a request.
pub fn inject_http(headers: &mut http::HeaderMap) {
    if Span::current().is_disabled() {
        headers.insert(&TRACEPARENT_HEADER, HeaderValue::from_static(UNSAMPLED));
        return;
    }
    for (name, value) in current() {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.insert(name, value);
        }
    }
}

/// Writes the current trace context to the headers of a NATS message.
pub fn inject_nats(headers: &mut NatsHeaders) {
    for (key, value) in current() {
        headers.insert(key, value);
    }
}

/// The current trace context as a `traceparent` value for a database row; `None` outside a sampled
/// trace.
pub fn traceparent() -> Option<String> {
    current().remove(TRACEPARENT)
}

/// The headers of the current trace context; none outside a sampled trace.
fn current() -> HashMap<String, String> {
    let mut headers = HashMap::new();
    let span = Span::current();
    if sampled_trace(&span).is_some() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
        headers.retain(|_, value| !value.is_empty());
    }
    headers
}

fn extract<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Context {
    let headers = headers.into_iter();
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let headers: HashMap<String, String> = headers.collect();
    TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
}

/// Links `span` to the trace of the producer that left this `traceparent`.
pub fn link(span: &Span, traceparent: &str) {
    if span.is_disabled() {
        return;
    }
    let producer = extract([(TRACEPARENT, traceparent)]);
    let producer = producer.span().span_context().clone();
    if producer.is_valid() {
        span.add_link(producer);
    }
}

/// The id of the trace of `span`, 32 hexadecimal digits; `None` outside a sampled trace, whose id
/// would open nothing.
pub fn trace_id(span: &Span) -> Option<String> {
    sampled_trace(span).map(|trace| trace.to_string())
}

/// The trace of `span`, if it is sampled: [`trace_id`] for a caller that need not write it out.
pub fn sampled_trace(span: &Span) -> Option<TraceId> {
    if span.is_disabled() {
        return None;
    }
    sampled(span.context().span().span_context())
}

/// The trace in a `traceparent` that a producer left, if it is valid and sampled.
pub fn trace_left_in(traceparent: &str) -> Option<TraceId> {
    sampled(extract([(TRACEPARENT, traceparent)]).span().span_context())
}

fn sampled(span: &SpanContext) -> Option<TraceId> {
    (span.is_valid() && span.is_sampled()).then(|| span.trace_id())
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
    fn reads_producers_trace_if_sampled() {
        let left = |flags| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        let trace = trace_left_in(&left("01")).unwrap();
        assert_eq!(trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace_left_in(&left("00")), None);
        assert_eq!(trace_left_in("hello"), None);
        assert_eq!(trace_left_in(""), None);
    }

    #[test]
    fn only_sampled_trace_has_id() {
        let sampled = trace_id_sampled_by(Sampler::AlwaysOn).unwrap();
        assert_eq!(sampled.len(), 32);
        assert_eq!(trace_id_sampled_by(Sampler::AlwaysOff), None);
        assert_eq!(trace_id(&Span::none()), None);
    }
}
