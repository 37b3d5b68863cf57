//! The edges: which requests are refused and how, whether the OpenAPI description is true, and what
//! the service says of itself.

use http::{Method, StatusCode};
use platform::config::{self, Refused};
use ride_management::{Config, Service};
use serde_json::{Value, json};
use test_harness::{
    RestAnswer, Servers, assert_health_is_served, assert_reflection_lists, eventually,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use uuid::Uuid;

use crate::{
    drivers::Drivers,
    support::{ROLE, RideManagement, arguments, config, quote, request_body},
};

#[tokio::test]
async fn rejects_malformed_ride_requests() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    let good = request_body(Uuid::now_v7(), &quote());
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body.to_string()
    };
    let pickup = |position: Value| with("pickup", position);
    let cases = [
        (with("mood", json!("good")), "mood"),
        (with("rider_id", json!("me")), "rider_id"),
        (with("rider_id", Value::Null), "rider_id"),
        (with("quote", json!(7)), "quote"),
        (with("quote", json!("")), "quote"),
        (pickup(json!({"lat": 91, "lon": 0})), "lat must be between"),
        (pickup(json!({"lat": "40.75", "lon": -73.9})), "pickup.lat"),
        (pickup(json!({"lat": 40.75})), "missing field `lon`"),
        (pickup(json!({"lat": 1, "lon": 2, "alt": 3})), "alt"),
        (
            pickup(json!({"lat": 1e300, "lon": 0})),
            "lat must be between",
        ),
        (with("dropoff", Value::Null), "dropoff"),
        (r#"{"rider_id":"#.to_owned(), "EOF"),
        ("[]".to_owned(), "expected an object"),
        (r#"{"pickup":{"lat":NaN,"lon":0}}"#.to_owned(), "pickup"),
        (String::new(), "EOF"),
    ];
    for (body, named) in cases {
        let answer = post_raw(&rides, Some("application/json"), body.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.content_type, "application/problem+json");
        let problem = answer.body.to_string();
        assert!(problem.contains(named), "{body}: {problem}");
    }
    let mut database = servers.connection_as(ROLE).await;
    let count = sqlx::query_scalar("SELECT count(*) FROM ride").fetch_one(&mut database);
    let rows: i64 = count.await.unwrap();
    assert_eq!(rows, 0);
    let accepted = rides.rest.post("/v1/rides", &good).await;
    assert_eq!(accepted.status, StatusCode::CREATED);
}

#[tokio::test]
async fn rejects_wrong_paths_methods_and_bodies() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    let oversized = format!("\"{}\"", "x".repeat(64 * 1024));
    let unknown = format!("/v1/rides/{}", Uuid::now_v7());
    let mut answers = Vec::new();
    for (path, status) in [
        ("/v1/rides/7", StatusCode::BAD_REQUEST),
        (&unknown, StatusCode::NOT_FOUND),
        ("/v1/demand/manhattan", StatusCode::BAD_REQUEST),
        ("/v1/demand/871fb4662ffffff", StatusCode::NOT_FOUND),
        ("/v1/demand/%ff", StatusCode::BAD_REQUEST),
        ("/v1/rides/%ff", StatusCode::BAD_REQUEST),
        ("/v1/taxis", StatusCode::NOT_FOUND),
        ("/v1/rides", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        answers.push((rides.rest.get(path).await, status));
    }
    let (json, text) = (Some("application/json"), Some("text/plain"));
    for (content_type, body, status) in [
        (text, "{}".to_owned(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (None, "{}".to_owned(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (json, oversized, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        answers.push((post_raw(&rides, content_type, body).await, status));
    }
    for (answer, status) in answers {
        assert_eq!(answer.status, status, "{:?}", answer.body);
        assert_eq!(answer.content_type, "application/problem+json");
        assert_eq!(answer.body["status"], status.as_u16());
    }
}

/// The client of these tests holds each answer against the document; here every documented status
/// is met once.
#[tokio::test]
async fn openapi_description_is_true() {
    let mut servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let (rider, stranger, first) = (Uuid::now_v7(), Uuid::now_v7(), quote());
    let unknown = json!({ "ride_id": Uuid::now_v7() });
    let nonsense = json!({ "ride_id": "7" });
    let demand = async |zone: &str| rides.rest.get(&format!("/v1/demand/{zone}")).await;
    let json = Some("application/json");

    let created = rides.request(rider, &first).await;
    let ride = created.body.clone();
    let unserved = rides.request(stranger, &quote()).await;
    let too_late = rides.cancel(&unserved.body).await;
    let mut answers = vec![
        (201, created),
        (201, unserved),
        (200, rides.request(rider, &first).await),
        (409, rides.request(stranger, &first).await),
        (400, rides.rest.post("/v1/rides", &json!({})).await),
        (413, post_raw(&rides, json, " ".repeat(70_000)).await),
        (415, post_raw(&rides, None, String::new()).await),
        (200, rides.look_at(&ride).await),
        (404, rides.look_at(&unknown).await),
        (400, rides.look_at(&nonsense).await),
        (409, too_late),
        (200, rides.cancel(&ride).await),
        (404, rides.cancel(&unknown).await),
        (400, rides.cancel(&nonsense).await),
        (200, demand(&first.zone.to_string()).await),
        (400, demand("manhattan").await),
        (404, demand("871fb4662ffffff").await),
    ];
    servers.postgres.kill().await;
    answers.extend([
        (503, rides.request(rider, &quote()).await),
        (503, rides.look_at(&ride).await),
        (503, rides.cancel(&ride).await),
    ]);
    for (number, (status, answer)) in answers.into_iter().enumerate() {
        assert_eq!(answer.status, status, "{number}: {:?}", answer.body);
    }
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    let name = "surge.v1.DemandService";
    assert_health_is_served(rides.channel().await, name).await;
    assert_reflection_lists(rides.channel().await, &[name, "grpc.health.v1.Health"]).await;
}

#[tokio::test]
async fn readiness_and_metrics_describe_the_service() {
    let servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    rides.new_ride().await;
    assert_eq!(rides.rest.get("/livez").await.status, StatusCode::OK);
    let ready = rides.rest.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::OK, "{:?}", ready.body);
    for dependency in ["postgres", "nats", "driver-management"] {
        let state = &ready.body["dependencies"][dependency];
        assert!(state["status"].is_string(), "{dependency}: {state}");
    }
    let metrics = rides.rest.get("/metrics").await.body;
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
async fn unhealthy_driver_management_is_down() {
    let servers = Servers::start().await;
    let (reporter, health) = tonic_health::server::health_reporter();
    let report = async |status| reporter.set_service_status("", status).await;
    report(ServingStatus::NotServing).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let supply_url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::builder().add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let becomes = async |field: &str, value: &str| {
        eventually(value, async || {
            let ready = rides.rest.get("/readyz").await.body;
            let dependency = ready["dependencies"]["driver-management"].clone();
            (dependency[field] == value).then_some(dependency)
        })
        .await
    };
    let dependency = becomes("reason", "NOT_SERVING").await;
    assert_eq!(dependency["status"], "down");
    report(ServingStatus::Serving).await;
    becomes("status", "up").await;
}

#[tokio::test]
async fn wrong_setting_stops_the_start() {
    let servers = Servers::start().await;
    let busy = RideManagement::start(&servers).await;
    let busy_address = busy.rest.address.to_string();
    let no_profile: &[&str] = &["--demand-profile", "/nonexistent/profile.json"];
    let bundled = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../data/demand-profile.json"
    );
    let buenos_aires = "-34.7,-58.6,-34.5,-58.3";
    let elsewhere: &[&str] = &["--demand-profile", bundled, "--service-area", buenos_aires];
    let too_rare: &[&str] = &["--publish-every", "60s", "--market-clock-speed", "15"];
    for (name, flag) in [
        ("SUPPLY_URL", &["--supply-url", "not a url"][..]),
        ("DATABASE_URL", &["--database-url", "mysql://x"]),
        ("DEMAND_PROFILE", no_profile),
        ("DEMAND_PROFILE covers no zone", elsewhere),
        ("PUBLISH_EVERY must be below", too_rare),
        ("HTTP_ADDR", &["--http-addr", &busy_address]),
    ] {
        let start = Box::pin(Service::start(config(&servers, flag)));
        let refused = start.await.unwrap_err();
        let line = format!("{refused:#}");
        assert!(line.contains(name), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    assert!(busy.rest.get("/livez").await.status.is_success());

    let weak_key = arguments(&servers, &["--quote-key", "short"]);
    let Err(Refused::Mistake(line)) = config::parse::<Config>(weak_key) else {
        panic!("a weak key was accepted");
    };
    assert!(line.starts_with("QUOTE_KEY is wrong"), "{line}");
    assert!(!line.contains("short"), "a key is a secret: {line}");
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[tokio::test]
async fn malformed_protobuf_is_an_invalid_argument() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    let mut grpc = tonic::client::Grpc::new(rides.channel().await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Wrong, Wrong>::default();
    let path = "/surge.v1.DemandService/GetDemand".parse().unwrap();
    let request = tonic::Request::new(Wrong { zones: 7 });
    let status = grpc.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
}

/// A `GetDemandRequest` of a caller who has the wrong schema: a number where zones belong.
#[derive(Clone, PartialEq, prost::Message)]
struct Wrong {
    #[prost(uint32, tag = "1")]
    zones: u32,
}

async fn post_raw(rides: &RideManagement, content_type: Option<&str>, body: String) -> RestAnswer {
    rides
        .rest
        .call(Method::POST, "/v1/rides", content_type, body)
        .await
}
