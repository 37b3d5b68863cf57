//! The edges: a request that makes no sense is refused with the field's name and changes nothing,
//! and the standard gRPC services are there.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use http::Method;
use marketplace::zone::Zone;
use serde_json::json;
use surge_proto::v1::{
    DispatchRequest, GetSupplyRequest, Position, ReleaseRequest, ReportPositionsRequest,
};
use test_harness::{
    RestAnswer, Servers, assert_health_is_served, assert_reflection_lists, downtown, midtown, until,
};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::support::{DriverManagement, newark};

#[tokio::test]
async fn rejects_malformed_status_reports() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let good = json!({"lat": 40.75, "lon": -73.98});
    let idle_at = |position| json!({"status": "idle", "position": position});
    let asleep = json!({"status": "asleep", "position": good});
    let moody = json!({"status": "idle", "position": good, "mood": 1});
    let cases = [
        (asleep, "status", "on_trip"),
        (
            idle_at(json!({"lat": 91, "lon": 0})),
            "position.lat",
            "between -90 and 90",
        ),
        (
            idle_at(json!({"lat": 0, "lon": -181})),
            "position.lon",
            "between -180 and 180",
        ),
        (
            idle_at(json!({"lat": "far", "lon": 0})),
            "position.lat",
            "f64",
        ),
        (
            idle_at(json!({"lat": 1, "lon": 2, "alt": 3})),
            "position.alt",
            "unknown field",
        ),
        (moody, "mood", "unknown field"),
        (json!({"status": "idle"}), ".", "missing field `position`"),
        (json!("idle"), ".", "expected struct"),
        (json!(["idle", good]), ".", "expected an object"),
        (
            idle_at(json!([40.75, -73.98])),
            "position",
            "expected an object",
        ),
        (
            json!({"status": {"idle": null}, "position": good}),
            "status",
            "expected a string",
        ),
    ];
    let path = format!("/v1/drivers/{driver}");
    for (body, field, words) in cases {
        let refused = service.rest.put(&path, &body).await;
        assert_problem(&refused, field, words);
    }
    for wrong in ["jim".to_owned(), driver.simple().to_string()] {
        let path = format!("/v1/drivers/{wrong}");
        let refused = service.rest.put(&path, &idle_at(good.clone())).await;
        assert_problem(&refused, "driver_id", "must be a UUID");
    }
    assert_unchanged(&service).await;
    service.stop().await;
}

#[tokio::test]
async fn rejects_batch_with_one_bad_position() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let good = json!({"driver_id": driver, "position": downtown()});
    let bad_position = json!({"driver_id": driver, "position": {"lat": 1, "lon": 200}});
    let bad_id = json!({"driver_id": "jim", "position": downtown()});
    let cases = [
        (
            vec![good.clone(), bad_position],
            "positions[1].position.lon",
            "between -180",
        ),
        (vec![good.clone(), bad_id], "positions[1].driver_id", "UUID"),
        (
            vec![json!([driver, downtown()])],
            "positions[0]",
            "an object",
        ),
        (vec![], "positions", "allowed: 1 to 500"),
        (vec![good; 501], "positions", "allowed: 1 to 500"),
    ];
    for (positions, field, words) in cases {
        let body = json!({"positions": positions});
        let refused = service.rest.post("/v1/positions", &body).await;
        assert_problem(&refused, field, words);
    }
    assert_unchanged(&service).await;
    service.stop().await;
}

#[tokio::test]
async fn rejects_large_bodies_and_other_types() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let too_large = " ".repeat(65 * 1024);
    for (content_type, body, status) in [
        ("application/json", too_large.as_str(), 413),
        ("text/plain", "positions", 415),
        ("application/json", "{\"positions\": [", 400),
        ("application/json", "{\"positions\": [NaN]}", 400),
    ] {
        let (path, body) = ("/v1/positions", body.to_owned());
        let call = service
            .rest
            .call(Method::POST, path, Some(content_type), body);
        let refused = call.await;
        assert_eq!(refused.status, status, "{}", refused.body);
    }
    service.stop().await;
}

#[tokio::test]
async fn rejects_unknown_zones() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let elsewhere = Zone::at(newark()).to_string();
    for (zone, status) in [("manhattan", 400), ("%ff", 400), (&elsewhere, 404)] {
        let refused = service.rest.get(&format!("/v1/supply/{zone}")).await;
        assert_eq!(refused.status, status, "{}", refused.body);
    }
    service.stop().await;
}

#[tokio::test]
async fn rejects_malformed_grpc_requests() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let mut client = service.client().await;
    let here = Some(Position::from(midtown()));
    let nowhere = Some(Position {
        lat: f64::NAN,
        lon: 0.0,
    });

    let elsewhere = Zone::at(newark()).to_string();
    for zones in [vec![], vec!["manhattan".to_owned()], vec![elsewhere]] {
        let refused = client.get_supply(GetSupplyRequest { zones }).await;
        assert_invalid(&refused.unwrap_err(), "zones");
    }
    let ride = Uuid::now_v7().to_string();
    for (field, ride_id, pickup, dropoff) in [
        ("ride_id", "seven", here, here),
        ("pickup", &ride, None, here),
        ("dropoff", &ride, here, nowhere),
    ] {
        let request = DispatchRequest {
            ride_id: ride_id.to_owned(),
            pickup,
            dropoff,
        };
        assert_invalid(&client.dispatch(request).await.unwrap_err(), field);
    }
    let no_ride = ReleaseRequest {
        ride_id: String::new(),
    };
    assert_invalid(&client.release(no_ride).await.unwrap_err(), "ride_id");
    service.stop().await;
}

#[tokio::test]
async fn stream_keeps_reports_before_a_malformed_one() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let mut client = service.client().await;
    let driver = service.driver_goes_online(midtown()).await;
    let (driver, stranger) = (driver.to_string(), Uuid::now_v7().to_string());
    let moves_downtown = report(&driver, downtown().into());

    let unknown = report(&stranger, midtown().into());
    let sound = stream::iter([moves_downtown.clone(), unknown, moves_downtown.clone()]);
    let answer = client.report_positions(sound).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.ignored), (2, 1));

    let moves_back = report(&driver, midtown().into());
    let nowhere = Position {
        lat: 0.0,
        lon: f64::INFINITY,
    };
    for (field, malformed) in [
        ("driver_id", report("jim", midtown().into())),
        ("position", report(&driver, nowhere)),
    ] {
        let away = stream::iter([moves_downtown.clone()]);
        client.report_positions(away).await.unwrap();
        let reports = [moves_back.clone(), malformed, moves_downtown.clone()];
        let refused = client.report_positions(stream::iter(reports)).await;
        assert_invalid(&refused.unwrap_err(), field);
        assert_unchanged(&service).await;
    }
    service.stop().await;
}

#[tokio::test]
async fn open_stream_does_not_delay_the_end() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let mut client = service.client().await;
    let driver = service.driver_goes_online(midtown()).await;
    let moves_downtown = report(&driver.to_string(), downtown().into());
    let endless = stream::iter([moves_downtown]).chain(stream::pending());
    let stream = tokio::spawn(async move { client.report_positions(endless).await });
    until("the report arrives", async || {
        service.predicted_at(downtown()).await == 1.0
    })
    .await;

    let asked = Instant::now();
    service.stop().await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(stream.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let name = "surge.v1.SupplyService";
    assert_health_is_served(service.channel().await, name).await;
    assert_reflection_lists(service.channel().await, &[name]).await;
    service.stop().await;
}

fn report(driver_id: &str, position: Position) -> ReportPositionsRequest {
    ReportPositionsRequest {
        driver_id: driver_id.to_owned(),
        position: Some(position),
    }
}

fn assert_problem(answer: &RestAnswer, field: &str, words: &str) {
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_eq!(answer.content_type, "application/problem+json");
    let named = answer.body["field"].as_str().unwrap();
    assert!(field.starts_with(named), "{field}: {}", answer.body);
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains(words), "{words} is not in: {detail}");
}

fn assert_invalid(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().starts_with(field), "{status}");
}

/// There is one driver, idle in midtown.
async fn assert_unchanged(service: &DriverManagement) {
    assert_eq!(service.predicted().await, [1.0, 0.0]);
}
