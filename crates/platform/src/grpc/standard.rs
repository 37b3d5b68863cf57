//! The two standard services beside a service's own: health, by which callers and orchestrators ask
//! whether it serves, and reflection, by which tools such as grpcurl learn its methods.

use std::convert::Infallible;

use axum::response::IntoResponse;
use tonic::{body::Body, codegen::Service, server::NamedService, service::Routes};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::TracedChannel;

/// `service`, which is reported healthy, with health and reflection beside it. `descriptors` are
/// those of its protobuf package.
///
/// # Errors
/// When the compiled descriptors cannot be read.
pub async fn with_standard_services<S>(
    service: S,
    descriptors: &[u8],
) -> Result<Routes, tonic_reflection::server::Error>
where
    S: Service<http::Request<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<S>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(descriptors)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(Routes::new(service)
        .add_service(health)
        .add_service(reflection))
}

/// Asks the server behind `channel` whether it serves.
///
/// # Errors
/// Why it does not.
pub async fn health_check(channel: TracedChannel) -> Result<(), String> {
    let mut client = HealthClient::new(channel);
    let answer = client.check(HealthCheckRequest::default()).await;
    let answer = answer.map_err(|status| status.message().to_owned())?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        status => Err(status.as_str_name().to_owned()),
    }
}
