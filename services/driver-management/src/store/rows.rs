//! Rows of the tables, and how they become what the service talks about. Whatever does not fit was
//! not written by us.

use chrono::{DateTime, Utc};
use marketplace::{time::MarketTime, zone::Position};
use uuid::Uuid;

use super::Dispatch;
use crate::{
    driver::{Driver, Ride},
    error::Error,
};

/// A market time as a `timestamptz`.
pub(super) fn column(time: MarketTime) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time.millis()).unwrap_or_default()
}

/// A `timestamptz` as a market time.
pub fn market_time(column: DateTime<Utc>) -> MarketTime {
    MarketTime::from_millis(column.timestamp_millis())
}

/// A row of `driver`.
pub(super) struct DriverRow {
    driver_id: Uuid,
    version: i64,
    status: String,
    changed_at: DateTime<Utc>,
    lat: f64,
    lon: f64,
    moved_at: DateTime<Utc>,
    ride_id: Option<Uuid>,
    dropoff_lat: Option<f64>,
    dropoff_lon: Option<f64>,
    pickup_due_at: Option<DateTime<Utc>>,
    dropoff_due_at: Option<DateTime<Utc>>,
}

platform::from_row!(DriverRow {
    driver_id,
    version,
    status,
    changed_at,
    lat,
    lon,
    moved_at,
    ride_id,
    dropoff_lat,
    dropoff_lon,
    pickup_due_at,
    dropoff_due_at,
});

impl TryFrom<DriverRow> for Driver {
    type Error = Error;

    fn try_from(row: DriverRow) -> Result<Self, Error> {
        Ok(Self {
            driver_id: row.driver_id,
            version: row.version,
            status: row.status.parse().map_err(undecodable)?,
            changed_at: market_time(row.changed_at),
            position: position(row.lat, row.lon)?,
            moved_at: market_time(row.moved_at),
            ride: row.ride()?,
        })
    }
}

impl DriverRow {
    /// The table's checks see to it that the columns of a ride are all there or all null.
    fn ride(&self) -> Result<Option<Ride>, Error> {
        let (Some(ride_id), Some(lat), Some(lon), Some(pickup_due_at), Some(dropoff_due_at)) = (
            self.ride_id,
            self.dropoff_lat,
            self.dropoff_lon,
            self.pickup_due_at,
            self.dropoff_due_at,
        ) else {
            return Ok(None);
        };
        Ok(Some(Ride {
            ride_id,
            dropoff: position(lat, lon)?,
            pickup_due_at: market_time(pickup_due_at),
            dropoff_due_at: market_time(dropoff_due_at),
        }))
    }
}

/// A row of `dispatch`.
pub(super) struct DispatchRow {
    released: bool,
    driver_id: Option<Uuid>,
    lat: Option<f64>,
    lon: Option<f64>,
    pickup_due_at: Option<DateTime<Utc>>,
    dropoff_due_at: Option<DateTime<Utc>>,
}

platform::from_row!(DispatchRow {
    released,
    driver_id,
    lat,
    lon,
    pickup_due_at,
    dropoff_due_at
});

impl DispatchRow {
    /// What became of the ride; `None` when it was released.
    pub(super) fn dispatch(&self) -> Result<Option<Dispatch>, Error> {
        let (false, Some(driver_id), Some(lat), Some(lon), Some(pickup), Some(dropoff)) = (
            self.released,
            self.driver_id,
            self.lat,
            self.lon,
            self.pickup_due_at,
            self.dropoff_due_at,
        ) else {
            return Ok(None);
        };
        Ok(Some(Dispatch {
            driver_id,
            position: position(lat, lon)?,
            pickup_due_at: market_time(pickup),
            dropoff_due_at: market_time(dropoff),
        }))
    }
}

fn position(lat: f64, lon: f64) -> Result<Position, Error> {
    Position::new(lat, lon).map_err(undecodable)
}

/// A row that none of our binaries can have written.
fn undecodable(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Store(sqlx::Error::Decode(Box::new(cause)))
}
