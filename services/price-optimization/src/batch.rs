//! The batch job of the dataflow `database`.
//!
//! # How this works
//! ```text
//!          ┌──────────────── one transaction, every period ────────────────┐
//!          read the views of    forecast supply and      rewrite pricing.zone_market,
//!          both services   ──►  demand of every zone ──► add a row to pricing.batch_run
//!          (store.rs)           (batch/forecast.rs)      (store.rs)
//! ```
//! A quote sees the rows of one run, never of two. A run that fails leaves the old rows, which show
//! their age, and is repeated soon. `batch --once` runs once, for a cron job.

mod forecast;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use chrono::Utc;
use marketplace::{demand::DemandProfile, zone::ServiceArea};
use platform::{
    background::WorkLoop, clock::MarketClock, config::read_json, propagation, sampling,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field::Empty, info_span};

use crate::{
    batch::forecast::Forecaster,
    config::BatchConfig,
    metrics::BatchMetrics,
    store::{self, BatchRun, Store},
};

/// How long a run may take.
const STEP_DEADLINE: Duration = Duration::from_secs(60);

/// How soon a failed run is repeated, if the period is not shorter.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The batch job.
#[derive(Debug)]
pub struct BatchJob {
    store: Store,
    forecaster: Forecaster,
    clock: MarketClock,
    metrics: BatchMetrics,
}

impl BatchJob {
    /// Reads the demand profile.
    ///
    /// # Errors
    /// When the profile cannot be used.
    pub(crate) fn new(
        config: &BatchConfig,
        store: Store,
        clock: MarketClock,
        metrics: BatchMetrics,
    ) -> anyhow::Result<Self> {
        let area = ServiceArea::new(config.service_area);
        let profile = match &config.demand_profile {
            Some(path) => read_json::<DemandProfile>("DEMAND_PROFILE", path)?.within(&area)?,
            None => DemandProfile::flat(area.zones()),
        };
        Ok(Self {
            store,
            forecaster: Forecaster {
                area,
                profile: Arc::new(profile),
                supply_window: config.forecast_window,
            },
            clock,
            metrics,
        })
    }

    /// Runs every `every` of market time until `token` is cancelled.
    pub async fn run(self, every: Duration, token: CancellationToken) {
        let every = self.clock.real_duration(every);
        let mut work = WorkLoop::new("the batch job", &token);
        let mut period = every;
        while work.next_step(period).await {
            period = match work.run(self.step()).await {
                Some(Err(_)) => every.min(TRY_AGAIN),
                _ => every,
            };
        }
    }

    /// One run; returns how many zones it wrote.
    ///
    /// # Errors
    /// Those of the database, a deadline, and a service that published nothing yet; nothing was
    /// changed then.
    pub async fn step(&self) -> anyhow::Result<usize> {
        let span = sampling::background_span(|| {
            info_span!(
                "batch",
                otel.name = "batch zone_market",
                otel.status_code = Empty,
            )
        });
        let started = Instant::now();
        let run = tokio::time::timeout(STEP_DEADLINE, self.rewrite())
            .instrument(span.clone())
            .await
            .with_context(|| format!("not done within {STEP_DEADLINE:?}"))
            .flatten();
        if run.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        self.metrics.ran(&run, started.elapsed(), &span);
        run
    }

    async fn rewrite(&self) -> anyhow::Result<usize> {
        let started_at = Utc::now();
        let mut transaction = self.store.snapshot().await?;
        let (supply_watermark, supply_rows) = store::read_supply(&mut transaction).await?;
        let (demand_watermark, demand_rows) = store::read_demand(&mut transaction).await?;
        let read_at = Utc::now();
        let causes = [&supply_watermark.traceparent, &demand_watermark.traceparent];
        for traceparent in causes.into_iter().flatten() {
            propagation::link(&Span::current(), traceparent);
        }
        let levels = self.forecaster.levels(
            (&supply_watermark, &supply_rows),
            (&demand_watermark, &demand_rows),
        );
        let run = BatchRun {
            started_at,
            supply_written_at: supply_watermark.written_at,
            supply_traceparent: supply_watermark.traceparent,
            demand_written_at: demand_watermark.written_at,
            demand_traceparent: demand_watermark.traceparent,
            read_at,
            written_at: Utc::now(),
            traceparent: propagation::traceparent(),
        };
        let run = store::write_batch_run(&mut transaction, run).await?;
        store::write_zone_market(&mut transaction, &levels, Some(run)).await?;
        transaction.commit().await?;
        Ok(levels.len())
    }
}
