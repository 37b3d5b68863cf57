//! Failing telemetry costs a quote nothing. While the collector hangs or is dead, quotes are as
//! quick as before, the process grows only by its queue of spans, and dropped spans are counted; a
//! restarted collector gets spans again. Every quote is traced here, the worst case.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use city::Client;
use rustix::process::{Pid, Signal, kill_process};
use surge::Part;
use surge_proto::DataflowMode;
use tokio::time::Instant;

use crate::{
    api::{Quote, downtown, read},
    support::{Exchange, Market, Outcome, eventually},
};

/// Enough to fill the queue of spans (2,048, and 512 in flight) almost twice: a quote makes three.
const QUOTES: usize = 1_600;

/// The most memory that the queue of spans and the allocator may add to the process.
const GROWTH_LIMIT_BYTES: f64 = 24e6;

#[tokio::test]
async fn failed_collector_costs_quotes_nothing() -> Outcome {
    let mut exchange = Exchange::open(Market::REAL_TIME).await?;
    exchange.api.asks_for_traces = true;
    let healthy = Round::quote(&exchange).await?;
    let before = Telemetry::read(&exchange).await?;
    ensure!(before.dropped == 0.0, "dropped from the start: {before:?}");

    // For a stopped process the kernel still accepts connections, but nothing answers.
    signal(&exchange, Signal::STOP)?;
    Round::quote(&exchange).await?.is_as_quick_as(&healthy)?;
    let hung = eventually("a full queue drops spans", async || {
        let telemetry = Telemetry::read(&exchange).await?;
        ensure!(telemetry.dropped > 0.0, "{telemetry:?}");
        Ok(telemetry)
    })
    .await?;
    hung.is_bounded(&before)?;

    exchange.kill(&[Part::TraceView]).await;
    Round::quote(&exchange).await?.is_as_quick_as(&healthy)?;
    let dead = eventually("exports fail", async || {
        let telemetry = Telemetry::read(&exchange).await?;
        ensure!(telemetry.failed > 0.0, "{telemetry:?}");
        Ok(telemetry)
    })
    .await?;
    dead.is_bounded(&before)?;

    exchange.restart(&[Part::TraceView]).await?;
    eventually("spans are exported again", async || {
        let telemetry = Telemetry::read(&exchange).await?;
        ensure!(telemetry.exported > dead.exported, "{telemetry:?}");
        Ok(())
    })
    .await?;
    exchange.close().await
}

fn signal(exchange: &Exchange, signal: Signal) -> Outcome {
    let pid = exchange.stack.pid(Part::TraceView).context("it runs")?;
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a process has an id")?;
    Ok(kill_process(pid, signal)?)
}

/// Latencies of quotes, requested one after the other.
#[derive(Debug)]
struct Round {
    median: Duration,
    p99: Duration,
}

impl Round {
    async fn quote(exchange: &Exchange) -> anyhow::Result<Self> {
        let mut latencies = Vec::with_capacity(QUOTES);
        for _ in 0..QUOTES {
            let started = Instant::now();
            let answer = exchange
                .api
                .ask_quote(downtown(), DataflowMode::Events)
                .await;
            latencies.push(started.elapsed());
            let quote: Quote = read(answer)?;
            ensure!(!quote.degraded, "{quote:?}");
        }
        latencies.sort_unstable();
        Ok(Self {
            median: latencies[QUOTES / 2],
            p99: latencies[QUOTES * 99 / 100],
        })
    }

    /// With tolerance for a noisy machine: to wait for a collector would cost seconds.
    fn is_as_quick_as(&self, healthy: &Self) -> Outcome {
        let noise = Duration::from_millis(25);
        ensure!(
            self.median < 3 * healthy.median + noise && self.p99 < 3 * healthy.p99 + 4 * noise,
            "{self:?} against {healthy:?}"
        );
        Ok(())
    }
}

/// The metrics of price-optimization about its own telemetry.
#[derive(Debug)]
struct Telemetry {
    dropped: f64,
    exported: f64,
    failed: f64,
    waiting: f64,
    capacity: f64,
    memory_bytes: f64,
}

impl Telemetry {
    async fn read(exchange: &Exchange) -> anyhow::Result<Self> {
        let url = format!("{}/metrics", exchange.stack.target().price);
        let answer = Client::new(Duration::from_secs(5)).get(&url).await?;
        let text = String::from_utf8(answer.body.to_vec())?;
        let sample = |name: &str| -> anyhow::Result<f64> {
            let of_name = |line: &&str| line.split(' ').next() == Some(name);
            let line = text.lines().find(of_name);
            let line = line.with_context(|| format!("no {name} in\n{text}"))?;
            Ok(line.split(' ').nth(1).context("a value")?.parse()?)
        };
        Ok(Self {
            dropped: sample(r#"otel_sdk_processor_span_processed_total{error_type="queue_full"}"#)?,
            exported: sample(r#"otel_sdk_exporter_span_exported_total{error_type=""}"#)?,
            failed: sample(r#"otel_sdk_exporter_span_exported_total{error_type="failed"}"#)?,
            waiting: sample("otel_sdk_processor_span_queue_size")?,
            capacity: sample("otel_sdk_processor_span_queue_capacity")?,
            memory_bytes: sample("process_memory_usage_bytes")?,
        })
    }

    fn is_bounded(&self, before: &Self) -> Outcome {
        ensure!(
            self.waiting <= self.capacity
                && self.memory_bytes < before.memory_bytes + GROWTH_LIMIT_BYTES,
            "{self:?}, before that {before:?}"
        );
        Ok(())
    }
}
