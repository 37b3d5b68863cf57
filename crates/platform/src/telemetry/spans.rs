//! How spans leave the process, and how many do not.
//!
//! ```text
//!  span ends ─▶ Bounded: is there room? ─▶ BatchSpanProcessor ─▶ Counted ─▶ collector
//!                  │ no                     (queue of the SDK)     exported or failed
//!                  ▼
//!               dropped, and counted
//! ```
//!
//! While the collector is slow or dead the queue fills, and new spans are dropped, so that neither
//! a quote nor the memory of the process suffers. The SDK's queue drops spans too, but does not say
//! how many; so the count is kept in front of it.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};
use prometheus_client::registry::Registry;

use crate::{background::FailureLog, metrics::on_scrape};

// Counts of spans by their fate: a process has one subscriber, and so one set of counts.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static HANDED_OVER: AtomicUsize = AtomicUsize::new(0);
static DROPPED: AtomicUsize = AtomicUsize::new(0);
static EXPORTED: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// Most spans that may wait; set once there is an exporter.
static CAPACITY: OnceLock<usize> = OnceLock::new();

/// The default of `OTEL_BSP_MAX_QUEUE_SIZE` in the specification.
const STANDARD_CAPACITY: usize = 2_048;

/// The processor that takes spans to `exporter`.
pub(super) fn processor<E: SpanExporter + 'static>(exporter: E) -> impl SpanProcessor + 'static {
    let asked = std::env::var("OTEL_BSP_MAX_QUEUE_SIZE").ok();
    let asked = asked.and_then(|size| size.parse().ok());
    let capacity = asked.filter(|size| *size > 0).unwrap_or(STANDARD_CAPACITY);
    let capacity = *CAPACITY.get_or_init(|| capacity);
    let exporter = Counted {
        exporter,
        failures: FailureLog::new("the export of spans"),
    };
    let config = BatchConfigBuilder::default().with_max_queue_size(capacity);
    Bounded {
        capacity,
        batches: BatchSpanProcessor::builder(exporter)
            .with_batch_config(config.build())
            .build(),
    }
}

/// Drops the spans for which the queue has no room.
#[derive(Debug)]
struct Bounded {
    capacity: usize,
    batches: BatchSpanProcessor,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        let room = |waiting| (waiting < self.capacity).then_some(waiting + 1);
        match WAITING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            // The queue of the SDK holds no more spans than are counted here, so it has room.
            Ok(_) => self.batches.on_end(span),
            Err(_full) => {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Counts the spans that an exporter delivered or could not deliver, and logs when that changes.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    failures: FailureLog,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        WAITING.fetch_sub(spans, Ordering::Relaxed);
        HANDED_OVER.fetch_add(spans, Ordering::Relaxed);
        let outcome = self.exporter.export(batch).await;
        let count = match &outcome {
            Ok(()) => &EXPORTED,
            Err(_) => &FAILED,
        };
        count.fetch_add(spans, Ordering::Relaxed);
        self.failures.record(&outcome);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Registers the counts. A process without a collector has no spans, and no counts of them.
pub(super) fn register(registry: &mut Registry) {
    on_scrape(registry, |scrape| {
        let Some(capacity) = CAPACITY.get() else {
            return;
        };
        let row = |error_type: &'static str, spans: &AtomicUsize| {
            ([("error_type", error_type)], spans.load(Ordering::Relaxed))
        };
        let rows = [row("", &HANDED_OVER), row("queue_full", &DROPPED)];
        let help = "Spans given to the exporter, or dropped because too many waited for it";
        scrape.counters("otel_sdk_processor_span_processed", help, rows);
        let rows = [row("", &EXPORTED), row("failed", &FAILED)];
        let help = "Spans that the collector took, or did not";
        scrape.counters("otel_sdk_exporter_span_exported", help, rows);
        let waiting = WAITING.load(Ordering::Relaxed);
        let help = "Spans that wait to be exported";
        scrape.gauge("otel_sdk_processor_span_queue_size", help, waiting);
        let help = "Most spans that may wait to be exported";
        scrape.gauge("otel_sdk_processor_span_queue_capacity", help, *capacity);
    });
}
