//! All SQL of this service: the rows a quote reads, the views the batch job reads, and the one transaction in which it
//! rewrites the rows.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use marketplace::{
    time::MarketTime,
    view::{Level, ZoneLevels},
    zone::Zone,
};
use platform::{
    background::WorkLoop,
    postgres::{self, Step},
    schema::{self, Migrations, SchemaError},
};
use sqlx::{FromRow, PgConnection, PgPool, Postgres, Row, Transaction, postgres::PgRow};
use tokio_util::sync::CancellationToken;

use crate::readers::Readers;

/// The steps of the schema.
pub const STEPS: [Step; 2] = [
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

/// How many runs of the batch job are remembered: an hour of runs at one every four seconds.
const RUNS_KEPT: i64 = 1_000;

/// How long to wait before asking a database again that was away.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The schema `pricing`, and the views of the other two that this role may read.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    readers: Arc<Readers>,
}

/// What the quote reads of a zone.
#[derive(Debug)]
struct ZoneMarketRow {
    zone: String,
    supply: Option<f64>,
    supply_as_of: Option<DateTime<Utc>>,
    demand: Option<f64>,
    demand_as_of: Option<DateTime<Utc>>,
    traceparent: Option<String>,
    run: Option<i64>,
}

/// By position: every quote reads seven rows, and by name each of their columns would be looked up.
impl FromRow<'_, PgRow> for ZoneMarketRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            zone: row.try_get(0)?,
            supply: row.try_get(1)?,
            supply_as_of: row.try_get(2)?,
            demand: row.try_get(3)?,
            demand_as_of: row.try_get(4)?,
            traceparent: row.try_get(5)?,
            run: row.try_get(6)?,
        })
    }
}

/// The rows of some zones, and the trace of the batch that wrote them.
#[derive(Debug)]
pub struct ZoneMarket {
    /// One entry for each zone that has a row.
    pub levels: HashMap<Zone, ZoneLevels>,
    /// Trace context of the batch run; all rows have the same, for they are written together.
    pub traceparent: Option<String>,
    /// The batch run, for [`Store::batch_run`].
    pub run: Option<i64>,
}

/// How far a feed in the database is complete.
#[derive(Clone, Debug)]
pub struct Watermark {
    /// Market time up to which the view tells everything.
    pub as_of: DateTime<Utc>,
    /// Trace context of the write that brought it there.
    pub traceparent: Option<String>,
    /// Real time of that write.
    pub written_at: Option<DateTime<Utc>>,
}

platform::from_row!(Watermark {
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

/// How far demand is complete, and since when it is counted.
#[derive(Clone, Debug)]
pub struct DemandWatermark {
    /// Market time since which requests are counted.
    pub observed_since: DateTime<Utc>,
    /// Market time up to which the view tells everything.
    pub as_of: DateTime<Utc>,
    /// Length of the windows of the view, in seconds of market time.
    pub window_seconds: i32,
    /// Trace context of the write that brought it there.
    pub traceparent: Option<String>,
    /// Real time of that write.
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
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When driver-management had written the supply that it read.
    pub supply_written_at: Option<DateTime<Utc>>,
    /// Trace context of that write.
    pub supply_traceparent: Option<String>,
    /// When ride-management had written the demand that it read.
    pub demand_written_at: Option<DateTime<Utc>>,
    /// Trace context of that write.
    pub demand_traceparent: Option<String>,
    /// When it had read both.
    pub read_at: DateTime<Utc>,
    /// When it began to write its rows.
    pub written_at: DateTime<Utc>,
    /// Its own trace context.
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
        Self {
            readers: Arc::new(Readers::of(pool.clone())),
            pool,
        }
    }

    /// Its connections.
    pub(crate) fn pool(&self) -> PgPool {
        self.pool.clone()
    }

    /// Sees to it that the schema is up to date.
    ///
    /// # Errors
    /// When PostgreSQL is away, or the schema is one that this program cannot use.
    pub async fn prepare(&self, migrations: Migrations) -> Result<(), SchemaError> {
        schema::prepare(&self.pool, &STEPS, migrations).await
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

    /// The rows of `zones`: one indexed read.
    ///
    /// # Errors
    /// Those of the database. A connection that broke since its last use is replaced once, without an error.
    pub async fn zone_market(&self, zones: &[Zone]) -> Result<ZoneMarket, sqlx::Error> {
        let rows = async {
            match self.read_zone_market(zones).await {
                Err(sqlx::Error::Io(_)) => self.read_zone_market(zones).await,
                outcome => outcome,
            }
        };
        let rows = postgres::observed("SELECT zone_market", rows).await?;
        let first = rows.first();
        let traceparent = first.and_then(|row| row.traceparent.clone());
        let run = first.and_then(|row| row.run);
        let levels = rows.iter().filter_map(ZoneMarketRow::levels);
        let levels = levels.map(|levels| (levels.zone, levels)).collect();
        Ok(ZoneMarket {
            levels,
            traceparent,
            run,
        })
    }

    /// What is remembered of a run of the batch job; `None` once a thousand others came after it.
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

    async fn read_zone_market(&self, zones: &[Zone]) -> Result<Vec<ZoneMarketRow>, sqlx::Error> {
        let names: Vec<String> = zones.iter().map(Zone::to_string).collect();
        let mut reader = self.readers.take().await?;
        let rows = sqlx::query_as(
            "SELECT zone, supply, supply_as_of, demand, demand_as_of, traceparent, run
             FROM zone_market WHERE zone = ANY($1)",
        )
        .bind(names)
        .fetch_all(reader.connection())
        .await;
        match &rows {
            Ok(_) => reader.keep(),
            Err(_) => reader.distrust_all(),
        }
        rows
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

impl ZoneMarketRow {
    fn levels(&self) -> Option<ZoneLevels> {
        Some(ZoneLevels {
            zone: self.zone.parse().ok()?,
            supply: level(self.supply, self.supply_as_of),
            demand: level(self.demand, self.demand_as_of),
        })
    }
}

fn level(value: Option<f64>, as_of: Option<DateTime<Utc>>) -> Option<Level> {
    Some(Level {
        value: value?,
        as_of: market_time(as_of?),
    })
}

/// Market time out of a column.
pub fn market_time(column: DateTime<Utc>) -> MarketTime {
    MarketTime::from_millis(column.timestamp_millis())
}

fn column(time: MarketTime) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time.millis()).unwrap_or_default()
}

/// The view of supply and how far it is complete; `None` before driver-management has written anything. When it was written
/// is read by way of JSON, which has null for a column that is not there: a producer of an earlier version does not tell, and
/// its supply is as good as ever.
///
/// # Errors
/// Those of the database, also when the view is not there yet.
pub async fn read_supply(
    connection: &mut PgConnection,
) -> Result<(Option<Watermark>, Vec<SupplyRow>), sqlx::Error> {
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

/// The view of demand and how far it is complete; `None` before ride-management has written anything.
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

/// Remembers a run in its own transaction, and forgets those of long ago. Returns its number, for its rows.
///
/// # Errors
/// Those of the database.
pub async fn remember_run(
    connection: &mut PgConnection,
    run: BatchRun,
) -> Result<i64, sqlx::Error> {
    let number = sqlx::query_scalar(
        "WITH forgotten AS (DELETE FROM batch_run WHERE run <= (SELECT max(run) FROM batch_run) - $9)
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

/// Rewrites the rows that quotes read, as written by `run`. What `connection`'s transaction does not commit, no quote sees.
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
    let as_of = |level: &Option<Level>| level.map(|level| column(level.as_of));
    let supply: Vec<Option<f64>> = zones.iter().map(|zone| value(&zone.supply)).collect();
    let supply_as_of: Vec<_> = zones.iter().map(|zone| as_of(&zone.supply)).collect();
    let demand: Vec<Option<f64>> = zones.iter().map(|zone| value(&zone.demand)).collect();
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
