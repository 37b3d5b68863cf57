//! The batch job of the dataflow `database`: every period it reads the views that the other services publish, makes
//! the forecasts that they would make themselves, and rewrites `pricing.zone_market` in one transaction. A cron job
//! runs it once; here it can also keep its own time.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use chrono::Utc;
use futures::FutureExt;
use marketplace::{
    demand::{DemandForecaster, DemandProfile, FilterSettings},
    supply::predicted_available,
    view::{Level, ZoneLevels},
    zone::{ServiceArea, Zone},
};
use platform::{
    background::WorkLoop,
    clock::MarketClock,
    health::Health,
    metrics::{LatencyFamily, latency_family},
    postgres, propagation,
    sampling::{self, Upstream},
    schema::Migrations,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field::Empty, info, info_span};

use crate::{
    BATCH_IDENTITY,
    config::BatchConfig,
    store::{self, BatchRun, DemandRow, DemandWatermark, Store, SupplyRow, Watermark, market_time},
};

/// How long a run may take before it is given up.
const STEP_DEADLINE: Duration = Duration::from_secs(60);

/// How soon a failed run is tried again, if the period is not shorter.
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

/// What is counted of the runs.
#[derive(Debug)]
struct BatchMetrics {
    runs: Family<OutcomeLabel, Counter>,
    duration: LatencyFamily<OutcomeLabel>,
    last_success: Gauge<f64, AtomicU64>,
    rows: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl BatchMetrics {
    fn of_no_runs() -> Self {
        let metrics = Self {
            runs: Family::default(),
            duration: latency_family(),
            last_success: Gauge::default(),
            rows: Gauge::default(),
        };
        for outcome in ["done", "failed"] {
            metrics.runs.get_or_create_owned(&OutcomeLabel { outcome });
        }
        metrics
    }

    fn note(&self, run: &anyhow::Result<usize>, took: Duration, span: &Span) {
        let outcome = OutcomeLabel {
            outcome: if run.is_ok() { "done" } else { "failed" },
        };
        self.runs.get_or_create(&outcome).inc();
        self.duration.get_or_create(&outcome).observe(took, span);
        if let Ok(rows) = run {
            self.rows.set(*rows as i64);
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            self.last_success.set(now.unwrap_or_default().as_secs_f64());
        }
    }
}

impl Batch {
    /// Reads the profile and prepares the connection.
    ///
    /// # Errors
    /// When a setting cannot be used.
    pub fn connect(config: BatchConfig) -> anyhow::Result<Self> {
        let pool = postgres::pool(&config.database_url, BATCH_IDENTITY.name, 1)
            .context("DATABASE_URL is wrong")?;
        let area = ServiceArea::new(config.service_area);
        let profile = match &config.demand_profile {
            Some(path) => read_profile(path)
                .with_context(|| format!("DEMAND_PROFILE={} cannot be used", path.display()))?,
            None => DemandProfile::flat(area.zones()),
        };
        Ok(Self {
            store: Store::new(pool),
            area,
            profile: Arc::new(profile),
            clock: MarketClock::from_config(&config.clock),
            supply_window: config.forecast_window,
            metrics: BatchMetrics::of_no_runs(),
            migrations: config.schema.migrations,
        })
    }

    /// Registers what is counted of the runs.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let metrics = &self.metrics;
        postgres::register_pool(registry, BATCH_IDENTITY.name, self.store.pool());
        let help = "Runs of the batch job";
        registry.register("surge_batch_runs", help, metrics.runs.clone());
        let (name, help) = ("surge_batch_duration", "How long a run took");
        registry.register_with_unit(name, help, Unit::Seconds, metrics.duration.clone());
        let name = "surge_batch_last_success_timestamp";
        let help = "When the last run that succeeded ended, Unix time; 0 before the first";
        registry.register_with_unit(name, help, Unit::Seconds, metrics.last_success.clone());
        let help = "Zones that the last run wrote";
        registry.register("surge_batch_rows", help, metrics.rows.clone());
    }

    /// Whether the database is there.
    pub(crate) fn health(&self) -> Health {
        let pool = self.store.pool();
        Health::new(self.clock).needs("postgres", move || postgres::probe(pool.clone()).boxed())
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

    /// Runs every `every` of market time until `token` is cancelled. A run that fails leaves the old rows, whose age
    /// tells, and is tried again soon.
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
        self.metrics.note(&run, started.elapsed(), &span);
        run
    }

    async fn rewrite(&self) -> anyhow::Result<usize> {
        let started_at = Utc::now();
        let mut transaction = self.store.snapshot().await?;
        let (supply_watermark, supply_rows) = store::read_supply(&mut transaction).await?;
        let (demand_watermark, demand_rows) = store::read_demand(&mut transaction).await?;
        let read_at = Utc::now();
        // The old rows, whose age tells, are better than rows without supply or demand.
        let supply_watermark =
            supply_watermark.context("driver-management published no supply yet")?;
        let demand_watermark =
            demand_watermark.context("ride-management published no demand yet")?;
        link(supply_watermark.traceparent.as_deref());
        link(demand_watermark.traceparent.as_deref());

        let supply = self.supply(&supply_watermark, &supply_rows);
        let demand = self.demand(&demand_watermark, &demand_rows);
        let levels = supply.into_iter().zip(demand);
        let zones = self.area.zones().iter().zip(levels);
        let zones: Vec<ZoneLevels> = zones
            .map(|(zone, (supply, demand))| ZoneLevels {
                zone: *zone,
                supply: Some(supply),
                demand: Some(demand),
            })
            .collect();
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
        let run = store::remember_run(&mut transaction, run).await?;
        store::write_zone_market(&mut transaction, &zones, Some(run)).await?;
        transaction.commit().await?;
        Ok(zones.len())
    }

    /// Supply of every zone of the area, as of the watermark.
    fn supply(&self, watermark: &Watermark, rows: &[SupplyRow]) -> Vec<Level> {
        let as_of = market_time(watermark.as_of);
        let rows: HashMap<&str, &SupplyRow> =
            rows.iter().map(|row| (row.zone.as_str(), row)).collect();
        let level = |zone: &Zone| {
            let row = rows.get(zone.to_string().as_str());
            let idle = row.map_or(0, |row| usize::try_from(row.idle_drivers).unwrap_or(0));
            let due = row.into_iter().flat_map(|row| row.dropoffs_due_at.iter());
            let due = due.map(|due_at| market_time(*due_at));
            Level {
                value: predicted_available(idle, due, as_of, self.supply_window),
                as_of,
            }
        };
        self.area.zones().iter().map(level).collect()
    }

    /// Demand of every zone of the area, as of the watermark: the filter of ride-management, fed from its table.
    fn demand(&self, watermark: &DemandWatermark, rows: &[DemandRow]) -> Vec<Level> {
        let as_of = market_time(watermark.as_of);
        let window = Duration::from_secs(u64::try_from(watermark.window_seconds).unwrap_or(300));
        let mut forecaster = DemandForecaster::new(
            Arc::clone(&self.profile),
            self.area.zones(),
            window,
            market_time(watermark.observed_since),
            FilterSettings::default(),
        );
        for row in rows {
            if let (Ok(zone), Ok(requests)) = (row.zone.parse(), u32::try_from(row.requests)) {
                forecaster.record_count(zone, market_time(row.window_start), requests);
            }
        }
        let forecasts = forecaster.forecasts(self.area.zones(), as_of);
        forecasts
            .into_iter()
            .map(|value| Level { value, as_of })
            .collect()
    }
}

fn read_profile(path: &std::path::Path) -> anyhow::Result<DemandProfile> {
    let file = fs::read(path)?;
    Ok(serde_json::from_slice(&file)?)
}

fn link(traceparent: Option<&str>) {
    if let Some(traceparent) = traceparent {
        propagation::link(&Span::current(), traceparent);
    }
}
