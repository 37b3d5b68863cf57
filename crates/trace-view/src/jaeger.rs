//! Jaeger's JSON: traces as the UI reads them. Times are microseconds; processes are named p1, p2,
//! ... within each trace.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{
    ids::TraceId,
    span::{Span, SpanEvent, SpanProcess, Tag},
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

/// An error, which the UI shows.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorJson {
    pub(crate) code: u16,
    pub(crate) msg: String,
    #[serde(rename = "traceID", skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<String>,
}

/// Traces that become JSON one by one: in Jaeger's shape all of them would take more memory than
/// their text.
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
    tags: &'a [Tag],
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
struct LogJson<'a> {
    timestamp: u64,
    fields: &'a [Tag],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessJson<'a> {
    service_name: &'a str,
    tags: &'a [Tag],
}

impl<T> Envelope<T> {
    /// An answer with everything that was found.
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
    /// An answer with an error and `null` for its data.
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
            tags: &span.tags,
            logs: span.events.iter().map(LogJson::from).collect(),
            process_id,
            warnings: span
                .cut
                .then_some(["parts of this span were over a limit and are missing"]),
        }
    }
}

impl<'a> From<&'a SpanEvent> for LogJson<'a> {
    fn from(event: &'a SpanEvent) -> Self {
        Self {
            timestamp: event.at_ns / 1_000,
            fields: &event.fields,
        }
    }
}

impl<'a> From<&'a SpanProcess> for ProcessJson<'a> {
    fn from(process: &'a SpanProcess) -> Self {
        Self {
            service_name: &process.service,
            tags: &process.tags,
        }
    }
}

/// The name of a process within its trace. A new one joins the list, which is short.
fn process_id<'a>(known: &mut Vec<&'a SpanProcess>, process: &'a Arc<SpanProcess>) -> String {
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

/// The references of a span, its parent first: the UI draws a span below the first reference of the
/// same trace.
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
