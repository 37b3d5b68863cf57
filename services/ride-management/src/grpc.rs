//! The gRPC edge: demand, for whoever asks now. A method parses, asks [`App`] and answers;
//! deadlines, traces and metrics are put around it by `platform::grpc::edge`.

use platform::{fault::Fault, http::BODY_LIMIT_BYTES};
use surge_proto::{
    convert,
    v1::{
        DemandLevel, GetDemandRequest, GetDemandResponse,
        demand_service_server::{DemandService, DemandServiceServer},
    },
};
use tonic::{Request, Response, Status, async_trait, service::Routes};

use crate::{app::App, error::Error};

/// The services of this edge: demand, health and reflection.
///
/// # Errors
/// When the compiled descriptors cannot be read.
pub(crate) async fn routes(app: App) -> Result<Routes, tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<DemandServiceServer<Demand>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(surge_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let demand =
        DemandServiceServer::new(Demand { app }).max_decoding_message_size(BODY_LIMIT_BYTES);
    Ok(Routes::new(demand)
        .add_service(health_service)
        .add_service(reflection))
}

#[derive(Debug)]
struct Demand {
    app: App,
}

#[async_trait]
impl DemandService for Demand {
    async fn get_demand(
        &self,
        request: Request<GetDemandRequest>,
    ) -> Result<Response<GetDemandResponse>, Status> {
        let zones = convert::zones(&request.into_inner().zones).map_err(Error::from);
        let zones = zones.map_err(status)?;
        let levels = self.app.demands(&zones);
        let levels = levels.map_err(unknown_zone_is_invalid)?;
        let wire = zones.into_iter().zip(levels);
        Ok(Response::new(GetDemandResponse {
            levels: wire
                .map(|(zone, level)| DemandLevel::new(zone, level))
                .collect(),
        }))
    }
}

/// Over REST the zone is the thing asked for, and not found; here it is an argument among others.
fn unknown_zone_is_invalid(error: Error) -> Status {
    match error {
        Error::ZoneNotServed(_) => Fault::invalid("zones", error).into(),
        other => status(other),
    }
}

fn status(error: Error) -> Status {
    Fault::from(error).into()
}
