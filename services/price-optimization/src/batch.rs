//! The batch job of the dataflow `database`.
//!
//! # How this works
//! Every period one run reads the views that the other services publish, makes the forecasts that they would make
//! themselves, and rewrites `pricing.zone_market` in the same transaction, so that a quote sees the rows of one run and
//! never of two. It also writes one row of `pricing.batch_run`. The SQL is in `store.rs`.
//!
//! ```text
//! supply of a zone = idle drivers + drop-offs due within the window      (marketplace::supply)
//! demand of a zone = gamma-Poisson filter over the past windows          (marketplace::demand)
//! ```
//! A run that fails leaves the old rows, which show their age. `batch --once` runs once, for a cron job.

use std::{collections::HashMap, fs, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use chrono::Utc;
use marketplace::{
    demand::{DemandForecaster, DemandProfile, FilterSettings},
    supply::predicted_available,
    view::{Level, ZoneLevels},
    zone::{ServiceArea, Zone},
};
use platform::{
    background::WorkLoop,
    clock::MarketClock,
    propagation,
    sampling::{self, Upstream},
    schema::Migrations,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field::Empty, info, info_span};

use crate::{
    config::BatchConfig,
    metrics::BatchMetrics,
    store::{self, BatchRun, DemandRow, DemandWatermark, Store, SupplyRow, SupplyWatermark},
};

/// How long a run may take.
const STEP_DEADLINE: Duration = Duration::from_secs(60);

/// How soon a failed run is repeated, if the period is not shorter.
const TRY_AGAIN: Duration = Duration::from_secs(1);

const UNUSABLE_SCHEMA: &str = "the schema in PostgreSQL (DATABASE_URL) cannot be used";

/// The batch job.
#[derive(Debug)]
pub struct Batch {
    store: Store,
    area: ServiceArea,
    profile: Arc<DemandProfile>,
    clock: MarketClock,
    supply_window: Duration,
    metrics: BatchMetrics,
    migrations: Migrations,
}

impl Batch {
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
            Some(path) => read_profile(path)
                .with_context(|| format!("DEMAND_PROFILE={} cannot be used", path.display()))?,
            None => DemandProfile::flat(area.zones()),
        };
        Ok(Self {
            store,
            area,
            profile: Arc::new(profile),
            clock,
            supply_window: config.forecast_window,
            metrics,
            migrations: config.schema.migrations,
        })
    }

    /// Brings the schema up to date and runs once.
    ///
    /// # Errors
    /// Those of the schema and of [`step`](Self::step).
    pub async fn run_once(&self) -> anyhow::Result<()> {
        let prepared = self.store.prepare(self.migrations).await;
        prepared.context(UNUSABLE_SCHEMA)?;
        let started = Instant::now();
        let rows = self.step().await?;
        let took = started.elapsed().as_secs_f64();
        info!(
            rows,
            duration_seconds = took,
            "wrote {rows} zones in {took:.3} s"
        );
        Ok(())
    }

    /// Runs every `every` of market time until `token` is cancelled. A run that fails leaves the old rows, which show their
    /// age, and is repeated soon.
    ///
    /// # Errors
    /// When the schema is one that this program cannot use; `token` is cancelled then.
    pub async fn run(self, every: Duration, token: CancellationToken) -> anyhow::Result<()> {
        let store = self.store.clone();
        let prepared = store.prepare_when_up(self.migrations, token.clone()).await;
        prepared.context(UNUSABLE_SCHEMA)?;
        let every = self.clock.real_duration(every);
        let mut work = WorkLoop::new("the batch job", &token);
        let mut period = every;
        while work.next_step(period).await {
            period = match work.run(self.step()).await {
                Some(Err(_)) => every.min(TRY_AGAIN),
                _ => every,
            };
        }
        Ok(())
    }

    /// One run; returns how many zones it wrote.
    ///
    /// # Errors
    /// Those of the database, a deadline, and a service that published nothing yet; nothing was changed then.
    pub async fn step(&self) -> anyhow::Result<usize> {
        let span = sampling::root(Upstream::Silent, || {
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
        // Old rows, which show their age, are better than rows without supply or demand.
        let supply_watermark =
            supply_watermark.context("driver-management published no supply yet")?;
        let demand_watermark =
            demand_watermark.context("ride-management published no demand yet")?;
        link(supply_watermark.traceparent.as_deref());
        link(demand_watermark.traceparent.as_deref());

        let supply = self.supply(&supply_watermark, &supply_rows);
        let demand = self.demand(&demand_watermark, &demand_rows);
        let levels = self.area.zones().iter().zip(supply).zip(demand);
        let levels = levels.map(|((zone, supply), demand)| ZoneLevels {
            zone: *zone,
            supply: Some(supply),
            demand: Some(demand),
        });
        let levels: Vec<ZoneLevels> = levels.collect();
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

    /// Supply of every zone of the area, as of the watermark.
    fn supply(&self, watermark: &SupplyWatermark, rows: &[SupplyRow]) -> Vec<Level> {
        let as_of = watermark.as_of.into();
        let rows: HashMap<&str, &SupplyRow> =
            rows.iter().map(|row| (row.zone.as_str(), row)).collect();
        let level = |zone: &Zone| {
            let row = rows.get(zone.to_string().as_str());
            let idle = row.map_or(0, |row| usize::try_from(row.idle_drivers).unwrap_or(0));
            let due = row.into_iter().flat_map(|row| &row.dropoffs_due_at);
            let due = due.map(|due_at| (*due_at).into());
            Level {
                value: predicted_available(idle, due, as_of, self.supply_window),
                as_of,
            }
        };
        self.area.zones().iter().map(level).collect()
    }

    /// Demand of every zone of the area, as of the watermark: the filter of ride-management, fed from its table.
    fn demand(&self, watermark: &DemandWatermark, rows: &[DemandRow]) -> Vec<Level> {
        let as_of = watermark.as_of.into();
        let window = Duration::from_secs(u64::try_from(watermark.window_seconds).unwrap_or(300));
        let mut forecaster = DemandForecaster::new(
            Arc::clone(&self.profile),
            self.area.zones(),
            window,
            watermark.observed_since.into(),
            FilterSettings::default(),
        );
        for row in rows {
            if let (Ok(zone), Ok(requests)) = (row.zone.parse(), u32::try_from(row.requests)) {
                forecaster.record_count(zone, row.window_start.into(), requests);
            }
        }
        let forecasts = forecaster.forecasts(self.area.zones(), as_of);
        forecasts
            .into_iter()
            .map(|value| Level { value, as_of })
            .collect()
    }
}

fn read_profile(path: &Path) -> anyhow::Result<DemandProfile> {
    let file = fs::read(path)?;
    Ok(serde_json::from_slice(&file)?)
}

fn link(traceparent: Option<&str>) {
    if let Some(traceparent) = traceparent {
        propagation::link(&Span::current(), traceparent);
    }
}
