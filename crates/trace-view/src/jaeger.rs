//! Jaeger's JSON: traces as the UI reads them, borrowed from the store's snapshot and written once.
//! Times are microseconds there; processes are named p1, p2, ... within each trace.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{
    ids::TraceId,
    span::{Event, Process, Span, Tag, TagValue, tags_of},
    store::Trace,
};

/// The envelope of every answer of the query API.
#[derive(Debug, Serialize)]
pub(crate) struct Envelope<T> {
    pub(crate) data: T,
    pub(crate) total: usize,
    pub(crate) limit: usize,
    pub(crate) offset: usize,
    pub(crate) errors: Option<Vec<ErrorJson>>,
}

/// One thing that went wrong, in words that the UI shows.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorJson {
    pub(crate) code: u16,
    pub(crate) msg: String,
    #[serde(rename = "traceID", skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<String>,
}

/// Traces, each turned into JSON only when its turn comes: the whole answer in Jaeger's shape would
/// take more memory than its text.
#[derive(Debug)]
pub(crate) struct TracesJson<'a>(pub(crate) &'a [Trace]);

/// A trace as the UI reads it.
#[derive(Debug, Serialize)]
struct TraceJson<'a> {
    #[serde(rename = "traceID")]
    trace_id: String,
    spans: Vec<SpanJson<'a>>,
    processes: BTreeMap<String, ProcessJson<'a>>,
    warnings: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanJson<'a> {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    operation_name: &'a str,
    references: Vec<ReferenceJson>,
    start_time: u64,
    duration: u64,
    tags: Vec<TagJson<'a>>,
    logs: Vec<LogJson<'a>>,
    #[serde(rename = "processID")]
    process_id: String,
    warnings: Option<[&'static str; 1]>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReferenceJson {
    ref_type: &'static str,
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Debug, Serialize)]
struct TagJson<'a> {
    key: &'a str,
    r#type: &'static str,
    value: TagValue<'a>,
}

#[derive(Debug, Serialize)]
struct LogJson<'a> {
    timestamp: u64,
    fields: Vec<TagJson<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessJson<'a> {
    service_name: &'a str,
    tags: Vec<TagJson<'a>>,
}

impl<T> Envelope<T> {
    /// An answer with all that was found.
    pub(crate) fn found(total: usize, data: T) -> Self {
        Self {
            data,
            total,
            limit: 0,
            offset: 0,
            errors: None,
        }
    }
}

impl Envelope<()> {
    /// An answer that is only an error; its `data` is null.
    pub(crate) fn error(error: ErrorJson) -> Self {
        Self {
            data: (),
            total: 0,
            limit: 0,
            offset: 0,
            errors: Some(vec![error]),
        }
    }
}

impl Serialize for TracesJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(TraceJson::from))
    }
}

impl<'a> From<&'a Trace> for TraceJson<'a> {
    fn from(trace: &'a Trace) -> Self {
        let mut processes = Vec::new();
        let spans = trace.spans.iter().map(|span| {
            let process_id = process_id(&mut processes, &span.process);
            SpanJson::new(trace.id, span, process_id)
        });
        Self {
            trace_id: trace.id.to_string(),
            spans: spans.collect(),
            processes: processes
                .into_iter()
                .zip(1..)
                .map(|(process, number)| (name(number), process.into()))
                .collect(),
            warnings: warning(trace),
        }
    }
}

impl<'a> SpanJson<'a> {
    fn new(trace: TraceId, span: &'a Span, process_id: String) -> Self {
        Self {
            trace_id: trace.to_string(),
            span_id: span.id.to_string(),
            operation_name: &span.operation,
            references: references(trace, span),
            start_time: span.start_ns / 1_000,
            duration: span.duration_ns / 1_000,
            tags: span.tags().map(TagJson::from).collect(),
            logs: span.events.iter().map(LogJson::from).collect(),
            process_id,
            warnings: span
                .cut
                .then_some(["parts of this span were over a limit and are missing"]),
        }
    }
}

impl<'a> From<Tag<'a>> for TagJson<'a> {
    fn from(tag: Tag<'a>) -> Self {
        Self {
            key: tag.key,
            r#type: tag.value.type_name(),
            value: tag.value,
        }
    }
}

impl<'a> From<&'a Event> for LogJson<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            timestamp: event.at_ns / 1_000,
            fields: event.fields().map(TagJson::from).collect(),
        }
    }
}

impl<'a> From<&'a Process> for ProcessJson<'a> {
    fn from(process: &'a Process) -> Self {
        Self {
            service_name: &process.service,
            tags: tags_of(&process.attributes).map(TagJson::from).collect(),
        }
    }
}

/// The name of a process within its trace; a new one joins the list. Traces come from few
/// processes.
fn process_id<'a>(known: &mut Vec<&'a Process>, process: &'a Arc<Process>) -> String {
    let position = known
        .iter()
        .position(|own| std::ptr::eq(*own, &**process))
        .unwrap_or_else(|| {
            known.push(process);
            known.len() - 1
        });
    name(position + 1)
}

fn name(process_number: usize) -> String {
    format!("p{process_number}")
}

/// The parent first: the UI hangs a span under the first reference that it finds in the same trace.
fn references(trace: TraceId, span: &Span) -> Vec<ReferenceJson> {
    let parent = span.parent.map(|parent| ReferenceJson {
        ref_type: "CHILD_OF",
        trace_id: trace.to_string(),
        span_id: parent.to_string(),
    });
    let links = span.links.iter().map(|link| ReferenceJson {
        ref_type: "FOLLOWS_FROM",
        trace_id: link.trace.to_string(),
        span_id: link.span.to_string(),
    });
    parent.into_iter().chain(links).collect()
}

fn warning(trace: &Trace) -> Option<Vec<String>> {
    let held = trace.spans.len();
    (trace.dropped > 0).then(|| {
        vec![format!(
            "only the first {held} spans are held, {} came later",
            trace.dropped
        )]
    })
}
