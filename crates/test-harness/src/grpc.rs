//! The two standard gRPC services beside a service's own: health and reflection.

use futures::{StreamExt, stream};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

/// The server as a whole and the service of this name, such as `surge.v1.SupplyService`, say that
/// they are serving.
///
/// # Panics
/// When one of them does not.
pub async fn assert_health_is_served(channel: Channel, name: &str) {
    let mut health = HealthClient::new(channel);
    for service in ["", name] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
}

/// Reflection lists the services of these names.
///
/// # Panics
/// When it does not.
pub async fn assert_reflection_lists(channel: Channel, names: &[&str]) {
    let mut reflection = ServerReflectionClient::new(channel);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let requests = stream::iter([request]);
    let answers = reflection.server_reflection_info(requests).await;
    let answer = answers.unwrap().into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list of services: {answer:?}");
    };
    for name in names {
        let mut listed = list.service.iter().map(|service| &service.name);
        assert!(listed.any(|listed| listed == name), "{name}: {list:?}");
    }
}
