//! All SQL of driver-management. Each function runs under a client span and a deadline of its own,
//! so that a database that hangs is as harmless as one that is gone; it fails with
//! [`Error::Database`]. Parameters and rows are converted here: outside there are only drivers.

mod rows;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use feeds::{
    change_log::{self, ChangeLog},
    outbox::{self, OutboxEvent},
};
use marketplace::{
    supply::PICKUP_GRACE,
    time::MarketTime,
    zone::{Position, ServiceArea},
};
use platform::{
    postgres::{self, once_more},
    schema::Step,
};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use self::rows::{DispatchRow, DriverRow, driver_columns};
use crate::{driver::Driver, error::Error, fleet::DriverPosition};

/// The steps of the schema.
pub const MIGRATIONS: &[Step] = &[
    (1, "drivers", include_str!("../migrations/0001_drivers.sql")),
    (
        2,
        "replicas",
        include_str!("../migrations/0002_replicas.sql"),
    ),
    (3, "silence", include_str!("../migrations/0003_silence.sql")),
];

/// How long the database may take for any one operation.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// Writing or reading the positions of a whole fleet takes longer, and no caller waits for it.
const BATCH_DEADLINE: Duration = Duration::from_secs(4);

/// Reading the whole fleet at the start takes longest, and longer than any other statement may.
const LOAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long the table keeps the dispatch of a ride, in market time: far longer than any caller
/// repeats it.
const DISPATCH_MEMORY: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The service's schema in PostgreSQL.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    area: Arc<ServiceArea>,
    replica: Uuid,
}

/// A driver who was sent to a ride.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dispatch {
    /// The driver.
    pub driver_id: Uuid,
    /// Where the driver was then.
    pub position: Position,
    /// When the driver is expected at the rider, in market time.
    pub pickup_due_at: MarketTime,
    /// When the driver is expected to be idle again, in market time.
    pub dropoff_due_at: MarketTime,
}

/// The answer to "may this call find a driver for the ride?"
#[derive(Debug)]
pub enum DispatchClaim {
    /// Yes; every other call for the ride waits until this one is over.
    Ours(OpenClaim),
    /// The ride has a driver already.
    Sent(Dispatch),
    /// The ride was released.
    Released,
}

/// The exclusive right to find a driver for one ride. Dropped without a driver, it leaves the ride
/// as it was.
#[derive(Debug)]
pub struct OpenClaim {
    /// Drivers who gave the ride back, and are not sent to it again.
    pub given_back_by: Vec<Uuid>,
    ride_id: Uuid,
    transaction: Transaction<'static, Postgres>,
}

impl Store {
    /// A store in the schema of the pool's role, where this process is `replica`.
    pub const fn new(pool: PgPool, area: Arc<ServiceArea>, replica: Uuid) -> Self {
        Self {
            pool,
            area,
            replica,
        }
    }

    /// The change log of the schema, as this process reads it.
    pub fn change_log(&self) -> ChangeLog {
        ChangeLog::new(self.pool.clone(), self.replica)
    }

    /// Reports that this replica writes no more.
    pub async fn leave(&self) -> Result<(), Error> {
        Ok(change_log::leave(&self.pool, self.replica).await?)
    }

    /// All drivers.
    pub async fn all_drivers(&self) -> Result<Vec<Driver>, Error> {
        let read = || async {
            let mut transaction = self.pool.begin().await?;
            let extend = sqlx::query("SELECT set_config('statement_timeout', $1, true)")
                .bind(LOAD_DEADLINE.as_millis().to_string());
            extend.execute(&mut *transaction).await?;
            let rows = sqlx::query_as::<_, DriverRow>(concat!(
                "SELECT ",
                driver_columns!(),
                " FROM driver"
            ))
            .fetch_all(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(rows)
        };
        let rows = postgres::traced(LOAD_DEADLINE, "SELECT driver", once_more(read));
        let rows: Result<_, Error> = rows.await;
        drivers(rows?)
    }

    /// Some drivers, which may be many; those without a row are missing.
    pub async fn drivers(&self, ids: &[Uuid]) -> Result<Vec<Driver>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let read = || {
            let rows = sqlx::query_as::<_, DriverRow>(concat!(
                "SELECT ",
                driver_columns!(),
                " FROM driver WHERE driver_id = ANY($1)"
            ));
            rows.bind(ids).fetch_all(&self.pool)
        };
        let rows = postgres::traced(BATCH_DEADLINE, "SELECT driver", once_more(read));
        let rows: Result<_, Error> = rows.await;
        drivers(rows?)
    }

    /// One driver.
    pub async fn driver(&self, driver_id: Uuid) -> Result<Option<Driver>, Error> {
        let read = || {
            let row = sqlx::query_as::<_, DriverRow>(concat!(
                "SELECT ",
                driver_columns!(),
                " FROM driver WHERE driver_id = $1"
            ));
            row.bind(driver_id).fetch_optional(&self.pool)
        };
        let row = traced("SELECT driver", once_more(read)).await?;
        row.map(Driver::try_from).transpose()
    }

    /// The driver who is on a ride.
    pub async fn driver_of(&self, ride_id: Uuid) -> Result<Option<Driver>, Error> {
        let read = || {
            let row = sqlx::query_as::<_, DriverRow>(concat!(
                "SELECT ",
                driver_columns!(),
                " FROM driver WHERE ride_id = $1"
            ));
            row.bind(ride_id).fetch_optional(&self.pool)
        };
        let row = traced("SELECT driver", once_more(read)).await?;
        row.map(Driver::try_from).transpose()
    }

    /// Writes `driver` in place of its previous version, with the ride that the driver gives back,
    /// and `event`. False, and nothing is written, when the table holds another version than that.
    pub async fn change(
        &self,
        driver: &Driver,
        given_back: Option<Uuid>,
        event: Option<OutboxEvent>,
    ) -> Result<bool, Error> {
        let write = || async {
            let mut transaction = self.pool.begin().await?;
            let changed = self.write(&mut transaction, driver).await?;
            if let Some(ride_id) = given_back.filter(|_| changed) {
                give_back(&mut transaction, ride_id, driver.driver_id).await?;
            }
            if let Some(event) = event.as_ref().filter(|_| changed) {
                outbox::write(&mut transaction, event).await?;
            }
            Ok::<_, sqlx::Error>((transaction, changed))
        };
        traced("UPDATE driver", async {
            let (transaction, changed) = once_more(write).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(changed)
        })
        .await
    }

    /// Some drivers on the way to a rider who should have been there by [`PICKUP_GRACE`] before
    /// `now`, the most overdue first.
    pub async fn overdue_drivers(&self, now: MarketTime) -> Result<Vec<Driver>, Error> {
        const MOST: i64 = 100;
        let read = || {
            let rows = sqlx::query_as::<_, DriverRow>(concat!(
                "SELECT ",
                driver_columns!(),
                " FROM driver WHERE status = 'en_route' AND pickup_due_at <= $1
                 ORDER BY pickup_due_at LIMIT $2"
            ));
            let rows = rows.bind(DateTime::from(now - PICKUP_GRACE)).bind(MOST);
            rows.fetch_all(&self.pool)
        };
        drivers(traced("SELECT driver overdue", once_more(read)).await?)
    }

    /// Frees the driver on the way to a ride; `None` when nobody is on the way to it. The position
    /// stays as it is: a newer one may be waiting to be written.
    pub async fn release(&self, ride_id: Uuid, now: MarketTime) -> Result<Option<Driver>, Error> {
        let free = || async {
            let mut transaction = self.pool.begin().await?;
            let row = sqlx::query_as::<_, DriverRow>(concat!(
                "WITH freed AS (
                     UPDATE driver
                     SET version = version + 1, status = 'idle', changed_at = $2, ride_id = NULL,
                         dropoff_lat = NULL, dropoff_lon = NULL, dropoff_zone = NULL,
                         pickup_due_at = NULL, dropoff_due_at = NULL
                     WHERE ride_id = $1 AND status = 'en_route'
                     RETURNING ",
                driver_columns!(),
                "), recorded AS (
                     UPDATE dispatch SET released = true FROM freed WHERE dispatch.ride_id = $1
                 )
                 SELECT ",
                driver_columns!(),
                " FROM freed"
            ));
            let row = row.bind(ride_id).bind(DateTime::from(now));
            let row = row.fetch_optional(&mut *transaction).await?;
            Ok::<_, sqlx::Error>((transaction, row))
        };
        let row = traced("UPDATE driver, dispatch", async {
            let (transaction, row) = once_more(free).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(row)
        })
        .await?;
        row.map(Driver::try_from).transpose()
    }

    /// Records that a ride was released before a driver was sent to it, or after all who were sent
    /// gave it back. False when the table knows the ride otherwise: it has, or had, a driver.
    pub async fn release_unsent(&self, ride_id: Uuid, now: MarketTime) -> Result<bool, Error> {
        // Done twice it answers false, and the caller then sees that nobody is on the way.
        let insert = || {
            let insert = sqlx::query(
                "INSERT INTO dispatch (ride_id, asked_at, released) VALUES ($1, $2, true)
                 ON CONFLICT (ride_id) DO UPDATE SET released = true
                 WHERE dispatch.driver_id IS NULL AND NOT dispatch.released",
            );
            let insert = insert.bind(ride_id).bind(DateTime::from(now));
            insert.execute(&self.pool)
        };
        let inserted = traced("INSERT dispatch", once_more(insert)).await?;
        Ok(inserted.rows_affected() == 1)
    }

    /// Asks for the right to find a driver for a ride. Waits while another call has it.
    pub async fn claim(&self, ride_id: Uuid, now: MarketTime) -> Result<DispatchClaim, Error> {
        traced("INSERT dispatch", async {
            let mut transaction = self.pool.begin().await?;
            let inserted = sqlx::query(
                "INSERT INTO dispatch (ride_id, asked_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(ride_id)
            .bind(DateTime::from(now))
            .execute(&mut *transaction)
            .await?;
            let given_back_by = match inserted.rows_affected() {
                1 => Vec::new(),
                _ => {
                    let row = sqlx::query_as::<_, DispatchRow>(
                        "SELECT released, driver_id, lat, lon, pickup_due_at, dropoff_due_at,
                                given_back_by
                         FROM dispatch WHERE ride_id = $1 FOR UPDATE",
                    )
                    .bind(ride_id)
                    .fetch_one(&mut *transaction)
                    .await?;
                    match row.dispatch()? {
                        Some(sent) => return Ok(DispatchClaim::Sent(sent)),
                        None if row.released => return Ok(DispatchClaim::Released),
                        None => row.given_back_by,
                    }
                }
            };
            Ok::<_, Error>(DispatchClaim::Ours(OpenClaim {
                given_back_by,
                ride_id,
                transaction,
            }))
        })
        .await
    }

    /// Writes the positions reported to this replica up to `as_of`, and the report that it has.
    pub async fn write_positions(
        &self,
        as_of: MarketTime,
        positions: &[DriverPosition],
    ) -> Result<(), Error> {
        let write = || async {
            let mut transaction = self.pool.begin().await?;
            commit_without_fsync(&mut transaction).await?;
            if !positions.is_empty() {
                let zones = positions
                    .iter()
                    .map(|reported| self.zone_column(reported.position));
                update_positions(&mut transaction, positions, zones.collect()).await?;
            }
            forget_dispatches(&mut transaction, as_of - DISPATCH_MEMORY).await?;
            change_log::report_as_of(&mut transaction, self.replica, DateTime::from(as_of)).await?;
            transaction.commit().await
        };
        postgres::traced(BATCH_DEADLINE, "UPDATE driver, replica", once_more(write)).await
    }

    /// Compare-and-set: the row is written only over the version before this one.
    async fn write(
        &self,
        connection: &mut PgConnection,
        driver: &Driver,
    ) -> Result<bool, sqlx::Error> {
        let ride = driver.ride;
        let written = sqlx::query(
            "INSERT INTO driver AS known (
                 driver_id, version, status, changed_at, lat, lon, zone, moved_at, ride_id,
                 dropoff_lat, dropoff_lon, dropoff_zone, pickup_due_at, dropoff_due_at
             ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
             ON CONFLICT (driver_id) DO UPDATE
             SET (version, status, changed_at, lat, lon, zone, moved_at, ride_id,
                  dropoff_lat, dropoff_lon, dropoff_zone, pickup_due_at, dropoff_due_at) =
                 ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
             WHERE known.version = $2 - 1",
        )
        .bind(driver.driver_id)
        .bind(driver.version)
        .bind(driver.status.as_str())
        .bind(DateTime::from(driver.changed_at))
        .bind(driver.position.lat())
        .bind(driver.position.lon())
        .bind(self.zone_column(driver.position))
        .bind(DateTime::from(driver.moved_at))
        .bind(ride.map(|ride| ride.ride_id))
        .bind(ride.map(|ride| ride.dropoff.lat()))
        .bind(ride.map(|ride| ride.dropoff.lon()))
        .bind(ride.and_then(|ride| self.zone_column(ride.dropoff)))
        .bind(ride.map(|ride| DateTime::from(ride.pickup_due_at)))
        .bind(ride.map(|ride| DateTime::from(ride.dropoff_due_at)))
        .execute(connection)
        .await?;
        Ok(written.rows_affected() == 1)
    }

    fn zone_column(&self, position: Position) -> Option<String> {
        let zone = self.area.zone_of(position).ok()?;
        Some(zone.to_string())
    }
}

impl OpenClaim {
    /// Sends a driver to the ride, if the driver is still idle; final with [`OpenClaim::commit`].
    pub async fn send(
        &mut self,
        store: &Store,
        dispatch: &Dispatch,
        dropoff: Position,
        now: MarketTime,
    ) -> Result<Option<Driver>, Error> {
        let row = sqlx::query_as::<_, DriverRow>(concat!(
            "WITH sent AS (
                 UPDATE driver
                 SET version = version + 1, status = 'en_route', changed_at = $3, ride_id = $2,
                     dropoff_lat = $4, dropoff_lon = $5, dropoff_zone = $6,
                     pickup_due_at = $7, dropoff_due_at = $8
                 WHERE driver_id = $1 AND status = 'idle'
                 RETURNING ",
            driver_columns!(),
            "), recorded AS (
                 UPDATE dispatch
                 SET driver_id = $1, lat = $9, lon = $10, pickup_due_at = $7, dropoff_due_at = $8
                 FROM sent WHERE dispatch.ride_id = $2
             )
             SELECT ",
            driver_columns!(),
            " FROM sent"
        ))
        .bind(dispatch.driver_id)
        .bind(self.ride_id)
        .bind(DateTime::from(now))
        .bind(dropoff.lat())
        .bind(dropoff.lon())
        .bind(store.zone_column(dropoff))
        .bind(DateTime::from(dispatch.pickup_due_at))
        .bind(DateTime::from(dispatch.dropoff_due_at))
        .bind(dispatch.position.lat())
        .bind(dispatch.position.lon())
        .fetch_optional(&mut *self.transaction);
        let row = traced("UPDATE driver, dispatch", row).await?;
        row.map(Driver::try_from).transpose()
    }

    /// Makes the dispatch final. When this fails, it is unknown whether the driver was sent.
    pub async fn commit(self) -> Result<(), Error> {
        traced("COMMIT", self.transaction.commit()).await
    }
}

/// Opens the ride for a dispatch to anybody but this driver.
async fn give_back(
    connection: &mut PgConnection,
    ride_id: Uuid,
    driver_id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE dispatch
         SET driver_id = NULL, lat = NULL, lon = NULL, pickup_due_at = NULL, dropoff_due_at = NULL,
             given_back_by = array_append(given_back_by, $2)
         WHERE ride_id = $1",
    )
    .bind(ride_id)
    .bind(driver_id)
    .execute(connection)
    .await?;
    Ok(())
}

async fn update_positions(
    connection: &mut PgConnection,
    positions: &[DriverPosition],
    zones: Vec<Option<String>>,
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = positions
        .iter()
        .map(|reported| reported.driver_id)
        .collect();
    let lats: Vec<f64> = positions
        .iter()
        .map(|reported| reported.position.lat())
        .collect();
    let lons: Vec<f64> = positions
        .iter()
        .map(|reported| reported.position.lon())
        .collect();
    let times: Vec<DateTime<Utc>> = positions
        .iter()
        .map(|reported| DateTime::from(reported.moved_at))
        .collect();
    sqlx::query(
        "UPDATE driver
         SET lat = moved.lat, lon = moved.lon, zone = moved.zone, moved_at = moved.moved_at
         FROM unnest($1::uuid[], $2::float8[], $3::float8[], $4::text[], $5::timestamptz[])
              AS moved (driver_id, lat, lon, zone, moved_at)
         WHERE driver.driver_id = moved.driver_id AND driver.moved_at <= moved.moved_at",
    )
    .bind(ids)
    .bind(lats)
    .bind(lons)
    .bind(zones)
    .bind(times)
    .execute(connection)
    .await?;
    Ok(())
}

/// Positions are superseded within seconds, so a commit of them need not survive a power cut.
async fn commit_without_fsync(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let set = sqlx::query("SET LOCAL synchronous_commit = off");
    set.execute(connection).await.map(|_| ())
}

async fn forget_dispatches(
    connection: &mut PgConnection,
    before: MarketTime,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM dispatch WHERE asked_at < $1")
        .bind(DateTime::from(before))
        .execute(connection)
        .await?;
    Ok(())
}

/// Runs one operation under its span and within [`DEADLINE`].
async fn traced<T>(
    summary: &'static str,
    operation: impl Future<Output = Result<T, impl Into<Error>>>,
) -> Result<T, Error> {
    postgres::traced(DEADLINE, summary, operation).await
}

fn drivers(rows: Vec<DriverRow>) -> Result<Vec<Driver>, Error> {
    rows.into_iter().map(Driver::try_from).collect()
}
