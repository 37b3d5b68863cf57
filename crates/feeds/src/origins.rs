//! The traces in which something changed that is told later, by somebody else: a driver reports a position now, and a
//! moment later the supply of its zone is published, with what a hundred others reported. The publisher's span is linked to
//! the requests behind it, so that the way of the data can be followed back to where it was born. Links are capped, for
//! nobody follows a hundred of them; their number is kept.

use std::sync::{Mutex, PoisonError};

use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Most links of one span.
const MAX_LINKS: usize = 16;

/// The requests since somebody last told of them; apart for the two who tell, the feed on NATS and the rows in PostgreSQL.
#[derive(Debug, Default)]
pub struct Origins {
    feed: Untold,
    rows: Untold,
}

/// The requests of which one of the two has not told yet.
// A std mutex: held to add a few words or to take them all, never across an await, and only for requests that are traced.
#[derive(Debug, Default)]
struct Untold(Mutex<Requests>);

#[derive(Debug, Default)]
struct Requests {
    spans: Vec<SpanContext>,
    // Signed, because an attribute of a span has no other whole numbers.
    count: i64,
}

impl Origins {
    /// The current request changed something; noted if it is traced.
    pub fn note(&self) {
        let span = Span::current();
        if span.is_disabled() {
            return;
        }
        let context = span.context();
        let span = context.span();
        if span.span_context().is_sampled() {
            self.feed.note(span.span_context());
            self.rows.note(span.span_context());
        }
    }

    /// Links `span`, under which the feed is told, to the requests since the last time.
    pub fn link_feed(&self, span: &Span) {
        self.feed.link(span);
    }

    /// Links `span`, under which the rows are written, to the requests since the last time.
    pub fn link_rows(&self, span: &Span) {
        self.rows.link(span);
    }
}

impl Untold {
    fn note(&self, request: &SpanContext) {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.count += 1;
        if requests.spans.len() < MAX_LINKS {
            requests.spans.push(request.clone());
        }
    }

    /// Records in `surge.origins` how many requests there were, whether linked or not.
    fn link(&self, span: &Span) {
        let requests = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if span.is_disabled() || requests.count == 0 {
            return;
        }
        for request in requests.spans {
            span.add_link(request);
        }
        span.record("surge.origins", requests.count);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::{Value, trace::TracerProvider as _};
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
    use tracing::{field::Empty, info_span};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn told_after(requests: u64) -> SpanData {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(traces);
        tracing::subscriber::with_default(subscriber, || {
            let origins = Origins::default();
            for _ in 0..requests {
                info_span!("request").in_scope(|| origins.note());
            }
            origins.link_feed(&info_span!("publish", surge.origins = Empty));
            // Told once, they are not told again.
            origins.link_feed(&info_span!("publish again", surge.origins = Empty));
        });
        let spans = exporter.get_finished_spans().unwrap();
        let again = spans.iter().find(|span| span.name == "publish again");
        assert_eq!(again.unwrap().links.len(), 0);
        spans
            .into_iter()
            .find(|span| span.name == "publish")
            .unwrap()
    }

    #[test]
    fn links_are_capped_and_their_number_is_kept() {
        let few = told_after(3);
        assert_eq!(few.links.len(), 3);
        let many = told_after(1_000);
        assert_eq!(many.links.len(), MAX_LINKS);
        let count = many
            .attributes
            .iter()
            .find(|own| own.key.as_str() == "surge.origins");
        assert_eq!(count.unwrap().value, Value::I64(1_000));
    }
}
