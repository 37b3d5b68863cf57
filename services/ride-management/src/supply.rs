//! The way to driver-management: the two calls that a ride needs. Both are idempotent over there,
//! so a call whose answer was lost is simply made again.

use std::time::Duration;

use marketplace::time::MarketTime;
use platform::grpc::{self, Calls, TracedChannel, UrlError};
use surge_proto::{
    convert::{Malformed, id, market_time},
    v1::{
        DispatchRequest, DispatchedDriver, ReleaseRequest,
        supply_service_client::SupplyServiceClient,
    },
};
use tonic::{Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    error::Error,
    ride::{Match, Ride},
};

/// How long driver-management may take for a call; a rider waits for it.
pub const CALL_DEADLINE: Duration = Duration::from_secs(1);

/// A client of driver-management.
#[derive(Clone, Debug)]
pub struct Supply {
    channel: TracedChannel,
}

impl Supply {
    /// A client that connects to `urls` when it is first needed.
    ///
    /// # Errors
    /// When one of `urls` is none.
    pub fn at(urls: &str) -> Result<Self, UrlError> {
        let channel = grpc::channel(urls, CALL_DEADLINE, Calls::NonIdempotent)?;
        Ok(Self { channel })
    }

    /// Sends the nearest idle driver to a ride; `None` when nobody is near.
    ///
    /// # Errors
    /// When driver-management is away, or answers nonsense.
    pub async fn dispatch(&self, ride: &Ride) -> Result<Option<Match>, Error> {
        let request = bounded(DispatchRequest {
            ride_id: ride.ride_id.to_string(),
            pickup: Some(ride.pickup.into()),
            dropoff: Some(ride.dropoff.into()),
        });
        let mut client = SupplyServiceClient::new(self.channel.clone());
        let answer = grpc::call("surge.v1.SupplyService/Dispatch", client.dispatch(request));
        let driver = answer.await.map_err(Box::new)?.driver;
        Ok(driver.map(found).transpose()?)
    }

    /// Frees the driver of a ride that ended before its pickup.
    ///
    /// # Errors
    /// When driver-management is away.
    pub async fn release(&self, ride: &Ride) -> Result<(), Error> {
        let ride_id = ride.ride_id.to_string();
        let mut client = SupplyServiceClient::new(self.channel.clone());
        let release = client.release(bounded(ReleaseRequest { ride_id }));
        grpc::call("surge.v1.SupplyService/Release", release)
            .await
            .map_err(Box::new)?;
        Ok(())
    }

    /// Asks driver-management for a sign of life.
    ///
    /// # Errors
    /// Why there was none.
    pub async fn probe(self) -> Result<(), String> {
        let mut client = HealthClient::new(self.channel);
        let answer = client.check(HealthCheckRequest::default()).await;
        let told = |status: Status| format!("{:?}: {}", status.code(), status.message());
        match answer.map_err(told)?.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            status => Err(status.as_str_name().to_owned()),
        }
    }
}

/// Tells the other side the deadline too, so that it does not begin what nobody waits for.
fn bounded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    request
}

fn found(driver: DispatchedDriver) -> Result<Match, Malformed> {
    let due = |field, at| -> Result<MarketTime, Malformed> { market_time(field, at) };
    Ok(Match {
        driver_id: id("driver_id", &driver.driver_id)?,
        pickup_due_at: due("pickup_due_at", driver.pickup_due_at)?,
        dropoff_due_at: due("dropoff_due_at", driver.dropoff_due_at)?,
    })
}
