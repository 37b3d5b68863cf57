//! The gRPC edge: `surge.v1.DemandService`, with the standard health and reflection services beside
//! it. A method parses, asks [`App`] and answers; `platform::grpc::edge` puts deadlines, traces and
//! metrics around it.

use platform::{fault::Fault, grpc::with_standard_services, http::BODY_LIMIT_BYTES};
use surge_proto::{
    FILE_DESCRIPTOR_SET, convert,
    v1::{
        DemandLevel, GetDemandRequest, GetDemandResponse,
        demand_service_server::{DemandService, DemandServiceServer},
    },
};
use tonic::{Request, Response, Status, async_trait, service::Routes};

use crate::{app::App, error::Error};

/// The services of this edge.
///
/// # Errors
/// When the compiled descriptors cannot be read.
pub(crate) async fn routes(app: App) -> anyhow::Result<Routes> {
    let demand = DemandServiceServer::new(DemandEdge { app });
    let demand = demand.max_decoding_message_size(BODY_LIMIT_BYTES);
    Ok(with_standard_services(demand, FILE_DESCRIPTOR_SET).await?)
}

struct DemandEdge {
    app: App,
}

#[async_trait]
impl DemandService for DemandEdge {
    async fn get_demand(
        &self,
        request: Request<GetDemandRequest>,
    ) -> Result<Response<GetDemandResponse>, Status> {
        let zones = convert::zones(&request.into_inner().zones).map_err(refused)?;
        let levels = self.app.demands(&zones).map_err(unknown_zone_is_invalid)?;
        let levels = zones.into_iter().zip(levels);
        let levels = levels.map(|(zone, level)| DemandLevel::new(zone, level));
        Ok(Response::new(GetDemandResponse {
            levels: levels.collect(),
        }))
    }
}

/// Over REST the zone is the thing that is looked up, and not found; here it is an argument.
fn unknown_zone_is_invalid(error: Error) -> Status {
    match error {
        Error::ZoneNotServed(_) => Fault::invalid("zones", error).into(),
        other => refused(other),
    }
}

fn refused(error: impl Into<Error>) -> Status {
    Fault::from(error.into()).into()
}
