//! Rows of the tables, and how they become what the service talks about. Whatever does not fit was
//! not written by us.

use chrono::{DateTime, Utc};
use marketplace::zone::Position;
use uuid::Uuid;

use super::Dispatch;
use crate::{
    driver::{AssignedRide, Driver},
    error::Error,
};

/// The columns of a [`DriverRow`]. Not `*`: a plan that was prepared with it fails once a newer
/// version of the service has added a column.
macro_rules! driver_columns {
    () => {
        "driver_id, version, status, changed_at, lat, lon, moved_at, ride_id,
         dropoff_lat, dropoff_lon, pickup_due_at, dropoff_due_at"
    };
}
pub(super) use driver_columns;

platform::from_row! {
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
}

impl TryFrom<DriverRow> for Driver {
    type Error = Error;

    fn try_from(row: DriverRow) -> Result<Self, Error> {
        Ok(Self {
            driver_id: row.driver_id,
            version: row.version,
            status: row.status.parse().map_err(undecodable)?,
            changed_at: row.changed_at.into(),
            position: position(row.lat, row.lon)?,
            moved_at: row.moved_at.into(),
            ride: row.ride()?,
        })
    }
}

impl DriverRow {
    /// The table's checks see to it that the columns of a ride are all there or all null.
    fn ride(&self) -> Result<Option<AssignedRide>, Error> {
        let (Some(ride_id), Some(lat), Some(lon), Some(pickup_due_at), Some(dropoff_due_at)) = (
            self.ride_id,
            self.dropoff_lat,
            self.dropoff_lon,
            self.pickup_due_at,
            self.dropoff_due_at,
        ) else {
            return Ok(None);
        };
        Ok(Some(AssignedRide {
            ride_id,
            dropoff: position(lat, lon)?,
            pickup_due_at: pickup_due_at.into(),
            dropoff_due_at: dropoff_due_at.into(),
        }))
    }
}

platform::from_row! {
    /// A row of `dispatch`.
    pub(super) struct DispatchRow {
        pub(super) released: bool,
        pub(super) given_back_by: Vec<Uuid>,
        driver_id: Option<Uuid>,
        lat: Option<f64>,
        lon: Option<f64>,
        pickup_due_at: Option<DateTime<Utc>>,
        dropoff_due_at: Option<DateTime<Utc>>,
    }
}

impl DispatchRow {
    /// Who was sent; `None` when the ride was released, or given back.
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
            pickup_due_at: pickup.into(),
            dropoff_due_at: dropoff.into(),
        }))
    }
}

fn position(lat: f64, lon: f64) -> Result<Position, Error> {
    Position::new(lat, lon).map_err(undecodable)
}

/// A row that none of our binaries can have written.
fn undecodable(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Database(sqlx::Error::Decode(Box::new(cause)))
}
