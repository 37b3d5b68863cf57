//! The client of driver-management: the two calls that a ride needs. Both are idempotent there, so
//! a call whose answer was lost is made again.

use std::time::Duration;

use platform::grpc::{self, Calls, TracedChannel, UrlError};
use surge_proto::{
    convert::{Malformed, id, market_time},
    v1::{
        DispatchRequest, DispatchedDriver, ReleaseRequest,
        supply_service_client::SupplyServiceClient,
    },
};
use tonic::Request;

use crate::{
    error::Error,
    ride::{MatchedDriver, Ride},
};

/// How long driver-management may take for a call; a rider waits for it.
const CALL_DEADLINE: Duration = Duration::from_secs(1);

/// A client of driver-management.
#[derive(Clone, Debug)]
pub struct SupplyClient {
    channel: TracedChannel,
}

impl SupplyClient {
    /// A client that connects to `urls` with its first call.
    ///
    /// # Errors
    /// When one of `urls` is not a URL.
    pub fn new(urls: &str) -> Result<Self, UrlError> {
        let channel = grpc::channel(urls, CALL_DEADLINE, Calls::NonIdempotent)?;
        Ok(Self { channel })
    }

    /// Sends the nearest idle driver to a ride; `None` when no driver is near.
    ///
    /// # Errors
    /// When driver-management is away, or its answer is malformed.
    pub async fn dispatch(&self, ride: &Ride) -> Result<Option<MatchedDriver>, Error> {
        let request = with_deadline(DispatchRequest {
            ride_id: ride.ride_id.to_string(),
            pickup: Some(ride.pickup.into()),
            dropoff: Some(ride.dropoff.into()),
        });
        let mut client = SupplyServiceClient::new(self.channel.clone());
        let answer = grpc::call("surge.v1.SupplyService/Dispatch", client.dispatch(request));
        let driver = answer.await.map_err(Box::new)?.driver;
        Ok(driver.map(matched_driver).transpose()?)
    }

    /// Frees the driver of a ride that ended before its pickup.
    ///
    /// # Errors
    /// When driver-management is away.
    pub async fn release(&self, ride: &Ride) -> Result<(), Error> {
        let ride_id = ride.ride_id.to_string();
        let request = with_deadline(ReleaseRequest { ride_id });
        let mut client = SupplyServiceClient::new(self.channel.clone());
        let answer = grpc::call("surge.v1.SupplyService/Release", client.release(request));
        answer.await.map_err(Box::new)?;
        Ok(())
    }

    /// Asks driver-management whether it serves.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn health_check(self) -> Result<(), String> {
        grpc::health_check(self.channel).await
    }
}

/// Sends the deadline along, so that driver-management does not begin a call that is over.
fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    request
}

fn matched_driver(driver: DispatchedDriver) -> Result<MatchedDriver, Malformed> {
    Ok(MatchedDriver {
        driver_id: id("driver_id", &driver.driver_id)?,
        pickup_due_at: market_time("pickup_due_at", driver.pickup_due_at)?,
        dropoff_due_at: market_time("dropoff_due_at", driver.dropoff_due_at)?,
    })
}
