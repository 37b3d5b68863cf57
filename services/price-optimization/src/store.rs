//! The schema `pricing` and the SQL of the batch job. The one query of a quote is in
//! `dataflow/database.rs`.
//!
//! # How this works
//! One batch run is one transaction, which sees one state of all tables:
//!
//! ```text
//! read    driver.supply_watermark, driver.supply_by_zone      views of driver-management
//!         ride.demand_watermark, ride.demand_by_zone_window   views of ride-management
//! write   pricing.batch_run       one row per run: what it read, and when
//!         pricing.zone_market     one row per zone: supply and demand, each with its as_of
//! ```
//! A view's *watermark* is the market time up to which the view is complete. It becomes the `as_of`
//! of the levels, so their age grows from the last write of the producer and not from that of the
//! batch.

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use marketplace::view::{Level, ZoneLevels};
use platform::{
    background::WorkLoop,
    postgres,
    schema::{self, Migrations, SchemaError, Step},
};
use sqlx::{FromRow as _, PgConnection, PgPool, Postgres, Row as _, Transaction};
use tokio_util::sync::CancellationToken;

/// The migrations, in their order.
pub const MIGRATIONS: &[Step] = &[
    (
        1,
        "zone market",
        include_str!("../migrations/0001_zone_market.sql"),
    ),
    (
        2,
        "batch run",
        include_str!("../migrations/0002_batch_run.sql"),
    ),
];

/// How many batch runs keep their row: an hour of runs at one every four seconds.
const RUNS_KEPT: i64 = 1_000;

/// How often the schema step asks a database that is away.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What a batch run recorded of itself, and when the run before it read.
pub(crate) type KnownRun = (BatchRun, Option<DateTime<Utc>>);

/// The schema `pricing`, and the views of the other two that this role may read.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
}

platform::from_row! {
    /// Up to when the view of supply is complete: market time, and the write that brought it there.
    /// `written_at` is `None` from a producer that does not publish it.
    #[derive(Debug)]
    pub(crate) struct SupplyWatermark {
        pub(crate) as_of: DateTime<Utc>,
        pub(crate) traceparent: Option<String>,
        pub(crate) written_at: Option<DateTime<Utc>>,
    }
}

platform::from_row! {
    /// Supply of one zone: idle drivers, and when the drivers on a ride are due to drop off in it.
    #[derive(Debug)]
    pub(crate) struct SupplyRow {
        pub(crate) zone: String,
        pub(crate) idle_drivers: i64,
        pub(crate) dropoffs_due_at: Vec<DateTime<Utc>>,
    }
}

platform::from_row! {
    /// Up to when the view of demand is complete, since when it counts, and the length of its
    /// windows.
    #[derive(Debug)]
    pub(crate) struct DemandWatermark {
        pub(crate) observed_since: DateTime<Utc>,
        pub(crate) as_of: DateTime<Utc>,
        pub(crate) window_seconds: i32,
        pub(crate) traceparent: Option<String>,
        pub(crate) written_at: Option<DateTime<Utc>>,
    }
}

platform::from_row! {
    /// Ride requests in one zone and one window.
    #[derive(Debug)]
    pub(crate) struct DemandRow {
        pub(crate) zone: String,
        pub(crate) window_start: DateTime<Utc>,
        pub(crate) requests: i64,
    }
}

platform::from_row! {
    /// One run of the batch job, in real time: when it began, when the producers wrote what it
    /// read, when it had read both views, and when it began to write its rows.
    #[derive(Debug)]
    pub(crate) struct BatchRun {
        pub(crate) started_at: DateTime<Utc>,
        pub(crate) supply_written_at: Option<DateTime<Utc>>,
        pub(crate) supply_traceparent: Option<String>,
        pub(crate) demand_written_at: Option<DateTime<Utc>>,
        pub(crate) demand_traceparent: Option<String>,
        pub(crate) read_at: DateTime<Utc>,
        pub(crate) written_at: DateTime<Utc>,
        pub(crate) traceparent: Option<String>,
    }
}

impl Store {
    /// The store behind `pool`.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Brings the schema up to date.
    ///
    /// # Errors
    /// When PostgreSQL is away, or the schema is one that this program cannot use.
    pub async fn prepare(&self, migrations: Migrations) -> Result<(), SchemaError> {
        schema::prepare(&self.pool, MIGRATIONS, migrations).await
    }

    /// [`prepare`](Self::prepare) as soon as there is a database. The other two modes do not wait
    /// for it.
    ///
    /// # Errors
    /// When nothing is gained by waiting; `token` is cancelled then, because no mode may go on.
    pub async fn prepare_when_up(
        self,
        migrations: Migrations,
        token: CancellationToken,
    ) -> Result<(), SchemaError> {
        let mut work = WorkLoop::new("dataflow database", &token);
        while work.next_step(TRY_AGAIN).await {
            match work.run(self.prepare(migrations)).await {
                Some(Err(error)) if error.is_final() => {
                    token.cancel();
                    return Err(error);
                }
                Some(Ok(())) => break,
                _ => {}
            }
        }
        Ok(())
    }

    /// What a batch run recorded of itself; `None` once a thousand others came after it.
    pub(crate) async fn batch_run(&self, run: i64) -> Result<Option<KnownRun>, sqlx::Error> {
        let read = || {
            let row = sqlx::query(
                "SELECT started_at, supply_written_at, supply_traceparent, demand_written_at,
                        demand_traceparent, read_at, written_at, traceparent,
                        (SELECT max(read_at) FROM batch_run WHERE run < $1) AS previous_read_at
                 FROM batch_run WHERE run = $1",
            );
            row.bind(run).fetch_optional(&self.pool)
        };
        let row = postgres::observed("SELECT batch_run", postgres::once_more(read)).await?;
        row.map(|row| Ok((BatchRun::from_row(&row)?, row.try_get("previous_read_at")?)))
            .transpose()
    }

    /// A transaction that sees one state of all views.
    pub(crate) async fn snapshot(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
            .await
    }
}

/// Reads the view of supply. `written_at` is read through JSON, which has null for a missing
/// column: a producer of an earlier version does not publish it.
pub(crate) async fn read_supply(
    connection: &mut PgConnection,
) -> anyhow::Result<(SupplyWatermark, Vec<SupplyRow>)> {
    let watermark = sqlx::query_as(
        "SELECT as_of, traceparent,
                (to_jsonb(watermark) ->> 'written_at')::timestamptz AS written_at
         FROM driver.supply_watermark AS watermark",
    )
    .fetch_optional(&mut *connection);
    let watermark = postgres::observed("SELECT driver.supply_watermark", watermark).await?;
    let watermark = watermark.context("driver-management published no supply yet")?;
    let rows =
        sqlx::query_as("SELECT zone, idle_drivers, dropoffs_due_at FROM driver.supply_by_zone")
            .fetch_all(connection);
    let rows = postgres::observed("SELECT driver.supply_by_zone", rows).await?;
    Ok((watermark, rows))
}

/// Reads the view of demand.
pub(crate) async fn read_demand(
    connection: &mut PgConnection,
) -> anyhow::Result<(DemandWatermark, Vec<DemandRow>)> {
    let watermark = sqlx::query_as(
        "SELECT observed_since, as_of, window_seconds, traceparent,
                (to_jsonb(watermark) ->> 'written_at')::timestamptz AS written_at
         FROM ride.demand_watermark AS watermark",
    )
    .fetch_optional(&mut *connection);
    let watermark = postgres::observed("SELECT ride.demand_watermark", watermark).await?;
    let watermark = watermark.context("ride-management published no demand yet")?;
    let rows =
        sqlx::query_as("SELECT zone, window_start, requests FROM ride.demand_by_zone_window")
            .fetch_all(connection);
    let rows = postgres::observed("SELECT ride.demand_by_zone_window", rows).await?;
    Ok((watermark, rows))
}

/// Writes the row of a run, in the transaction of that run, and deletes the rows of old runs.
/// Returns its number.
pub(crate) async fn write_batch_run(
    connection: &mut PgConnection,
    run: BatchRun,
) -> Result<i64, sqlx::Error> {
    let number = sqlx::query_scalar(
        "WITH deleted AS (
             DELETE FROM batch_run WHERE run <= (SELECT max(run) FROM batch_run) - $9)
         INSERT INTO batch_run
             (started_at, supply_written_at, supply_traceparent, demand_written_at,
              demand_traceparent, read_at, written_at, traceparent)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING run",
    )
    .bind(run.started_at)
    .bind(run.supply_written_at)
    .bind(run.supply_traceparent)
    .bind(run.demand_written_at)
    .bind(run.demand_traceparent)
    .bind(run.read_at)
    .bind(run.written_at)
    .bind(run.traceparent)
    .bind(RUNS_KEPT)
    .fetch_one(connection);
    postgres::observed("INSERT batch_run", number).await
}

/// Rewrites the rows that quotes read, as batch run `run`. Quotes see them once the transaction
/// commits.
pub async fn write_zone_market(
    connection: &mut PgConnection,
    zones: &[ZoneLevels],
    run: Option<i64>,
) -> Result<(), sqlx::Error> {
    let names: Vec<String> = zones.iter().map(|levels| levels.zone.to_string()).collect();
    let value = |level: &Option<Level>| level.map(|level| level.value);
    let as_of = |level: &Option<Level>| level.map(|level| DateTime::<Utc>::from(level.as_of));
    let supply: Vec<_> = zones.iter().map(|zone| value(&zone.supply)).collect();
    let supply_as_of: Vec<_> = zones.iter().map(|zone| as_of(&zone.supply)).collect();
    let demand: Vec<_> = zones.iter().map(|zone| value(&zone.demand)).collect();
    let demand_as_of: Vec<_> = zones.iter().map(|zone| as_of(&zone.demand)).collect();
    let insert = sqlx::query(
        "INSERT INTO zone_market
             (zone, supply, supply_as_of, demand, demand_as_of, traceparent, run)
         SELECT zone, supply, supply_as_of, demand, demand_as_of, $6, $7
         FROM UNNEST($1::text[], $2::float8[], $3::timestamptz[], $4::float8[], $5::timestamptz[])
             AS levels (zone, supply, supply_as_of, demand, demand_as_of)
         ON CONFLICT (zone) DO UPDATE SET
             supply = EXCLUDED.supply, supply_as_of = EXCLUDED.supply_as_of,
             demand = EXCLUDED.demand, demand_as_of = EXCLUDED.demand_as_of,
             traceparent = EXCLUDED.traceparent, run = EXCLUDED.run, written_at = now()",
    )
    .bind(names)
    .bind(supply)
    .bind(supply_as_of)
    .bind(demand)
    .bind(demand_as_of)
    .bind(platform::propagation::traceparent())
    .bind(run)
    .execute(connection);
    postgres::observed("INSERT zone_market", insert).await?;
    Ok(())
}
