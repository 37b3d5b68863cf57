//! From OTLP messages to held spans. Everything that a sender chooses freely is bounded here, once:
//! how many attributes, events and links, how long a text, how odd a time. Nothing is refused for
//! being large or strange, it is cut and marked, because a trace with a cut attribute still
//! explains more than no trace.

use std::{collections::VecDeque, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{self as otlp, ScopeSpans, span::SpanKind, status::StatusCode},
};

use crate::{
    ids::{SpanId, TraceId},
    span::{Attribute, Event, Kind, Link, Process, Span, Status, Value},
    words::Words,
};

/// Attributes kept of a span, an event or a process.
const MAX_ATTRIBUTES: usize = 64;

/// Events kept of a span.
const MAX_EVENTS: usize = 64;

/// Links kept of a span: far more than a fan-in has that a person can follow.
const MAX_LINKS: usize = 128;

/// Bytes kept of a text.
const MAX_TEXT_BYTES: usize = 2_048;

/// Processes remembered to be shared by later batches; a local stack has about five.
const MAX_PROCESSES: usize = 64;

/// Jaeger's name for a program that does not say what it is called.
const UNNAMED_SERVICE: &str = "unknown_service";

/// What is shared from one batch to the next.
#[derive(Debug)]
pub(super) struct Intake {
    words: Words,
    processes: VecDeque<Arc<Process>>,
    /// Whether something of the span being read was over the limits.
    cut: bool,
}

/// The content of one export request.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) spans: Vec<(TraceId, Span)>,
    /// Spans without a valid trace id or span id.
    pub(super) rejected: usize,
}

/// What all spans of one instrumentation scope share.
struct Origin<'a> {
    process: &'a Arc<Process>,
    scope: Option<&'a InstrumentationScope>,
    received_ns: u64,
}

impl Intake {
    pub(super) fn new() -> Self {
        Self {
            words: Words::new(),
            processes: VecDeque::new(),
            cut: false,
        }
    }

    /// Reads a request that was received at `received_ns`.
    pub(super) fn read(&mut self, request: ExportTraceServiceRequest, received_ns: u64) -> Batch {
        let mut batch = Batch {
            spans: Vec::new(),
            rejected: 0,
        };
        for resource_spans in request.resource_spans {
            let process = self.process(&resource_spans.resource.unwrap_or_default());
            for scope_spans in resource_spans.scope_spans {
                self.read_scope(&scope_spans, &process, received_ns, &mut batch);
            }
        }
        batch
    }

    fn read_scope(
        &mut self,
        scoped: &ScopeSpans,
        process: &Arc<Process>,
        received_ns: u64,
        batch: &mut Batch,
    ) {
        let origin = Origin {
            process,
            scope: scoped.scope.as_ref(),
            received_ns,
        };
        for span in &scoped.spans {
            match self.span(span, &origin) {
                Some(read) => batch.spans.push(read),
                None => batch.rejected += 1,
            }
        }
    }

    fn span(&mut self, span: &otlp::Span, origin: &Origin<'_>) -> Option<(TraceId, Span)> {
        let trace = TraceId::from_wire(&span.trace_id)?;
        let id = SpanId::from_wire(&span.span_id)?;
        let (start_ns, duration_ns) = times(span, origin.received_ns);
        let dropped_before =
            span.dropped_attributes_count + span.dropped_events_count + span.dropped_links_count;
        self.cut =
            dropped_before > 0 || span.events.len() > MAX_EVENTS || span.links.len() > MAX_LINKS;
        let held = Span {
            id,
            // The UI would hide a span that calls itself its own parent.
            parent: SpanId::from_wire(&span.parent_span_id).filter(|parent| *parent != id),
            operation: self.text(&span.name),
            process: Arc::clone(origin.process),
            kind: kind(span.kind()),
            status: self.status(span.status.as_ref()),
            start_ns,
            duration_ns,
            attributes: self.span_attributes(span, origin.scope),
            events: span
                .events
                .iter()
                .take(MAX_EVENTS)
                .map(|event| self.event(event))
                .collect(),
            links: span.links.iter().filter_map(link).take(MAX_LINKS).collect(),
            cut: self.cut,
        };
        Some((trace, held))
    }

    /// The shared process of this resource, remembered among the last few.
    fn process(&mut self, resource: &Resource) -> Arc<Process> {
        let process = Process {
            service: self.service(resource),
            attributes: self
                .attributes(
                    resource
                        .attributes
                        .iter()
                        .filter(|own| own.key != "service.name"),
                )
                .into(),
        };
        if let Some(known) = self.processes.iter().find(|known| ***known == process) {
            return Arc::clone(known);
        }
        let process = Arc::new(process);
        self.processes.truncate(MAX_PROCESSES - 1);
        self.processes.push_front(Arc::clone(&process));
        process
    }

    fn service(&mut self, resource: &Resource) -> Arc<str> {
        let named = resource
            .attributes
            .iter()
            .find(|own| own.key == "service.name");
        match named.and_then(|own| own.value.as_ref()?.value.as_ref()) {
            Some(any_value::Value::StringValue(name)) if !name.is_empty() => self.text(name),
            _ => self.text(UNNAMED_SERVICE),
        }
    }

    fn status(&mut self, status: Option<&otlp::Status>) -> Status {
        let Some(status) = status else {
            return Status::Unset;
        };
        match status.code() {
            StatusCode::Unset => Status::Unset,
            StatusCode::Ok => Status::Ok,
            StatusCode::Error => {
                Status::Error((!status.message.is_empty()).then(|| self.text(&status.message)))
            }
        }
    }

    fn event(&mut self, event: &otlp::span::Event) -> Event {
        Event {
            at_ns: event.time_unix_nano,
            name: self.text(&event.name),
            attributes: self.attributes(&event.attributes).into(),
        }
    }

    /// The span's attributes, and the library that made the span as Jaeger tags it.
    fn span_attributes(
        &mut self,
        span: &otlp::Span,
        scope: Option<&InstrumentationScope>,
    ) -> Box<[Attribute]> {
        let mut attributes = self.attributes(&span.attributes);
        if let Some(scope) = scope.filter(|scope| !scope.name.is_empty()) {
            attributes.push(Attribute {
                key: self.text("otel.scope.name"),
                value: Value::Text(self.text(&scope.name)),
            });
        }
        attributes.into()
    }

    fn attributes<'a>(
        &mut self,
        attributes: impl IntoIterator<Item = &'a KeyValue>,
    ) -> Vec<Attribute> {
        let mut attributes = attributes.into_iter();
        let kept = attributes.by_ref().take(MAX_ATTRIBUTES);
        let kept = kept.map(|attribute| self.attribute(attribute)).collect();
        self.cut |= attributes.next().is_some();
        kept
    }

    fn attribute(&mut self, attribute: &KeyValue) -> Attribute {
        Attribute {
            key: self.text(&attribute.key),
            value: self.value(attribute.value.as_ref()),
        }
    }

    fn value(&mut self, value: Option<&AnyValue>) -> Value {
        match value.and_then(|value| value.value.as_ref()) {
            Some(any_value::Value::BoolValue(own)) => Value::Bool(*own),
            Some(any_value::Value::IntValue(own)) => Value::Int(*own),
            // JSON has no number for infinities and "not a number".
            Some(any_value::Value::DoubleValue(own)) if own.is_finite() => Value::Double(*own),
            Some(any_value::Value::DoubleValue(own)) => Value::Text(self.text(&own.to_string())),
            Some(any_value::Value::StringValue(own)) => Value::Text(self.text(own)),
            nested => Value::Text(self.text(&json_text(nested))),
        }
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        match cut(text) {
            Some(head) => {
                self.cut = true;
                format!("{head}…").into()
            }
            None => self.words.share(text),
        }
    }
}

/// When a span started and how long it took. A span without a start is shown where it ended or
/// arrived, one that ends before it starts (a clock was set back) as an instant.
fn times(span: &otlp::Span, received_ns: u64) -> (u64, u64) {
    let known = [
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        received_ns,
    ];
    let start_ns = known
        .into_iter()
        .find(|time| *time > 0)
        .unwrap_or(received_ns);
    (start_ns, span.end_time_unix_nano.saturating_sub(start_ns))
}

fn kind(kind: SpanKind) -> Kind {
    match kind {
        SpanKind::Unspecified => Kind::Unspecified,
        SpanKind::Internal => Kind::Internal,
        SpanKind::Server => Kind::Server,
        SpanKind::Client => Kind::Client,
        SpanKind::Producer => Kind::Producer,
        SpanKind::Consumer => Kind::Consumer,
    }
}

fn link(link: &otlp::span::Link) -> Option<Link> {
    Some(Link {
        trace: TraceId::from_wire(&link.trace_id)?,
        span: SpanId::from_wire(&link.span_id)?,
    })
}

/// The head of a text that is too long, ending at a whole character.
fn cut(text: &str) -> Option<&str> {
    (text.len() > MAX_TEXT_BYTES).then(|| &text[..text.floor_char_boundary(MAX_TEXT_BYTES)])
}

/// Lists, maps and bytes as JSON text, with no more elements than the text may have bytes.
fn json_text(value: Option<&any_value::Value>) -> String {
    value.map(json).unwrap_or_default().to_string()
}

/// Recursion is bounded: the protobuf decoder refuses messages nested deeper than a hundred.
fn json(value: &any_value::Value) -> serde_json::Value {
    let inner = |value: &AnyValue| value.value.as_ref().map(json).unwrap_or_default();
    match value {
        any_value::Value::StringValue(own) => own.as_str().into(),
        any_value::Value::BoolValue(own) => (*own).into(),
        any_value::Value::IntValue(own) => (*own).into(),
        any_value::Value::DoubleValue(own) => (*own).into(),
        any_value::Value::BytesValue(own) => own.iter().take(MAX_TEXT_BYTES).copied().collect(),
        any_value::Value::ArrayValue(list) => {
            list.values.iter().take(MAX_TEXT_BYTES).map(inner).collect()
        }
        any_value::Value::KvlistValue(map) => {
            let entry = |own: &KeyValue| {
                (
                    own.key.clone(),
                    own.value.as_ref().map(inner).unwrap_or_default(),
                )
            };
            serde_json::Value::Object(map.values.iter().take(MAX_TEXT_BYTES).map(entry).collect())
        }
        // An index into a table of another signal (profiles); in a trace it points at nothing.
        any_value::Value::StringValueStrindex(_) => serde_json::Value::Null,
    }
}
