//! The gRPC edge: `surge.v1.SupplyService`, with the standard health and reflection services beside
//! it. A method parses, asks [`App`] and answers; `platform::grpc::edge` puts deadlines, traces and
//! metrics around it.

use marketplace::{view::Level, zone::Position};
use platform::{fault::Fault, grpc::with_standard_services};
use surge_proto::{
    FILE_DESCRIPTOR_SET,
    convert::{self, Malformed, timestamp},
    v1::{
        DispatchRequest, DispatchResponse, DispatchedDriver, GetSupplyRequest, GetSupplyResponse,
        ReleaseRequest, ReleaseResponse, ReportPositionsRequest, ReportPositionsResponse,
        SupplyLevel,
        supply_service_server::{SupplyService, SupplyServiceServer},
    },
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, service::Routes};
use uuid::Uuid;

use crate::{
    app::{App, WaitingRide},
    error::Error,
    store::Dispatch,
};

/// The services of this edge. Streams of positions end with `shutdown`; their callers open new
/// ones on another replica, or later.
///
/// # Errors
/// When the compiled descriptors cannot be read.
pub(crate) async fn routes(app: App, shutdown: CancellationToken) -> anyhow::Result<Routes> {
    let supply = SupplyServiceServer::new(SupplyEdge { app, shutdown });
    Ok(with_standard_services(supply, FILE_DESCRIPTOR_SET).await?)
}

struct SupplyEdge {
    app: App,
    shutdown: CancellationToken,
}

#[tonic::async_trait]
impl SupplyService for SupplyEdge {
    async fn get_supply(
        &self,
        request: Request<GetSupplyRequest>,
    ) -> Result<Response<GetSupplyResponse>, Status> {
        let zones = convert::zones(&request.into_inner().zones).map_err(refused)?;
        let supply = self.app.supply(&zones).map_err(unknown_zone_is_invalid)?;
        let as_of = supply.as_of;
        let levels = supply.zones.iter().map(|zone| {
            let value = zone.predicted;
            SupplyLevel::new(zone.zone, Level { value, as_of })
        });
        Ok(Response::new(GetSupplyResponse {
            levels: levels.collect(),
        }))
    }

    async fn report_positions(
        &self,
        request: Request<Streaming<ReportPositionsRequest>>,
    ) -> Result<Response<ReportPositionsResponse>, Status> {
        let accepting = accept_all(&self.app, request.into_inner());
        match self.shutdown.run_until_cancelled(accepting).await {
            Some(reported) => reported.map(Response::new),
            None => Err(Status::unavailable(
                "the service is stopping; open the stream again",
            )),
        }
    }

    async fn dispatch(
        &self,
        request: Request<DispatchRequest>,
    ) -> Result<Response<DispatchResponse>, Status> {
        let ride = waiting_ride(request.into_inner()).map_err(refused)?;
        let dispatch = self.app.dispatch(ride).await.map_err(refused)?;
        Ok(Response::new(DispatchResponse {
            driver: dispatch.map(DispatchedDriver::from),
        }))
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        let ride_id = convert::id("ride_id", &request.into_inner().ride_id).map_err(refused)?;
        let released = self.app.release(ride_id).await.map_err(refused)?;
        Ok(Response::new(ReleaseResponse { released }))
    }
}

/// Accepts every report until the caller ends the stream. A malformed report ends it too; the
/// reports before it stay accepted.
async fn accept_all(
    app: &App,
    mut reports: Streaming<ReportPositionsRequest>,
) -> Result<ReportPositionsResponse, Status> {
    let mut reported = ReportPositionsResponse::default();
    while let Some(report) = reports.message().await? {
        let (driver_id, position) = position_report(&report).map_err(refused)?;
        match app.report_position(driver_id, position) {
            true => reported.accepted += 1,
            false => reported.ignored += 1,
        }
    }
    Ok(reported)
}

fn position_report(wire: &ReportPositionsRequest) -> Result<(Uuid, Position), Malformed> {
    let driver_id = convert::id("driver_id", &wire.driver_id)?;
    Ok((driver_id, convert::position("position", wire.position)?))
}

fn waiting_ride(wire: DispatchRequest) -> Result<WaitingRide, Malformed> {
    Ok(WaitingRide {
        ride_id: convert::id("ride_id", &wire.ride_id)?,
        pickup: convert::position("pickup", wire.pickup)?,
        dropoff: convert::position("dropoff", wire.dropoff)?,
    })
}

impl From<Dispatch> for DispatchedDriver {
    fn from(dispatch: Dispatch) -> Self {
        Self {
            driver_id: dispatch.driver_id.to_string(),
            position: Some(dispatch.position.into()),
            pickup_due_at: Some(timestamp(dispatch.pickup_due_at)),
            dropoff_due_at: Some(timestamp(dispatch.dropoff_due_at)),
        }
    }
}

/// Over REST the zone is the thing that is looked up, and not found; here it is an argument.
fn unknown_zone_is_invalid(error: Error) -> Status {
    match error {
        Error::OutsideServiceArea(_) => Fault::invalid("zones", error).into(),
        other => refused(other),
    }
}

fn refused(error: impl Into<Error>) -> Status {
    Fault::from(error.into()).into()
}
