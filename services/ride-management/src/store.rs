//! All SQL of ride-management. A ride is changed in one place, [`Store::advance`]: lock the row,
//! let the state machine decide, write the row and its event in the same transaction. Every
//! operation runs under a client span and a deadline, so a database that hangs is as harmless as
//! one that is gone.

use std::time::Duration;

use chrono::{DateTime, Utc};
use feeds::{
    change_log::{self, ChangeLog, Changes},
    outbox,
};
use marketplace::{
    surge::Multiplier,
    time::MarketTime,
    zone::{Position, Zone},
};
use platform::{postgres, schema::Step};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    error::Error,
    events,
    ride::{Change, Outcome, Ride, RideState, SupplyCall},
};

/// The steps of the schema, in order.
pub const MIGRATIONS: &[Step] = &[
    (1, "rides", include_str!("../migrations/0001_rides.sql")),
    (
        2,
        "replicas",
        include_str!("../migrations/0002_replicas.sql"),
    ),
];

/// How long the database may take for any one operation.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// Counting the requests of a day takes longer; a server that lives gives up on it by itself then.
const COUNT_DEADLINE: Duration = Duration::from_secs(4);

/// How long whoever takes on a call to driver-management has for it. Twice the deadline of the
/// call, so that a call is over, one way or the other, when the lease is.
pub const LEASE: Duration = Duration::from_secs(2);

/// Calls that a ride is owed at most: a release that fails for half an hour is given up, because by
/// then the driver has long dropped out of that trip by other means.
const MAX_SUPPLY_CALLS: i32 = 1_000;

/// The database of ride-management.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    replica: Uuid,
}

/// What became of a request for a ride.
#[derive(Clone, Debug, PartialEq)]
pub enum Placed {
    /// It is a new ride.
    New(Ride),
    /// The same request came before; this is its ride, wherever that stands now.
    Before(Ride),
}

/// A ride after a change, and what the change did.
#[derive(Clone, Debug, PartialEq)]
pub struct Advanced {
    /// The ride.
    pub ride: Ride,
    /// What the change did to it.
    pub outcome: Outcome,
}

/// Requests of a zone in a window, as the published view counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowCount {
    /// The zone.
    pub zone: Zone,
    /// Start of the window.
    pub window_start: MarketTime,
    /// How many requests.
    pub requests: u32,
}

impl Store {
    /// A store on `pool`, whose role owns the schema, where this process is `replica`.
    pub const fn new(pool: PgPool, replica: Uuid) -> Self {
        Self { pool, replica }
    }

    /// Writes a new ride with its event; once this returns, the ride is safe. A quote that was
    /// redeemed before gives the ride of that time, if the request was the same.
    ///
    /// # Errors
    /// [`Error::QuoteUsed`], and those of the database.
    pub async fn place(&self, ride: Ride) -> Result<Placed, Error> {
        let inserted = traced("INSERT ride", async {
            let mut transaction = self.pool.begin().await?;
            if !insert(&mut transaction, &ride).await? {
                return Ok(false);
            }
            outbox::write(&mut transaction, events::ride_event(&ride)).await?;
            transaction.commit().await?;
            Ok::<_, Error>(true)
        });
        match inserted.await? {
            true => Ok(Placed::New(ride)),
            false => self.placed_before(&ride).await.map(Placed::Before),
        }
    }

    /// The ride that the quote of `request` was redeemed for, if it was the same request.
    ///
    /// # Errors
    /// [`Error::QuoteUsed`] if it was another or there is none, and those of the database.
    pub async fn placed_before(&self, request: &Ride) -> Result<Ride, Error> {
        let row = sqlx::query_as::<_, RideRow>("SELECT * FROM ride WHERE quote_id = $1")
            .bind(request.quote_id)
            .fetch_optional(&self.pool);
        let row = traced("SELECT ride by quote", row).await?;
        let known = row.map(Ride::try_from).transpose()?;
        known
            .filter(|known| known.is_same_request(request))
            .ok_or(Error::QuoteUsed)
    }

    /// The ride of that id.
    ///
    /// # Errors
    /// [`Error::NoSuchRide`], and those of the database.
    pub async fn ride(&self, ride_id: Uuid) -> Result<Ride, Error> {
        let row = sqlx::query_as::<_, RideRow>("SELECT * FROM ride WHERE ride_id = $1")
            .bind(ride_id)
            .fetch_optional(&self.pool);
        let row = traced("SELECT ride", row).await?;
        Ok(row.ok_or(Error::NoSuchRide(ride_id))?.try_into()?)
    }

    /// Applies `change` to a ride under a lock, and writes what it did, with an event if the ride
    /// moved.
    ///
    /// # Errors
    /// [`Error::NoSuchRide`], and those of the database.
    pub async fn advance(
        &self,
        ride_id: Uuid,
        change: Change,
        now: MarketTime,
    ) -> Result<Advanced, Error> {
        traced("UPDATE ride", async {
            let mut transaction = self.pool.begin().await?;
            let before = lock(&mut transaction, ride_id).await?;
            let mut ride = before.clone();
            let outcome = ride.apply(change, now);
            if ride != before {
                update(&mut transaction, &ride).await?;
            }
            if outcome == Outcome::Moved {
                outbox::write(&mut transaction, events::ride_event(&ride)).await?;
            }
            transaction.commit().await?;
            Ok::<_, Error>(Advanced { ride, outcome })
        })
        .await
    }

    /// Takes on the calls to driver-management that are due, oldest ride first, and leases them for
    /// [`LEASE`]. Several replicas may ask at once: each ride goes to one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn take_due_calls(&self, most: i64) -> Result<Vec<Ride>, Error> {
        let rows = sqlx::query_as::<_, RideRow>(
            "WITH due AS MATERIALIZED (
                 SELECT ride_id FROM ride WHERE supply_call_due_at <= now()
                 ORDER BY requested_at LIMIT $1 FOR UPDATE SKIP LOCKED
             )
             UPDATE ride SET
                 supply_calls = supply_calls + 1,
                 supply_call_due_at = CASE
                     WHEN state = 'requested' OR supply_calls < $2 THEN now() + $3
                 END
             FROM due WHERE ride.ride_id = due.ride_id
             RETURNING ride.*",
        )
        .bind(most)
        .bind(MAX_SUPPLY_CALLS)
        .bind(LEASE)
        .fetch_all(&self.pool);
        Ok(traced("UPDATE ride due calls", rows)
            .await?
            .into_iter()
            .map(Ride::try_from)
            .collect::<Result<_, _>>()?)
    }

    /// Notes that driver-management has freed the driver of an ended ride.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn released(&self, ride_id: Uuid) -> Result<(), Error> {
        let update = sqlx::query(
            "UPDATE ride SET supply_call_due_at = NULL
             WHERE ride_id = $1 AND state IN ('cancelled', 'unserved')",
        )
        .bind(ride_id)
        .execute(&self.pool);
        traced("UPDATE ride released", update).await?;
        Ok(())
    }

    /// Begins to count demand in windows of `window`, or goes on counting; returns since when.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn observe(&self, window: Duration, now: MarketTime) -> Result<MarketTime, Error> {
        traced("INSERT observation, replica", async {
            let mut transaction = self.pool.begin().await?;
            let since = sqlx::query_scalar::<_, DateTime<Utc>>(
                "INSERT INTO observation (observed_since, window_seconds) VALUES ($1, $2)
                 ON CONFLICT (only_row) DO UPDATE SET window_seconds = excluded.window_seconds
                 RETURNING observed_since",
            )
            .bind(column(now))
            .bind(window.as_secs() as i32)
            .fetch_one(&mut *transaction)
            .await?;
            change_log::report_as_of(&mut transaction, self.replica, column(now)).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(market_time(since))
        })
        .await
    }

    /// The counts that the service publishes to others, for itself, and the place in the journal
    /// that they reach to: of one snapshot, so that each request is in exactly one of counts and
    /// later readings.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn window_counts(
        &self,
        journal: &ChangeLog,
    ) -> Result<(Vec<WindowCount>, Changes), Error> {
        const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        let summary = "SELECT journal, demand_by_zone_window";
        let read = async {
            let mut transaction = self.pool.begin_with(SNAPSHOT).await?;
            let reading = journal.read_watermark(&mut transaction).await?;
            let rows = sqlx::query_as::<_, (String, DateTime<Utc>, i64)>(
                "SELECT zone, window_start, requests FROM demand_by_zone_window",
            )
            .fetch_all(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>((rows, reading))
        };
        let read: Result<_, Error> = postgres::traced(COUNT_DEADLINE, summary, read).await;
        let (rows, reading) = read?;
        let count = |(zone, window_start, requests): (String, _, i64)| {
            Ok::<_, Error>(WindowCount {
                zone: parsed(&zone)?,
                window_start: market_time(window_start),
                requests: u32::try_from(requests).unwrap_or(u32::MAX),
            })
        };
        let counts: Result<_, Error> = rows.into_iter().map(count).collect();
        Ok((counts?, reading))
    }

    /// Where and when some rides were requested.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn requests(&self, rides: &[Uuid]) -> Result<Vec<(Zone, MarketTime)>, Error> {
        if rides.is_empty() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query_as::<_, (String, DateTime<Utc>)>(
            "SELECT zone, requested_at FROM ride WHERE ride_id = ANY($1)",
        )
        .bind(rides)
        .fetch_all(&self.pool);
        let request = |(zone, at): (String, _)| Ok((parsed(&zone)?, market_time(at)));
        let rows = traced("SELECT ride requests", rows).await?;
        rows.into_iter().map(request).collect()
    }

    /// Says that this replica will write no more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn leave(&self) -> Result<(), Error> {
        Ok(change_log::leave(&self.pool, self.replica).await?)
    }

    /// Says that this replica's requests are in the counts as of `as_of`, also when nothing
    /// changed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mark(&self, as_of: MarketTime) -> Result<(), Error> {
        traced("UPDATE replica", async {
            let mut connection = self.pool.acquire().await?;
            change_log::report_as_of(&mut connection, self.replica, column(as_of)).await
        })
        .await
    }

    /// The change log of the schema, as this process reads it.
    pub fn change_log(&self) -> ChangeLog {
        ChangeLog::new(self.pool.clone(), self.replica)
    }
}

/// Returns false if the quote was redeemed already.
async fn insert(connection: &mut PgConnection, ride: &Ride) -> Result<bool, sqlx::Error> {
    let inserted = sqlx::query(
        "INSERT INTO ride (
             ride_id, rider_id, quote_id, state, zone, pickup_lat, pickup_lon, dropoff_lat, dropoff_lon, fare_cents,
             surge_multiplier_tenths, requested_at, traceparent, supply_call_due_at
         ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now() + $14)
         ON CONFLICT (quote_id) DO NOTHING",
    )
    .bind(ride.ride_id)
    .bind(ride.rider_id)
    .bind(ride.quote_id)
    .bind(ride.state.as_str())
    .bind(ride.zone.to_string())
    .bind(ride.pickup.lat())
    .bind(ride.pickup.lon())
    .bind(ride.dropoff.lat())
    .bind(ride.dropoff.lon())
    .bind(ride.fare_cents)
    .bind(i32::from(ride.multiplier.tenths()))
    .bind(column(ride.requested_at))
    .bind(&ride.traceparent)
    .bind(LEASE)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

async fn lock(connection: &mut PgConnection, ride_id: Uuid) -> Result<Ride, Error> {
    let row: Option<RideRow> = sqlx::query_as("SELECT * FROM ride WHERE ride_id = $1 FOR UPDATE")
        .bind(ride_id)
        .fetch_optional(connection)
        .await?;
    Ok(row.ok_or(Error::NoSuchRide(ride_id))?.try_into()?)
}

/// Writes what can change. A call that stays owed keeps its lease: a dispatch may be under way when
/// its ride is cancelled, and the driver can be freed for good only after that.
async fn update(connection: &mut PgConnection, ride: &Ride) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE ride SET state = $2, driver_id = $3, matched_at = $4, pickup_due_at = $5, dropoff_due_at = $6,
             picked_up_at = $7, ended_at = $8,
             supply_call_due_at = CASE WHEN $9 THEN coalesce(supply_call_due_at, now()) END
         WHERE ride_id = $1",
    )
    .bind(ride.ride_id)
    .bind(ride.state.as_str())
    .bind(ride.driver_id)
    .bind(ride.matched_at.map(column))
    .bind(ride.pickup_due_at.map(column))
    .bind(ride.dropoff_due_at.map(column))
    .bind(ride.picked_up_at.map(column))
    .bind(ride.ended_at.map(column))
    .bind(ride.owed.is_some())
    .execute(connection)
    .await?;
    Ok(())
}

/// A row of `ride` as it stands; [`Ride::try_from`] checks what the database does not.
struct RideRow {
    ride_id: Uuid,
    rider_id: Uuid,
    quote_id: Uuid,
    state: String,
    zone: String,
    pickup_lat: f64,
    pickup_lon: f64,
    dropoff_lat: f64,
    dropoff_lon: f64,
    fare_cents: i64,
    surge_multiplier_tenths: i32,
    driver_id: Option<Uuid>,
    requested_at: DateTime<Utc>,
    matched_at: Option<DateTime<Utc>>,
    pickup_due_at: Option<DateTime<Utc>>,
    dropoff_due_at: Option<DateTime<Utc>>,
    picked_up_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    supply_call_due_at: Option<DateTime<Utc>>,
    traceparent: Option<String>,
}

platform::from_row!(RideRow {
    ride_id,
    rider_id,
    quote_id,
    state,
    zone,
    pickup_lat,
    pickup_lon,
    dropoff_lat,
    dropoff_lon,
    fare_cents,
    surge_multiplier_tenths,
    driver_id,
    requested_at,
    matched_at,
    pickup_due_at,
    dropoff_due_at,
    picked_up_at,
    ended_at,
    supply_call_due_at,
    traceparent,
});

impl TryFrom<RideRow> for Ride {
    type Error = sqlx::Error;

    fn try_from(row: RideRow) -> Result<Self, sqlx::Error> {
        let state: RideState = parsed(&row.state)?;
        Ok(Self {
            ride_id: row.ride_id,
            rider_id: row.rider_id,
            quote_id: row.quote_id,
            state,
            zone: parsed(&row.zone)?,
            pickup: Position::new(row.pickup_lat, row.pickup_lon).map_err(corrupt)?,
            dropoff: Position::new(row.dropoff_lat, row.dropoff_lon).map_err(corrupt)?,
            fare_cents: row.fare_cents,
            multiplier: u16::try_from(row.surge_multiplier_tenths)
                .map_err(corrupt)
                .and_then(|tenths| Multiplier::from_tenths(tenths).map_err(corrupt))?,
            driver_id: row.driver_id,
            requested_at: market_time(row.requested_at),
            matched_at: row.matched_at.map(market_time),
            pickup_due_at: row.pickup_due_at.map(market_time),
            dropoff_due_at: row.dropoff_due_at.map(market_time),
            picked_up_at: row.picked_up_at.map(market_time),
            ended_at: row.ended_at.map(market_time),
            owed: row.supply_call_due_at.map(|_| match state {
                RideState::Requested => SupplyCall::Dispatch,
                _ => SupplyCall::Release,
            }),
            traceparent: row.traceparent,
        })
    }
}

fn parsed<T>(text: &str) -> Result<T, sqlx::Error>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text.parse().map_err(corrupt)
}

fn corrupt(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

/// Market time as a column; what no calendar can hold becomes the epoch, and the clock never shows
/// it.
fn column(time: MarketTime) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time.millis()).unwrap_or_default()
}

/// A column as market time.
pub fn market_time(column: DateTime<Utc>) -> MarketTime {
    MarketTime::from_millis(column.timestamp_millis())
}

/// Runs one operation under its span and within [`DEADLINE`].
async fn traced<T>(
    summary: &'static str,
    operation: impl Future<Output = Result<T, impl Into<Error>>>,
) -> Result<T, Error> {
    postgres::traced(DEADLINE, summary, operation).await
}
