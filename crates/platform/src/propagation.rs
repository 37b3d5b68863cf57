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
//!
//! What a stranger sends is read by the letter of <https://www.w3.org/TR/trace-context/>, here and
//! not by the library, which parses numbers where the format fixes the text: to it `00-1-+2-01` is
//! a trace, which all callers with such a header would share. A malformed `traceparent` counts as
//! none, and a new trace begins; a malformed `tracestate` is dropped by itself.

use std::{borrow::Cow, collections::HashMap};

use async_nats::HeaderMap as NatsHeaders;
use http::{HeaderName, HeaderValue};
pub use opentelemetry::trace::TraceId;
use opentelemetry::{
    Context,
    propagation::TextMapPropagator,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceState},
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
    let caller = only(headers.get_all(&TRACEPARENT_HEADER));
    // Nearly every call of our own services carries `UNSAMPLED`, and it needs no parsing.
    let is_unsampled = caller.is_some_and(|value| value == UNSAMPLED);
    let caller = caller.filter(|_| !is_unsampled);
    let caller = caller.and_then(|value| parse(value.to_str().ok()?));
    let beginning = match &caller {
        _ if asked => Beginning::SampledRequest,
        Some(caller) => decision_of(caller),
        None if is_unsampled => Beginning::UnsampledRequest,
        None => Beginning::Request,
    };
    let span = sampling::first_span(beginning, make);
    if let Some(caller) = caller.filter(|_| !span.is_disabled()) {
        let (id, parent, flags) = (caller.trace_id(), caller.span_id(), caller.trace_flags());
        let caller = SpanContext::new(id, parent, flags, true, trace_state(headers));
        // Fails only where no tracer is installed: then there is nothing to continue.
        let _ = span.set_parent(Context::new().with_remote_span_context(caller));
    }
    span
}

fn decision_of(caller: &SpanContext) -> Beginning {
    match caller.is_sampled() {
        true => Beginning::SampledRequest,
        false => Beginning::UnsampledRequest,
    }
}

/// Makes the span under which a process takes up a message or a row of another trace: a trace of
/// its own, linked to that one, and sampled like that one.
pub fn take_up(producer: Option<&str>, make: impl FnOnce() -> Span) -> Span {
    let Some(producer) = producer.and_then(parse) else {
        return sampling::background_span(make);
    };
    let span = sampling::first_span(decision_of(&producer), make);
    if !span.is_disabled() {
        span.add_link(producer);
    }
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

/// Reads a `traceparent`, whose parts have fixed places: `00-<32 digits>-<16 digits>-<2 digits>`.
/// A later version than 00 may go on behind them, after one more hyphen.
fn parse(text: &str) -> Option<SpanContext> {
    let text = text.trim_matches([' ', '\t']);
    let (version, id, parent, flags) = (
        text.get(..2)?,
        text.get(3..35)?,
        text.get(36..52)?,
        text.get(53..55)?,
    );
    let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_read = [version, id, parent, flags]
        .iter()
        .all(|part| part.bytes().all(is_digit))
        && [2, 35, 52]
            .iter()
            .all(|place| text.as_bytes()[*place] == b'-')
        && match version {
            "00" => text.len() == 55,
            "ff" => false,
            _ => text[55..].is_empty() || text[55..].starts_with('-'),
        };
    if !is_read {
        return None;
    }
    let (id, parent) = (TraceId::from_hex(id).ok()?, SpanId::from_hex(parent).ok()?);
    // Of the flags, this version knows one.
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let context = SpanContext::new(id, parent, flags, true, TraceState::NONE);
    context.is_valid().then_some(context)
}

/// The `tracestate` beside a valid `traceparent`: all of its headers are one list.
fn trace_state(headers: &http::HeaderMap) -> TraceState {
    let lines = headers.get_all("tracestate").into_iter();
    let lines: Vec<Cow<'_, str>> = lines
        .map(|line| String::from_utf8_lossy(line.as_bytes()))
        .collect();
    let list = lines.join(",");
    let mut members = list
        .split(',')
        .map(|member| member.trim_matches([' ', '\t']));
    let is_valid = list
        .split(',')
        .filter(|member| !member.trim().is_empty())
        .count()
        <= 32
        && members.all(|member| {
            let is_printable = |byte| matches!(byte, b' '..=b'~') && byte != b'=';
            member.is_empty()
                || member.split_once('=').is_some_and(|(_, value)| {
                    (1..=256).contains(&value.len()) && value.bytes().all(is_printable)
                })
        });
    // The library checks the keys.
    let read = is_valid.then(|| list.parse().ok()).flatten();
    read.unwrap_or_default()
}

/// The only one: a header that was sent twice says nothing.
fn only<T>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut values = values.into_iter();
    values.next().filter(|_| values.next().is_none())
}

/// The `traceparent` of a message: its producer's trace.
pub fn left_in_message(headers: &NatsHeaders) -> Option<&str> {
    only(headers.get_all(TRACEPARENT)).map(|value| value.as_str())
}

/// Links `span` to the trace of the producer that left this `traceparent`.
pub fn link(span: &Span, traceparent: &str) {
    if span.is_disabled() {
        return;
    }
    if let Some(producer) = parse(traceparent) {
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
    sampled(&parse(traceparent)?)
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

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    #[test]
    fn reads_traceparent_by_the_letter() {
        let good = format!("00-{ID}-{PARENT}-01");
        let later = format!("cc-{ID}-{PARENT}-01");
        for good in [
            good.clone(),
            format!(" {good}\t"),
            good.replace("-01", "-ff"),
            later.clone(),
            format!("{later}-what-the-future-brings"),
        ] {
            let trace = trace_left_in(&good).expect(&good);
            assert_eq!(trace.to_string(), ID);
        }
        for wrong in [
            String::new(),
            "00-1-2-01".to_owned(),
            "00-+1-2-01".to_owned(),
            format!("0-{ID}-{PARENT}-01"),
            format!("00-{ID}-2-1"),
            format!("{good}-"),
            format!("{good}-more"),
            format!("{later}.more"),
            format!("ff-{ID}-{PARENT}-01"),
            good.to_uppercase(),
            good.replacen("0a", "+a", 1),
            good.replace('-', "_"),
            good.replace(ID, &"0".repeat(32)),
            good.replace(PARENT, &"0".repeat(16)),
            good.replace("-01", "-0g"),
            good.replace("0a", "\u{fc}"),
        ] {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
        assert_eq!(trace_left_in(&good.replace("-01", "-00")), None);
    }

    /// The trace that a request with these headers continues, and its `tracestate`.
    fn continued(headers: &[(&'static str, &str)]) -> Option<String> {
        let provider = SdkTracerProvider::builder().build();
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(traces);
        let mut map = http::HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        tracing::subscriber::with_default(subscriber, || {
            let span = continue_from_http(&map, || tracing::info_span!("HTTP"));
            let context = span.context();
            let context = context.span().span_context().clone();
            let is_continued = context.trace_id().to_string() == ID;
            is_continued.then(|| context.trace_state().header())
        })
    }

    #[test]
    fn trace_state_goes_on_within_its_limits() {
        let good = format!("00-{ID}-{PARENT}-01");
        let with = |states: &[&str]| {
            let states = states.iter().map(|state| ("tracestate", *state));
            let headers: Vec<_> = [(TRACEPARENT, &*good)].into_iter().chain(states).collect();
            continued(&headers).expect("the trace goes on whatever its state is")
        };
        assert_eq!(with(&["a=1 \t, \tb@c=~ 2", "", "d=3"]), "a=1,b@c=~ 2,d=3");
        let members = |number: usize| (0..number).map(|n| format!("k{n}=v")).collect::<Vec<_>>();
        assert_eq!(with(&[&members(32).join(",")]), members(32).join(","));
        let long = format!("k={}", "v".repeat(257));
        for wrong in [
            &*members(33).join(","),
            &long,
            "A=1",
            "a",
            "a=",
            "a==1",
            "a=1=2",
            "a=\u{fc}",
        ] {
            assert_eq!(with(&[wrong, "fine=1"]), "", "{wrong}");
        }
        assert_eq!(
            continued(&[(TRACEPARENT, &good), (TRACEPARENT, &good)]),
            None
        );
        assert_eq!(
            continued(&[(TRACEPARENT, "00-1-2-01"), ("tracestate", "a=1")]),
            None
        );
    }

    #[test]
    fn only_sampled_trace_has_id() {
        let sampled = trace_id_sampled_by(Sampler::AlwaysOn).unwrap();
        assert_eq!(sampled.len(), 32);
        assert_eq!(trace_id_sampled_by(Sampler::AlwaysOff), None);
        assert_eq!(trace_id(&Span::none()), None);
    }
}
