//! All SQL of ride-management. A ride is changed in one place, [`Store::apply`]: lock the row, let
//! the state machine decide, write the row and its event in the same transaction. Each function
//! runs under a client span and a deadline of its own, so that a database that hangs is as harmless
//! as one that is gone; it fails with [`Error::Database`].

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
use platform::{
    postgres::{self, once_more},
    schema::Step,
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    error::Error,
    events,
    ride::{ChangeOutcome, Ride, RideChange, RideState, SupplyCall},
};

/// The steps of the schema.
pub const MIGRATIONS: &[Step] = &[
    (1, "rides", include_str!("../migrations/0001_rides.sql")),
    (
        2,
        "replicas",
        include_str!("../migrations/0002_replicas.sql"),
    ),
    (
        3,
        "given back",
        include_str!("../migrations/0003_given_back.sql"),
    ),
];

/// How long the database may take for any one operation.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// Counting the requests of a day takes longer; at this time the server gives up by itself.
const COUNT_DEADLINE: Duration = Duration::from_secs(4);

/// How long the lease on a pending call lasts. Twice the deadline of the call, so that the call is
/// over before its lease.
pub const LEASE: Duration = Duration::from_secs(2);

/// Most attempts to release a driver. A release that fails for half an hour is given up: by then
/// the driver is no longer on that trip.
const MAX_SUPPLY_CALLS: i32 = 1_000;

/// The columns of a [`RideRow`]. Not `*`: a plan that was prepared with it fails once a newer
/// version of the service has added a column.
macro_rules! ride_columns {
    () => {
        "ride_id, rider_id, quote_id, state, zone, pickup_lat, pickup_lon, dropoff_lat, dropoff_lon,
         fare_cents, surge_multiplier_tenths, driver_id, requested_at, matched_at, pickup_due_at,
         dropoff_due_at, picked_up_at, ended_at, supply_call_due_at, given_back_by, traceparent"
    };
}

/// The service's schema in PostgreSQL.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    replica: Uuid,
}

/// The ride of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum PlacedRide {
    /// A new ride.
    New(Ride),
    /// The ride that the same request made before, in its current state.
    Repeated(Ride),
}

/// A ride after a change, and what the change did.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangedRide {
    /// The ride.
    pub ride: Ride,
    /// What the change did to it.
    pub outcome: ChangeOutcome,
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

    /// Writes a new ride with its event. When the quote was redeemed by the same request before,
    /// this is the ride of that time.
    ///
    /// # Errors
    /// [`Error::QuoteUsed`] when another request redeemed the quote.
    pub async fn place(&self, ride: Ride) -> Result<PlacedRide, Error> {
        let write = || async {
            let mut transaction = self.pool.begin().await?;
            let is_new = insert(&mut transaction, &ride).await?;
            if is_new {
                outbox::write(&mut transaction, &events::ride_event(&ride)).await?;
            }
            Ok::<_, sqlx::Error>((transaction, is_new))
        };
        let inserted = traced("INSERT ride", async {
            let (transaction, is_new) = once_more(write).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(is_new)
        });
        match inserted.await? {
            true => Ok(PlacedRide::New(ride)),
            false => self.repeated(&ride).await.map(PlacedRide::Repeated),
        }
    }

    /// The ride for which the same request as `request` redeemed its quote before.
    ///
    /// # Errors
    /// [`Error::QuoteUsed`] when another request redeemed it, or none.
    pub async fn repeated(&self, request: &Ride) -> Result<Ride, Error> {
        let read = || {
            let row = sqlx::query_as::<_, RideRow>(concat!(
                "SELECT ",
                ride_columns!(),
                " FROM ride WHERE quote_id = $1"
            ));
            row.bind(request.quote_id).fetch_optional(&self.pool)
        };
        let row = traced("SELECT ride by quote", once_more(read)).await?;
        let ride = row.map(Ride::try_from).transpose()?;
        let repeated = ride.filter(|ride| ride.is_same_request(request));
        repeated.ok_or(Error::QuoteUsed)
    }

    /// The ride of that id.
    ///
    /// # Errors
    /// [`Error::NoSuchRide`].
    pub async fn ride(&self, ride_id: Uuid) -> Result<Ride, Error> {
        let read = || {
            let row = sqlx::query_as::<_, RideRow>(concat!(
                "SELECT ",
                ride_columns!(),
                " FROM ride WHERE ride_id = $1"
            ));
            row.bind(ride_id).fetch_optional(&self.pool)
        };
        let row = traced("SELECT ride", once_more(read)).await?;
        Ok(row.ok_or(Error::NoSuchRide(ride_id))?.try_into()?)
    }

    /// Applies `change` to a ride under a lock, and writes the ride, with an event if it moved.
    ///
    /// # Errors
    /// [`Error::NoSuchRide`].
    pub async fn apply(
        &self,
        ride_id: Uuid,
        change: RideChange,
        now: MarketTime,
    ) -> Result<ChangedRide, Error> {
        let write = || async {
            let mut transaction = self.pool.begin().await?;
            let before = lock(&mut transaction, ride_id).await?;
            let mut ride = before.clone();
            let outcome = ride.apply(change, now);
            if ride != before {
                update(&mut transaction, &ride).await?;
            }
            if outcome == ChangeOutcome::Moved {
                outbox::write(&mut transaction, &events::ride_event(&ride)).await?;
            }
            Ok::<_, Error>((transaction, ChangedRide { ride, outcome }))
        };
        traced("UPDATE ride", async {
            let (transaction, changed) = once_more(write).await?;
            transaction.commit().await?;
            Ok::<_, Error>(changed)
        })
        .await
    }

    /// Leases the pending calls that are due to this replica, oldest ride first, for [`LEASE`]. A
    /// call is leased to one replica at a time.
    pub async fn lease_due_calls(&self, most: i64) -> Result<Vec<Ride>, Error> {
        let rows = sqlx::query_as::<_, RideRow>(concat!(
            "WITH due AS MATERIALIZED (
                 SELECT ride_id AS due_id FROM ride WHERE supply_call_due_at <= now()
                 ORDER BY requested_at LIMIT $1 FOR UPDATE SKIP LOCKED
             )
             UPDATE ride SET
                 supply_calls = supply_calls + 1,
                 supply_call_due_at = CASE
                     WHEN state = 'requested' OR supply_calls < $2 THEN now() + $3
                 END
             FROM due WHERE ride_id = due_id
             RETURNING ",
            ride_columns!()
        ))
        .bind(most)
        .bind(MAX_SUPPLY_CALLS)
        .bind(LEASE)
        .fetch_all(&self.pool);
        let rows = traced("UPDATE ride due calls", rows).await?.into_iter();
        Ok(rows.map(Ride::try_from).collect::<Result<_, _>>()?)
    }

    /// Records that driver-management has freed the driver of an ended ride.
    pub async fn released(&self, ride_id: Uuid) -> Result<(), Error> {
        let update = || {
            let update = sqlx::query(
                "UPDATE ride SET supply_call_due_at = NULL
                 WHERE ride_id = $1 AND state IN ('cancelled', 'unserved')",
            );
            update.bind(ride_id).execute(&self.pool)
        };
        traced("UPDATE ride released", once_more(update)).await?;
        Ok(())
    }

    /// Begins to count demand in windows of `window`, or goes on counting; returns since when.
    pub async fn observe(&self, window: Duration, now: MarketTime) -> Result<MarketTime, Error> {
        traced("INSERT observation, replica", async {
            let mut transaction = self.pool.begin().await?;
            let since = sqlx::query_scalar::<_, DateTime<Utc>>(
                "INSERT INTO observation (observed_since, window_seconds) VALUES ($1, $2)
                 ON CONFLICT (only_row) DO UPDATE SET window_seconds = excluded.window_seconds
                 RETURNING observed_since",
            )
            .bind(DateTime::from(now))
            .bind(window.as_secs() as i32)
            .fetch_one(&mut *transaction)
            .await?;
            change_log::report_as_of(&mut transaction, self.replica, DateTime::from(now)).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(since.into())
        })
        .await
    }

    /// The counts that the service publishes, and the watermark of the change log in the same
    /// snapshot, so that each request is in exactly one of the counts and later reads.
    pub async fn window_counts(
        &self,
        change_log: &mut ChangeLog,
    ) -> Result<(Vec<WindowCount>, Changes), Error> {
        let summary = "SELECT journal, demand_by_zone_window";
        let read = change_log.read_with(async |snapshot| {
            sqlx::query_as::<_, (String, DateTime<Utc>, i64)>(
                "SELECT zone, window_start, requests FROM demand_by_zone_window",
            )
            .fetch_all(snapshot)
            .await
        });
        let read: Result<_, Error> = postgres::traced(COUNT_DEADLINE, summary, read).await;
        let (rows, changes) = read?;
        let count = |(zone, window_start, requests): (String, DateTime<Utc>, i64)| {
            Ok::<_, Error>(WindowCount {
                zone: parsed(&zone)?,
                window_start: window_start.into(),
                requests: u32::try_from(requests).unwrap_or(u32::MAX),
            })
        };
        let counts: Result<_, Error> = rows.into_iter().map(count).collect();
        Ok((counts?, changes))
    }

    /// Where and when some rides were requested.
    pub async fn requests(&self, rides: &[Uuid]) -> Result<Vec<(Zone, MarketTime)>, Error> {
        if rides.is_empty() {
            return Ok(Vec::new());
        }
        let read = || {
            let rows = sqlx::query_as::<_, (String, DateTime<Utc>)>(
                "SELECT zone, requested_at FROM ride WHERE ride_id = ANY($1)",
            );
            rows.bind(rides).fetch_all(&self.pool)
        };
        let request = |(zone, at): (String, DateTime<Utc>)| Ok((parsed(&zone)?, at.into()));
        let rows = traced("SELECT ride requests", once_more(read)).await?;
        rows.into_iter().map(request).collect()
    }

    /// Reports that this replica writes no more.
    pub async fn leave(&self) -> Result<(), Error> {
        Ok(change_log::leave(&self.pool, self.replica).await?)
    }

    /// Reports that all requests which this replica accepted up to `as_of` are in the table.
    pub async fn report_as_of(&self, as_of: MarketTime) -> Result<(), Error> {
        let report = || async {
            let mut connection = self.pool.acquire().await?;
            change_log::report_as_of(&mut connection, self.replica, DateTime::from(as_of)).await
        };
        traced("UPDATE replica", once_more(report)).await
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
             ride_id, rider_id, quote_id, state, zone, pickup_lat, pickup_lon, dropoff_lat,
             dropoff_lon, fare_cents, surge_multiplier_tenths, requested_at, traceparent,
             supply_call_due_at
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
    .bind(DateTime::from(ride.requested_at))
    .bind(&ride.traceparent)
    .bind(LEASE)
    .execute(connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

async fn lock(connection: &mut PgConnection, ride_id: Uuid) -> Result<Ride, Error> {
    let row: Option<RideRow> = sqlx::query_as(concat!(
        "SELECT ",
        ride_columns!(),
        " FROM ride WHERE ride_id = $1 FOR UPDATE"
    ))
    .bind(ride_id)
    .fetch_optional(connection)
    .await?;
    Ok(row.ok_or(Error::NoSuchRide(ride_id))?.try_into()?)
}

/// Writes what can change. A pending call keeps its lease: a dispatch may be under way when its
/// ride is cancelled, and only after that can the driver be freed for good. A new dispatch is
/// leased to the writer of the change.
async fn update(connection: &mut PgConnection, ride: &Ride) -> Result<(), sqlx::Error> {
    let call_after = match ride.pending_call {
        Some(SupplyCall::Dispatch) => LEASE,
        _ => Duration::ZERO,
    };
    sqlx::query(
        "UPDATE ride SET
             state = $2, driver_id = $3, matched_at = $4, pickup_due_at = $5, dropoff_due_at = $6,
             picked_up_at = $7, ended_at = $8,
             given_back_by = $10,
             supply_call_due_at = CASE WHEN $9 THEN coalesce(supply_call_due_at, now() + $11) END
         WHERE ride_id = $1",
    )
    .bind(ride.ride_id)
    .bind(ride.state.as_str())
    .bind(ride.driver_id)
    .bind(ride.matched_at.map(DateTime::from))
    .bind(ride.pickup_due_at.map(DateTime::from))
    .bind(ride.dropoff_due_at.map(DateTime::from))
    .bind(ride.picked_up_at.map(DateTime::from))
    .bind(ride.ended_at.map(DateTime::from))
    .bind(ride.pending_call.is_some())
    .bind(ride.given_back_by)
    .bind(call_after)
    .execute(connection)
    .await?;
    Ok(())
}

platform::from_row! {
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
        given_back_by: Option<Uuid>,
        requested_at: DateTime<Utc>,
        matched_at: Option<DateTime<Utc>>,
        pickup_due_at: Option<DateTime<Utc>>,
        dropoff_due_at: Option<DateTime<Utc>>,
        picked_up_at: Option<DateTime<Utc>>,
        ended_at: Option<DateTime<Utc>>,
        supply_call_due_at: Option<DateTime<Utc>>,
        traceparent: Option<String>,
    }
}

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
            given_back_by: row.given_back_by,
            requested_at: row.requested_at.into(),
            matched_at: row.matched_at.map(Into::into),
            pickup_due_at: row.pickup_due_at.map(Into::into),
            dropoff_due_at: row.dropoff_due_at.map(Into::into),
            picked_up_at: row.picked_up_at.map(Into::into),
            ended_at: row.ended_at.map(Into::into),
            pending_call: row.supply_call_due_at.map(|_| match state {
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

/// Runs one operation under its span and within [`DEADLINE`].
async fn traced<T>(
    summary: &'static str,
    operation: impl Future<Output = Result<T, impl Into<Error>>>,
) -> Result<T, Error> {
    postgres::traced(DEADLINE, summary, operation).await
}
