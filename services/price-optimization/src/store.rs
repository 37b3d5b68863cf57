//! The schema `pricing` and the SQL of the batch job. The one query of a quote is in `dataflow/database.rs`.
//!
//! # How this works
//! One batch run is one transaction, which sees one state of all tables:
//!
//! ```text
//! read    driver.supply_watermark, driver.supply_by_zone          views that driver-management publishes
//!         ride.demand_watermark, ride.demand_by_zone_window       views that ride-management publishes
//! write   pricing.batch_run       one row per run: what it read, and when
//!         pricing.zone_market     one row per zone: supply and demand, each with its as_of
//! ```
//! A view's *watermark* is the market time up to which the view is complete. It becomes the `as_of` of the levels, so
//! their age grows from the last write of the producer and not from that of the batch.

use std::time::Duration;

use chrono::{DateTime, Utc};
use marketplace::view::{Level, ZoneLevels};
use platform::{
    background::WorkLoop,
    postgres,
    schema::{self, Migrations, SchemaError, Step},
};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
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

/// The schema `pricing`, and the views of the other two that this role may read.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
}

/// Up to when the view of supply is complete.
#[derive(Clone, Debug)]
pub struct SupplyWatermark {
    /// Market time up to which the view is complete.
    pub as_of: DateTime<Utc>,
    /// Trace context of the newest write.
    pub traceparent: Option<String>,
    /// Real time of that write; `None` from a producer that does not publish it.
    pub written_at: Option<DateTime<Utc>>,
}

platform::from_row!(SupplyWatermark {
    as_of,
    traceparent,
    written_at
});

/// One zone of the view that driver-management publishes.
#[derive(Clone, Debug)]
pub struct SupplyRow {
    /// The zone.
    pub zone: String,
    /// Idle drivers in it.
    pub idle_drivers: i64,
    /// When drivers on a ride are due to drop off in it.
    pub dropoffs_due_at: Vec<DateTime<Utc>>,
}

platform::from_row!(SupplyRow {
    zone,
    idle_drivers,
    dropoffs_due_at
});

/// Up to when the view of demand is complete, and since when it counts.
#[derive(Clone, Debug)]
pub struct DemandWatermark {
    /// Market time since which requests are counted.
    pub observed_since: DateTime<Utc>,
    /// Market time up to which the view is complete.
    pub as_of: DateTime<Utc>,
    /// Length of the windows of the view, in seconds of market time.
    pub window_seconds: i32,
    /// Trace context of the newest write.
    pub traceparent: Option<String>,
    /// Real time of that write; `None` from a producer that does not publish it.
    pub written_at: Option<DateTime<Utc>>,
}

platform::from_row!(DemandWatermark {
    observed_since,
    as_of,
    window_seconds,
    traceparent,
    written_at
});

/// One zone and window of the view that ride-management publishes.
#[derive(Clone, Debug)]
pub struct DemandRow {
    /// The zone.
    pub zone: String,
    /// Start of the window.
    pub window_start: DateTime<Utc>,
    /// Requests in it.
    pub requests: i64,
}

platform::from_row!(DemandRow {
    zone,
    window_start,
    requests
});

/// One run of the batch job: what it read, and when it read and wrote, in real time.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRun {
    /// When the run began.
    pub started_at: DateTime<Utc>,
    /// When driver-management wrote the supply that the run read.
    pub supply_written_at: Option<DateTime<Utc>>,
    /// Trace context of that write.
    pub supply_traceparent: Option<String>,
    /// When ride-management wrote the demand that the run read.
    pub demand_written_at: Option<DateTime<Utc>>,
    /// Trace context of that write.
    pub demand_traceparent: Option<String>,
    /// When the run had read both.
    pub read_at: DateTime<Utc>,
    /// When the run began to write its rows.
    pub written_at: DateTime<Utc>,
    /// Trace context of the run.
    pub traceparent: Option<String>,
}

platform::from_row!(BatchRun {
    started_at,
    supply_written_at,
    supply_traceparent,
    demand_written_at,
    demand_traceparent,
    read_at,
    written_at,
    traceparent
});

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

    /// [`prepare`](Self::prepare) as soon as there is a database. The other two modes do not wait for it.
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
    ///
    /// # Errors
    /// Those of the database.
    pub async fn batch_run(&self, run: i64) -> Result<Option<BatchRun>, sqlx::Error> {
        let row = sqlx::query_as(
            "SELECT started_at, supply_written_at, supply_traceparent, demand_written_at, demand_traceparent,
                    read_at, written_at, traceparent
             FROM batch_run WHERE run = $1",
        )
        .bind(run)
        .fetch_optional(&self.pool);
        postgres::observed("SELECT batch_run", row).await
    }

    /// A transaction that sees one state of all views.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn snapshot(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ")
            .await
    }
}

/// Reads the view of supply; its watermark is `None` before driver-management has written anything. `written_at` is read
/// through JSON, which has null for a missing column: a producer of an earlier version does not publish it.
///
/// # Errors
/// Those of the database, also when the view is not there yet.
pub async fn read_supply(
    connection: &mut PgConnection,
) -> Result<(Option<SupplyWatermark>, Vec<SupplyRow>), sqlx::Error> {
    let watermark = sqlx::query_as(
        "SELECT as_of, traceparent, (to_jsonb(watermark) ->> 'written_at')::timestamptz AS written_at
         FROM driver.supply_watermark AS watermark",
    )
    .fetch_optional(&mut *connection);
    let watermark = postgres::observed("SELECT driver.supply_watermark", watermark).await?;
    let rows =
        sqlx::query_as("SELECT zone, idle_drivers, dropoffs_due_at FROM driver.supply_by_zone")
            .fetch_all(connection);
    let rows = postgres::observed("SELECT driver.supply_by_zone", rows).await?;
    Ok((watermark, rows))
}

/// Reads the view of demand; its watermark is `None` before ride-management has written anything.
///
/// # Errors
/// Those of the database, also when the view is not there yet.
pub async fn read_demand(
    connection: &mut PgConnection,
) -> Result<(Option<DemandWatermark>, Vec<DemandRow>), sqlx::Error> {
    let watermark = sqlx::query_as(
        "SELECT observed_since, as_of, window_seconds, traceparent,
                (to_jsonb(watermark) ->> 'written_at')::timestamptz AS written_at
         FROM ride.demand_watermark AS watermark",
    )
    .fetch_optional(&mut *connection);
    let watermark = postgres::observed("SELECT ride.demand_watermark", watermark).await?;
    let rows =
        sqlx::query_as("SELECT zone, window_start, requests FROM ride.demand_by_zone_window")
            .fetch_all(connection);
    let rows = postgres::observed("SELECT ride.demand_by_zone_window", rows).await?;
    Ok((watermark, rows))
}

/// Writes the row of a run, in the transaction of that run, and deletes the rows of old runs. Returns its number.
///
/// # Errors
/// Those of the database.
pub async fn write_batch_run(
    connection: &mut PgConnection,
    run: BatchRun,
) -> Result<i64, sqlx::Error> {
    let number = sqlx::query_scalar(
        "WITH deleted AS (DELETE FROM batch_run WHERE run <= (SELECT max(run) FROM batch_run) - $9)
         INSERT INTO batch_run (started_at, supply_written_at, supply_traceparent, demand_written_at,
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

/// Rewrites the rows that quotes read, as batch run `run`. Quotes see them once the transaction commits.
///
/// # Errors
/// Those of the database.
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
        "INSERT INTO zone_market (zone, supply, supply_as_of, demand, demand_as_of, traceparent, run)
         SELECT *, $6, $7 FROM UNNEST($1::text[], $2::float8[], $3::timestamptz[], $4::float8[], $5::timestamptz[])
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
