//! The form of a log line. On a terminal it is compact, for people. Elsewhere it is one JSON
//! object, with the ids of its trace and span where that trace is sampled, so that a line leads to
//! its trace and a trace to its lines.

use std::{
    fmt,
    io::IsTerminal,
    sync::atomic::{AtomicU64, Ordering},
};

use opentelemetry::trace::TraceContextExt as _;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tracing::{Event, Level, Subscriber};
use tracing_serde::{
    AsSerde, SerializeLevel,
    fields::{AsMap, SerializeFieldMap},
};
use tracing_subscriber::{
    Layer,
    filter::filter_fn,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::Context,
    registry::LookupSpan,
};

use crate::metrics::on_scrape;

/// The layer that writes log lines to standard error. It takes events alone: to format the fields
/// of every span would cost more than the quotes.
pub(super) fn layer() -> Box<dyn Layer<tracing_subscriber::Registry> + Send + Sync> {
    // What cannot be written, on a full disk for example, is lost: a message about it would panic.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let is_event = filter_fn(|metadata| metadata.is_event());
    if std::io::stderr().is_terminal() {
        lines.compact().with_filter(is_event).boxed()
    } else {
        lines
            .with_ansi(false)
            .event_format(JsonLines)
            .with_filter(is_event)
            .boxed()
    }
}

/// Counts log lines by level. A process has one subscriber, and so one count.
#[derive(Debug)]
pub(super) struct Counting;

static ERRORS: AtomicU64 = AtomicU64::new(0);
static WARNINGS: AtomicU64 = AtomicU64::new(0);
static INFOS: AtomicU64 = AtomicU64::new(0);

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let count = match *event.metadata().level() {
            Level::ERROR => &ERRORS,
            Level::WARN => &WARNINGS,
            Level::INFO => &INFOS,
            _ => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Registers the counts.
pub(super) fn register(registry: &mut Registry) {
    on_scrape(registry, |scrape| {
        let levels = [("ERROR", &ERRORS), ("WARN", &WARNINGS), ("INFO", &INFOS)];
        let rows = levels.map(|(level, count)| ([("level", level)], count.load(Ordering::Relaxed)));
        scrape.counters("surge_log_events", "Log lines by level", rows);
    });
}

/// Writes an event as one line of JSON.
struct JsonLines;

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: SerializeLevel<'a>,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
    fields: SerializeFieldMap<'a, Event<'a>>,
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // The context of the span that is entered; the layer of OpenTelemetry keeps it so.
        let context = opentelemetry::Context::current();
        let span = context.span();
        let span = Some(span.span_context()).filter(|span| span.is_valid() && span.is_sampled());
        let line = Line {
            timestamp: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
            level: event.metadata().level().as_serde(),
            target: event.metadata().target(),
            trace_id: span.map(|span| span.trace_id().to_string()),
            span_id: span.map(|span| span.span_id().to_string()),
            fields: event.field_map(),
        };
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use serde_json::Value;
    use tracing::{info, info_span};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::propagation;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn line_names_span_it_was_written_under() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let provider = SdkTracerProvider::builder().build();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .event_format(JsonLines);
        let subscriber = tracing_subscriber::registry()
            .with(lines)
            .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test")));
        let trace = tracing::subscriber::with_default(subscriber, || {
            info!(zone = "z", "outside");
            let span = info_span!("quote");
            span.in_scope(|| info!(cents = 7, "inside \"it\""));
            propagation::trace_id(&span).unwrap()
        });

        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let [outside, inside] = &lines[..] else {
            panic!("two lines expected: {text}");
        };
        assert_eq!(outside["fields"]["message"], "outside");
        assert_eq!(outside["fields"]["zone"], "z");
        assert_eq!(outside["level"], "INFO");
        assert!(outside.get("trace_id").is_none() && outside.get("span_id").is_none());
        assert_eq!(inside["fields"]["message"], "inside \"it\"");
        assert_eq!(inside["fields"]["cents"], 7);
        assert_eq!(inside["trace_id"], trace.as_str());
        assert_eq!(inside["span_id"].as_str().unwrap().len(), 16);
    }
}
