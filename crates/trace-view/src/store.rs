//! The traces in memory. When a limit is reached, the store drops the trace whose first span is the
//! oldest.
//!
//! A lookup by id is a hash lookup; eviction pops a queue. A dropped trace subtracts exactly the
//! spans and bytes that it added, so the totals stay true. An answer is a snapshot of shared spans,
//! so that no exporter waits while JSON is written.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{catalog::Catalog, ids::TraceId, limits::Limits, span::Span};

/// From this number of spans on, an answer takes no further trace: the UI would draw slowly, and
/// the JSON would be larger than the store.
const MAX_SPANS_PER_ANSWER: usize = 10_000;

/// The store, shared by the receiver and the query API. The mutex is one of std: a task holds it
/// for a batch or a scan, and never across an await.
#[derive(Debug, Clone)]
pub(crate) struct SharedStore(Arc<Mutex<Store>>);

/// Traces within limits.
#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    traces: HashMap<TraceId, Trace>,
    /// The ids of `traces`, each once, in the order of their first spans.
    arrivals: VecDeque<TraceId>,
    spans: usize,
    bytes: usize,
    catalog: Catalog,
}

/// The spans that share a trace id, in order of arrival. The root may be missing.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(crate) id: TraceId,
    pub(crate) spans: Vec<Arc<Span>>,
    /// Spans that came when the trace was full.
    pub(crate) dropped: usize,
    bytes: usize,
}

impl SharedStore {
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(Store::new(limits))))
    }

    /// Waits for the store. After a panic in another task it is still usable: at worst a trace is
    /// incomplete.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            traces: HashMap::new(),
            arrivals: VecDeque::new(),
            spans: 0,
            bytes: 0,
            catalog: Catalog::default(),
        }
    }

    /// Adds a span to its trace and drops the oldest traces until all limits hold.
    pub(crate) fn insert(&mut self, id: TraceId, span: Span) {
        self.catalog.record(&span);
        let trace = self.traces.entry(id).or_insert_with(|| {
            self.arrivals.push_back(id);
            Trace::new(id)
        });
        if let Some(bytes) = trace.add(span, self.limits) {
            self.spans += 1;
            self.bytes += bytes;
        }
        self.evict();
    }

    /// The spans of this trace that have arrived.
    pub(crate) fn trace(&self, id: TraceId) -> Option<Trace> {
        self.traces.get(&id).cloned()
    }

    /// The last `limit` traces that match, sorted by start, newest first.
    pub(crate) fn search(&self, limit: usize, matches: impl Fn(&Trace) -> bool) -> Vec<Trace> {
        let mut spans = 0;
        let within_answer = |trace: &&Trace| {
            let room = spans < MAX_SPANS_PER_ANSWER;
            spans += trace.spans.len();
            room
        };
        let matching = self.newest_first().filter(|trace| matches(trace));
        let mut found: Vec<Trace> = matching
            .take(limit)
            .take_while(within_answer)
            .cloned()
            .collect();
        found.sort_by_key(|trace| Reverse(trace.start_ns()));
        found
    }

    /// Every trace, newest arrival first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Trace> {
        self.arrivals
            .iter()
            .rev()
            .filter_map(|id| self.traces.get(id))
    }

    /// The known services and operations.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn evict(&mut self) {
        while self.over_limits() {
            let Some(oldest) = self.arrivals.pop_front() else {
                return;
            };
            if let Some(trace) = self.traces.remove(&oldest) {
                self.spans -= trace.spans.len();
                self.bytes -= trace.bytes;
            }
        }
    }

    fn over_limits(&self) -> bool {
        self.traces.len() > self.limits.traces
            || self.spans > self.limits.spans
            || self.bytes > self.limits.bytes
    }
}

impl Trace {
    fn new(id: TraceId) -> Self {
        Self {
            id,
            spans: Vec::new(),
            dropped: 0,
            bytes: 0,
        }
    }

    /// When the first span of the trace started.
    pub(crate) fn start_ns(&self) -> u64 {
        self.spans
            .iter()
            .map(|span| span.start_ns)
            .min()
            .unwrap_or_default()
    }

    /// Adds a span and returns its bytes; `None` if the trace is full or has the span already.
    fn add(&mut self, span: Span, limits: Limits) -> Option<usize> {
        if self.spans.iter().any(|held| held.id == span.id) {
            return None;
        }
        let bytes = self.added_bytes(&span);
        // One trace never exceeds the limits of the store, so eviction never drops the newest one.
        if self.spans.len() >= limits.spans_per_trace || self.bytes + bytes > limits.bytes {
            self.dropped += 1;
            return None;
        }
        self.spans.push(Arc::new(span));
        self.bytes += bytes;
        Some(bytes)
    }

    /// The bytes of the span, and of its process if it is new in this trace.
    fn added_bytes(&self, span: &Span) -> usize {
        let shares_process = |held: &Arc<Span>| Arc::ptr_eq(&held.process, &span.process);
        if self.spans.iter().any(shares_process) {
            span.weight_bytes()
        } else {
            span.weight_bytes() + span.process.weight_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::{SpanKind, SpanProcess};

    fn trace_id(number: usize) -> TraceId {
        format!("{number:x}").parse().unwrap()
    }

    fn span(number: u64) -> Span {
        Span {
            id: crate::ids::SpanId::from_wire(&number.to_be_bytes()).unwrap(),
            parent: None,
            operation: "quote".into(),
            process: Arc::new(SpanProcess {
                service: "pricing".into(),
                tags: Box::default(),
            }),
            kind: SpanKind::Server,
            start_ns: number,
            duration_ns: 1,
            tags: Box::default(),
            events: Box::default(),
            links: Box::default(),
            cut: false,
        }
    }

    /// The bytes of a test span, which has a process of its own.
    fn weight_bytes() -> usize {
        span(1).weight_bytes() + span(1).process.weight_bytes()
    }

    fn held(store: &Store) -> Vec<TraceId> {
        store.newest_first().map(|trace| trace.id).collect()
    }

    #[test]
    fn oldest_trace_makes_room() {
        let mut store = Store::new(Limits {
            traces: 2,
            ..Limits::default()
        });
        for number in 1..=3 {
            store.insert(trace_id(number), span(1));
        }
        assert_eq!(held(&store), [trace_id(3), trace_id(2)]);
    }

    #[test]
    fn dropped_trace_leaves_the_totals() {
        let mut store = Store::new(Limits {
            spans: 4,
            spans_per_trace: 4,
            ..Limits::default()
        });
        for trace in 1..=1_000 {
            store.insert(trace_id(trace), span(1));
            store.insert(trace_id(trace), span(2));
        }
        assert_eq!(held(&store), [trace_id(1_000), trace_id(999)]);
        assert_eq!(store.spans, 4);
        assert_eq!(store.bytes, 4 * weight_bytes());
    }

    #[test]
    fn runaway_trace_evicts_no_other() {
        let mut store = Store::new(Limits {
            spans: 10,
            spans_per_trace: 3,
            ..Limits::default()
        });
        store.insert(trace_id(1), span(1));
        for number in 1..=100 {
            store.insert(trace_id(2), span(number));
        }
        assert_eq!(held(&store), [trace_id(2), trace_id(1)]);
        assert_eq!(store.trace(trace_id(2)).unwrap().dropped, 97);
    }

    #[test]
    fn newest_trace_is_never_evicted() {
        let one_span = weight_bytes();
        let mut store = Store::new(Limits {
            bytes: one_span,
            ..Limits::default()
        });
        for number in 1..=3 {
            store.insert(trace_id(number), span(1));
            store.insert(trace_id(number), span(2));
            assert_eq!(held(&store), [trace_id(number)]);
        }
        assert_eq!(store.bytes, one_span);
    }

    #[test]
    fn repeated_span_is_held_once() {
        let mut store = Store::new(Limits::default());
        store.insert(trace_id(1), span(1));
        store.insert(trace_id(1), span(1));
        assert_eq!(store.trace(trace_id(1)).unwrap().spans.len(), 1);
        assert_eq!(store.spans, 1);
    }
}
