//! Which service calls which, counted from the traces in memory: the UI's page *System
//! Architecture*. A call is a span whose parent, or whose link, belongs to another service. A link
//! counts too: an event from one service to another is a call for which the caller does not wait.
//! A database and a broker send no spans; the spans of their clients name them.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::{
    ids::{SpanId, TraceId},
    span::{Span, SpanKind, Tag, TagValue},
    store::Trace,
};

/// The calls from one service to another.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceCalls<'a> {
    pub(crate) parent: &'a str,
    pub(crate) child: &'a str,
    pub(crate) call_count: usize,
}

/// Counts the calls between services, sorted by their names.
pub(crate) fn count_calls(traces: &[Trace]) -> Vec<ServiceCalls<'_>> {
    let services = services_by_span(traces);
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (trace, span) in spans(traces) {
        let child = &*span.process.service;
        let callers = origins(trace, span).filter_map(|origin| services.get(&origin).copied());
        for parent in callers.filter(|parent| *parent != child) {
            *counts.entry((parent, child)).or_default() += 1;
        }
        if let Some(server) = server_of(span) {
            let call = match span.kind {
                SpanKind::Consumer => (server, child),
                _ => (child, server),
            };
            *counts.entry(call).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .map(|((parent, child), call_count)| ServiceCalls {
            parent,
            child,
            call_count,
        })
        .collect()
}

/// The database or broker of which the span is a client.
fn server_of(span: &Span) -> Option<&str> {
    let system = |tag: &&Tag| ["db.system.name", "messaging.system"].contains(&&*tag.key);
    match &span.tags.iter().find(system)?.value {
        TagValue::Text(server) => Some(server),
        _ => None,
    }
}

fn services_by_span(traces: &[Trace]) -> HashMap<(TraceId, SpanId), &str> {
    spans(traces)
        .map(|(trace, span)| ((trace, span.id), &*span.process.service))
        .collect()
}

fn spans(traces: &[Trace]) -> impl Iterator<Item = (TraceId, &Span)> {
    traces
        .iter()
        .flat_map(|trace| trace.spans.iter().map(|span| (trace.id, &**span)))
}

fn origins(trace: TraceId, span: &Span) -> impl Iterator<Item = (TraceId, SpanId)> {
    let parent = span.parent.map(|parent| (trace, parent));
    parent
        .into_iter()
        .chain(span.links.iter().map(|link| (link.trace, link.span)))
}
