//! The gRPC edge: `surge.v1.SupplyService`, with the standard health and reflection services beside
//! it. Like the REST edge it parses, asks the app and answers.

use marketplace::{view::Level, zone::Position};
use platform::fault::Fault;
use surge_proto::{
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
    app::{App, RideRequest},
    error::Error,
    store::Dispatch,
};

/// The gRPC services. Streams of positions end with `shutdown`; their callers open new ones
/// elsewhere, or later.
///
/// # Errors
/// When the descriptors compiled into this binary cannot be reflected.
pub async fn routes(
    app: App,
    shutdown: CancellationToken,
) -> Result<Routes, tonic_reflection::server::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_serving::<SupplyServiceServer<SupplyEdge>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(surge_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let supply = SupplyServiceServer::new(SupplyEdge { app, shutdown });
    Ok(Routes::new(supply)
        .add_service(health)
        .add_service(reflection))
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
        let zones = convert::zones(&request.into_inner().zones).map_err(invalid)?;
        let supply = self.app.supply(&zones).map_err(unknown_zone_is_invalid)?;
        let as_of = supply.as_of;
        let levels = supply.zones.iter().map(|level| {
            SupplyLevel::new(
                level.zone,
                Level {
                    value: level.predicted,
                    as_of,
                },
            )
        });
        Ok(Response::new(GetSupplyResponse {
            levels: levels.collect(),
        }))
    }

    async fn report_positions(
        &self,
        request: Request<Streaming<ReportPositionsRequest>>,
    ) -> Result<Response<ReportPositionsResponse>, Status> {
        let reports = request.into_inner();
        let reported = self
            .shutdown
            .run_until_cancelled(take_all(&self.app, reports))
            .await;
        let stopping = || Status::unavailable("the service is stopping; open the stream again");
        reported
            .unwrap_or_else(|| Err(stopping()))
            .map(Response::new)
    }

    async fn dispatch(
        &self,
        request: Request<DispatchRequest>,
    ) -> Result<Response<DispatchResponse>, Status> {
        let ride = ride_request(request.into_inner()).map_err(invalid)?;
        let dispatch = self.app.dispatch(ride).await.map_err(Fault::from)?;
        Ok(Response::new(DispatchResponse {
            driver: dispatch.map(DispatchedDriver::from),
        }))
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        let ride_id = convert::id("ride_id", &request.into_inner().ride_id).map_err(invalid)?;
        let released = self.app.release(ride_id).await.map_err(Fault::from)?;
        Ok(Response::new(ReleaseResponse { released }))
    }
}

/// Takes every report until the caller ends the stream. A report that makes no sense ends it too;
/// what was taken before stays taken.
async fn take_all(
    app: &App,
    mut reports: Streaming<ReportPositionsRequest>,
) -> Result<ReportPositionsResponse, Status> {
    let mut reported = ReportPositionsResponse::default();
    while let Some(report) = reports.message().await? {
        let (driver_id, position) = position_report(&report).map_err(invalid)?;
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

fn ride_request(wire: DispatchRequest) -> Result<RideRequest, Malformed> {
    Ok(RideRequest {
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

fn invalid(malformed: Malformed) -> Status {
    Fault::invalid(malformed.field, malformed.problem).into()
}

/// Over REST the zone is the thing asked for, and not found; here it is an argument among others.
fn unknown_zone_is_invalid(error: Error) -> Status {
    match error {
        Error::OutsideServiceArea(_) => Fault::invalid("zones", error).into(),
        other => Fault::from(other).into(),
    }
}
