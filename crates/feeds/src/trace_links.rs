//! Trace links: from a published message, or a written row, back to the requests that caused it.
//!
//! # How this works
//!
//! A trace follows one request. Here many requests end in one later piece of work: a hundred
//! drivers report their positions now, and a moment later one message says what the supply of their
//! zone is. The message has a trace of its own, and its span has a *link* to each request behind
//! it, so that a trace viewer can go back to where the data came from.
//!
//! ```text
//! PUT /v1/drivers/a      ──●─────────────┐
//! PUT /v1/drivers/b      ────●───────────┤ pending
//! POST /v1/positions     ───────●────────┤
//!                                        ▼ take_links
//! publish surge.v1.supply             ───●───  three links, surge.origins = 3
//! ─────────────────────────────────────────────────────────▶ time
//! ```
//!
//! Data leaves a service in two ways, as messages and as rows, at different moments. So each
//! request is pending once for each [`Sink`].

use std::sync::{Mutex, PoisonError};

use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Most links of one span: nobody follows a hundred.
const MAX_LINKS: usize = 16;

/// Where changed data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// To messages on a stream.
    Messages,
    /// To rows in PostgreSQL.
    Rows,
}

/// The traced requests whose changes have not left the service yet.
#[derive(Debug, Default)]
pub struct PendingTraceLinks {
    // Std mutexes: each is locked for a few assignments, never across an await, and only for
    // requests that are traced.
    messages: Mutex<Requests>,
    rows: Mutex<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    linked: Vec<SpanContext>,
    /// All of them, linked or not. Signed, as the whole numbers of span attributes are.
    count: i64,
}

impl PendingTraceLinks {
    /// Adds the current request, which has changed data, if it is traced.
    pub fn record_request(&self) {
        let span = Span::current();
        if span.is_disabled() {
            return;
        }
        let context = span.context();
        let request = context.span().span_context().clone();
        if !request.is_sampled() {
            return;
        }
        for pending in [&self.messages, &self.rows] {
            let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.count += 1;
            if pending.linked.len() < MAX_LINKS {
                pending.linked.push(request.clone());
            }
        }
    }

    /// Links `span`, under which data goes to `sink`, to the requests since the last time. Their
    /// number, linked or not, becomes the span's attribute `surge.origins`. A disabled span takes
    /// the links and drops them.
    pub fn take_links(&self, sink: Sink, span: &Span) {
        let pending = match sink {
            Sink::Messages => &self.messages,
            Sink::Rows => &self.rows,
        };
        let taken = std::mem::take(&mut *pending.lock().unwrap_or_else(PoisonError::into_inner));
        if span.is_disabled() || taken.count == 0 {
            return;
        }
        for request in taken.linked {
            span.add_link(request);
        }
        span.record("surge.origins", taken.count);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::{Value, trace::TracerProvider as _};
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
    use tracing::{field::Empty, info_span};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn published_after(requests: u64) -> SpanData {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(traces);
        tracing::subscriber::with_default(subscriber, || {
            let pending = PendingTraceLinks::default();
            for _ in 0..requests {
                info_span!("request").in_scope(|| pending.record_request());
            }
            for name in ["publish", "publish again"] {
                let span = info_span!("publish", otel.name = name, surge.origins = Empty);
                pending.take_links(Sink::Messages, &span);
            }
        });
        let spans = exporter.get_finished_spans().unwrap();
        let named = |name| spans.iter().find(|span| span.name == name).unwrap();
        assert_eq!(named("publish again").links.len(), 0);
        named("publish").clone()
    }

    #[test]
    fn links_are_capped_but_all_are_counted() {
        assert_eq!(published_after(3).links.len(), 3);
        let many = published_after(1_000);
        assert_eq!(many.links.len(), MAX_LINKS);
        let mut attributes = many.attributes.iter();
        let count = attributes.find(|attribute| attribute.key.as_str() == "surge.origins");
        assert_eq!(count.unwrap().value, Value::I64(1_000));
    }
}
