//! Turns OTLP messages into held spans.
//!
//! A sender chooses the number of attributes, events and links, the length of texts, and the times.
//! All of them are bounded here. A span over a limit is cut and marked, not refused: a trace with a
//! cut attribute explains more than no trace.

use std::{collections::VecDeque, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{self as otlp, ScopeSpans, status::StatusCode},
};

use crate::{
    ids::{SpanId, TraceId},
    span::{Link, Span, SpanEvent, SpanKind, SpanProcess, Tag, TagValue},
    texts::SharedTexts,
};

/// Attributes kept of a span, an event or a process.
const MAX_ATTRIBUTES: usize = 64;

/// Events kept of a span.
const MAX_EVENTS: usize = 64;

/// Links kept of a span: far more than a person can follow.
const MAX_LINKS: usize = 128;

/// Bytes kept of a text.
const MAX_TEXT_BYTES: usize = 2_048;

/// Processes that later batches can share; a local stack has about five.
const MAX_PROCESSES: usize = 64;

/// Jaeger's name for a service without a name.
const UNNAMED_SERVICE: &str = "unknown_service";

/// Reads batches, and shares texts and processes between them.
#[derive(Debug)]
pub(super) struct SpanReader {
    texts: SharedTexts,
    processes: VecDeque<Arc<SpanProcess>>,
    /// Whether a part of the current span was over a limit.
    cut: bool,
}

/// The content of one export request.
#[derive(Debug)]
pub(super) struct SpanBatch {
    pub(super) spans: Vec<(TraceId, Span)>,
    /// Spans without a valid trace id or span id.
    pub(super) rejected: usize,
}

/// The common parts of all spans of one instrumentation scope.
struct Origin<'a> {
    process: &'a Arc<SpanProcess>,
    scope: Option<&'a InstrumentationScope>,
    received_ns: u64,
}

impl SpanReader {
    pub(super) fn new() -> Self {
        Self {
            texts: SharedTexts::new(),
            processes: VecDeque::new(),
            cut: false,
        }
    }

    /// Reads a request that was received at `received_ns`.
    pub(super) fn read(
        &mut self,
        request: ExportTraceServiceRequest,
        received_ns: u64,
    ) -> SpanBatch {
        let mut batch = SpanBatch {
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
        process: &Arc<SpanProcess>,
        received_ns: u64,
        batch: &mut SpanBatch,
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
            start_ns,
            duration_ns,
            tags: self.span_tags(span, origin.scope),
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

    /// The process of this resource, shared with earlier batches.
    fn process(&mut self, resource: &Resource) -> Arc<SpanProcess> {
        let process = SpanProcess {
            service: self.service(resource),
            tags: self
                .tags(
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

    fn event(&mut self, event: &otlp::span::Event) -> SpanEvent {
        let mut fields = vec![self.text_tag("event", &event.name)];
        fields.append(&mut self.tags(&event.attributes));
        SpanEvent {
            at_ns: event.time_unix_nano,
            fields: fields.into(),
        }
    }

    /// The span's attributes, and the tags that Jaeger derives from its scope, kind and status.
    fn span_tags(&mut self, span: &otlp::Span, scope: Option<&InstrumentationScope>) -> Box<[Tag]> {
        let mut tags = self.tags(&span.attributes);
        if let Some(scope) = scope.filter(|scope| !scope.name.is_empty()) {
            tags.push(self.text_tag("otel.scope.name", &scope.name));
        }
        if let Some(name) = kind(span.kind()).name() {
            tags.push(self.text_tag("span.kind", name));
        }
        let Some(status) = &span.status else {
            return tags.into();
        };
        match status.code() {
            StatusCode::Unset => {}
            StatusCode::Ok => tags.push(self.text_tag("otel.status_code", "OK")),
            StatusCode::Error => {
                tags.push(Tag {
                    key: self.text("error"),
                    value: TagValue::Bool(true),
                });
                tags.push(self.text_tag("otel.status_code", "ERROR"));
                if !status.message.is_empty() {
                    tags.push(self.text_tag("otel.status_description", &status.message));
                }
            }
        }
        tags.into()
    }

    fn tags<'a>(&mut self, attributes: impl IntoIterator<Item = &'a KeyValue>) -> Vec<Tag> {
        let mut attributes = attributes.into_iter();
        let kept = attributes.by_ref().take(MAX_ATTRIBUTES);
        let tag = |own: &KeyValue| Tag {
            key: self.text(&own.key),
            value: self.value(own.value.as_ref()),
        };
        let kept = kept.map(tag).collect();
        self.cut |= attributes.next().is_some();
        kept
    }

    fn text_tag(&mut self, key: &str, text: &str) -> Tag {
        Tag {
            key: self.text(key),
            value: TagValue::Text(self.text(text)),
        }
    }

    fn value(&mut self, value: Option<&AnyValue>) -> TagValue {
        match value.and_then(|value| value.value.as_ref()) {
            Some(any_value::Value::BoolValue(own)) => TagValue::Bool(*own),
            Some(any_value::Value::IntValue(own)) => TagValue::Int(*own),
            // JSON has no number for infinities and "not a number".
            Some(any_value::Value::DoubleValue(own)) if own.is_finite() => TagValue::Double(*own),
            Some(any_value::Value::DoubleValue(own)) => TagValue::Text(self.text(&own.to_string())),
            Some(any_value::Value::StringValue(own)) => TagValue::Text(self.text(own)),
            nested => TagValue::Text(self.text(&json_text(nested))),
        }
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        match cut(text) {
            Some(head) => {
                self.cut = true;
                format!("{head}…").into()
            }
            None => self.texts.share(text),
        }
    }
}

/// The start and duration of a span. A span without a start is shown at its end or arrival. One
/// that ends before it starts, because a clock was set back, has no duration.
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

fn kind(kind: otlp::span::SpanKind) -> SpanKind {
    use otlp::span::SpanKind as Otlp;
    match kind {
        Otlp::Unspecified => SpanKind::Unspecified,
        Otlp::Internal => SpanKind::Internal,
        Otlp::Server => SpanKind::Server,
        Otlp::Client => SpanKind::Client,
        Otlp::Producer => SpanKind::Producer,
        Otlp::Consumer => SpanKind::Consumer,
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

/// Lists, maps and bytes as JSON text, with at most as many elements as a text may have bytes.
fn json_text(value: Option<&any_value::Value>) -> String {
    value.map(json).unwrap_or_default().to_string()
}

/// Recursion is bounded: the protobuf decoder refuses messages with over a hundred levels.
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
        // An index into a table of another signal (profiles), which a trace does not have.
        any_value::Value::StringValueStrindex(_) => serde_json::Value::Null,
    }
}
