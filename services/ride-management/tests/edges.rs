//! The edges: what is refused and how, whether the OpenAPI description is true, and what the service says of itself.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use http::{Method, StatusCode};
use ride_management::Service;
use serde_json::{Value, json};
use support::{City, RideManagement, drivers::Drivers, eventually, openapi::Contract, quote, wish};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use uuid::Uuid;

#[tokio::test]
async fn bad_input_is_refused_by_name_and_changes_nothing() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    let good = wish(Uuid::now_v7(), &quote());
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body.to_string()
    };
    let huge = json!({ "lat": 1e300, "lon": -73.9 });
    let cases = [
        (with("mood", json!("good")), "mood"),
        (with("rider_id", json!("me")), "rider_id"),
        (with("rider_id", Value::Null), "rider_id"),
        (with("quote", json!(7)), "quote"),
        (with("quote", json!("")), "quote"),
        (
            with("pickup", json!({ "lat": 91, "lon": 0 })),
            "lat must be between",
        ),
        (
            with("pickup", json!({ "lat": "40.75", "lon": -73.9 })),
            "pickup.lat",
        ),
        (
            with("pickup", json!({ "lat": 40.75 })),
            "missing field `lon`",
        ),
        (
            with("pickup", json!({ "lat": 40.75, "lon": -73.9, "alt": 1 })),
            "alt",
        ),
        (with("pickup", huge), "lat must be between"),
        (with("dropoff", Value::Null), "dropoff"),
        (r#"{"rider_id":"#.to_owned(), "EOF"),
        ("[]".to_owned(), "invalid length 0"),
        (r#"{"pickup":{"lat":NaN,"lon":0}}"#.to_owned(), "pickup"),
        (String::new(), "EOF"),
    ];
    for (body, named) in cases {
        let answer = post_raw(&rides, Some("application/json"), body.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.content_type, "application/problem+json");
        assert!(
            answer.body.to_string().contains(named),
            "{body}: {:?}",
            answer.body
        );
    }
    let mut database = city.log_in_as("ride_management").await;
    let count = sqlx::query_scalar("SELECT count(*) FROM ride").fetch_one(&mut database);
    let rows: i64 = count.await.unwrap();
    assert_eq!(rows, 0);
    assert_eq!(
        rides.post("/v1/rides", &good).await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn paths_methods_and_bodies_have_their_own_refusals() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    let oversized = format!("\"{}\"", "x".repeat(64 * 1024));
    let answers = [
        (rides.get("/v1/rides/7").await, StatusCode::BAD_REQUEST),
        (
            rides.get(&format!("/v1/rides/{}", Uuid::now_v7())).await,
            StatusCode::NOT_FOUND,
        ),
        (
            rides.get("/v1/demand/manhattan").await,
            StatusCode::BAD_REQUEST,
        ),
        (
            rides.get("/v1/demand/871fb4662ffffff").await,
            StatusCode::NOT_FOUND,
        ),
        (rides.get("/v1/demand/%ff").await, StatusCode::BAD_REQUEST),
        (rides.get("/v1/rides/%ff").await, StatusCode::BAD_REQUEST),
        (rides.get("/v1/taxis").await, StatusCode::NOT_FOUND),
        (rides.get("/v1/rides").await, StatusCode::METHOD_NOT_ALLOWED),
        (
            post_raw(&rides, Some("text/plain"), "{}".to_owned()).await,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            post_raw(&rides, None, "{}".to_owned()).await,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            post_raw(&rides, Some("application/json"), oversized).await,
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ];
    for (answer, status) in answers {
        assert_eq!(answer.status, status, "{:?}", answer.body);
        assert_eq!(answer.content_type, "application/problem+json");
        assert_eq!(answer.body["status"], status.as_u16());
    }
}

#[tokio::test]
async fn the_openapi_description_is_true() {
    let mut city = City::build().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = city.open(&["--supply-url", &supply_url]).await;
    let contract = Contract::new(rides.get("/openapi.json").await.body);
    let (rider, quote) = (Uuid::now_v7(), quote());
    let zone = quote.zone;
    let unknown = json!({ "ride_id": Uuid::now_v7() });
    let nonsense = json!({ "ride_id": "7" });

    let created = rides.request(rider, &quote).await;
    let ride = created.body.clone();
    let unserved = rides.request(Uuid::now_v7(), &support::quote()).await;
    let too_late = rides.cancel(&unserved.body).await;
    let (request, look, cancel, demand) = (
        ("post", "/v1/rides"),
        ("get", "/v1/rides/{ride_id}"),
        ("post", "/v1/rides/{ride_id}/cancel"),
        ("get", "/v1/demand/{zone}"),
    );
    let mut answers = vec![
        (request, 201, created),
        (request, 201, unserved),
        (request, 200, rides.request(rider, &quote).await),
        (request, 409, rides.request(Uuid::now_v7(), &quote).await),
        (request, 400, rides.post("/v1/rides", &json!({})).await),
        (
            request,
            413,
            post_raw(&rides, Some("application/json"), " ".repeat(70_000)).await,
        ),
        (request, 415, post_raw(&rides, None, String::new()).await),
        (look, 200, rides.look_at(&ride).await),
        (look, 404, rides.look_at(&unknown).await),
        (look, 400, rides.look_at(&nonsense).await),
        (cancel, 409, too_late),
        (cancel, 200, rides.cancel(&ride).await),
        (cancel, 404, rides.cancel(&unknown).await),
        (cancel, 400, rides.cancel(&nonsense).await),
        (demand, 200, rides.get(&format!("/v1/demand/{zone}")).await),
        (demand, 400, rides.get("/v1/demand/manhattan").await),
        (demand, 404, rides.get("/v1/demand/871fb4662ffffff").await),
    ];
    city.postgres.kill().await;
    answers.extend([
        (request, 503, rides.request(rider, &support::quote()).await),
        (look, 503, rides.look_at(&ride).await),
        (cancel, 503, rides.cancel(&ride).await),
    ]);
    for ((method, path), status, answer) in answers {
        assert_eq!(answer.status, status, "{method} {path}: {:?}", answer.body);
        contract.check(method, path, &answer);
    }
}

#[tokio::test]
async fn grpc_tells_its_health_and_its_schema() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    let mut health = HealthClient::new(rides.channel().await);
    for service in ["", "surge.v1.DemandService"] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }

    let mut reflection = ServerReflectionClient::new(rides.channel().await);
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = reflection.server_reflection_info(tokio_stream::once(question));
    let answer = asked.await.unwrap().into_inner().message().await.unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.unwrap().message_response
    else {
        panic!("no list of services");
    };
    let names: Vec<&str> = listed
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(names.contains(&"surge.v1.DemandService"), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[tokio::test]
async fn the_service_says_how_it_is() {
    let city = City::build().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = city.open(&["--supply-url", &supply_url]).await;
    rides.request(Uuid::now_v7(), &quote()).await;
    assert_eq!(rides.get("/livez").await.status, StatusCode::OK);
    let ready = rides.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK, "{:?}", ready.body);
    for dependency in ["postgres", "nats", "driver-management"] {
        let told = &ready.body["dependencies"][dependency];
        assert!(told["status"].is_string(), "{dependency}: {told}");
    }
    let metrics = rides.get("/metrics").await.body;
    let metrics = metrics.as_str().unwrap();
    for line in [
        "surge_rides_total{state=\"requested\"} 1",
        "surge_rides_total{state=\"matched\"} 1",
        "surge_rides_total{state=\"completed\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn a_driver_management_that_does_not_serve_is_down() {
    let city = City::build().await;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let supply_url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let rides = city.open(&["--supply-url", &supply_url]).await;
    let told_as = async |field: &str, word: &str| {
        eventually(word, async || {
            let ready = rides.get("/readyz").await.body;
            (ready["dependencies"]["driver-management"][field] == word).then_some(ready)
        })
        .await
    };
    let ready = told_as("reason", "NOT_SERVING").await;
    assert_eq!(ready["dependencies"]["driver-management"]["status"], "down");
    reporter
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    told_as("status", "up").await;
}

#[tokio::test]
async fn a_wrong_setting_stops_the_start_with_one_line_that_names_it() {
    let city = City::build().await;
    let busy = city.open(&[]).await;
    let at_busy_port = busy.http.to_string();
    let wrong = [
        ("QUOTE_KEY", ["--quote-key", "short"]),
        ("SUPPLY_URL", ["--supply-url", "not a url"]),
        ("DATABASE_URL", ["--database-url", "mysql://x"]),
        (
            "DEMAND_PROFILE",
            ["--demand-profile", "/nonexistent/profile.json"],
        ),
        ("HTTP_ADDR", ["--http-addr", &at_busy_port]),
    ];
    for (name, flag) in wrong {
        let refused = Service::start(city.config(&flag)).await.unwrap_err();
        let line = format!("{refused:#}");
        assert!(line.contains(name), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    assert!(busy.get("/livez").await.status.is_success());
}

#[tokio::test]
async fn malformed_protobuf_is_the_callers_fault() {
    let city = City::build().await;
    let rides = city.open(&[]).await;
    let mut grpc = tonic::client::Grpc::new(rides.channel().await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Wrong, Wrong>::default();
    let path = "/surge.v1.DemandService/GetDemand".parse().unwrap();
    let status = grpc
        .unary(tonic::Request::new(Wrong { zones: 7 }), path, codec)
        .await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
}

/// A `GetDemandRequest` of a caller who has the wrong schema: a number where zones belong.
#[derive(Clone, PartialEq, prost::Message)]
struct Wrong {
    #[prost(uint32, tag = "1")]
    zones: u32,
}

async fn post_raw(
    rides: &RideManagement,
    content_type: Option<&str>,
    body: String,
) -> support::Answer {
    rides
        .call(Method::POST, "/v1/rides", content_type, body.into_bytes())
        .await
}
