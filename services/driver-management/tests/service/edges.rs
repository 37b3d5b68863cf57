//! The edges: what makes no sense is refused with the field's name and changes nothing, and the standard services are
//! there.

use futures::{StreamExt, stream};
use http::Method;
use marketplace::zone::Zone;
use serde_json::json;
use surge_proto::v1::{
    DispatchRequest, GetSupplyRequest, Position, ReleaseRequest, ReportPositionsRequest,
};
use tonic::{Code, Status, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use uuid::Uuid;

use crate::support::{Answer, Running, Stand, financial_district, grand_central, newark};

#[tokio::test]
async fn nonsense_over_rest_is_refused_by_field_and_changes_nothing() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    let good = json!({"lat": 40.75, "lon": -73.98});
    let reports = [
        (
            json!({"status": "asleep", "position": good}),
            "status",
            "on_trip",
        ),
        (
            json!({"status": "idle", "position": {"lat": 91, "lon": 0}}),
            "position.lat",
            "between -90 and 90",
        ),
        (
            json!({"status": "idle", "position": {"lat": 0, "lon": -181}}),
            "position.lon",
            "between -180 and 180",
        ),
        (
            json!({"status": "idle", "position": {"lat": "far", "lon": 0}}),
            "position.lat",
            "f64",
        ),
        (
            json!({"status": "idle", "position": {"lat": 1, "lon": 2, "alt": 3}}),
            "position.alt",
            "unknown field",
        ),
        (
            json!({"status": "idle", "position": good, "mood": 1}),
            "mood",
            "unknown field",
        ),
        (json!({"status": "idle"}), ".", "missing field `position`"),
        (json!("idle"), ".", "expected struct"),
    ];
    for (body, field, words) in reports {
        let path = format!("/v1/drivers/{driver}");
        let refused = service
            .rest
            .put("/v1/drivers/{driver_id}", &path, body.clone())
            .await;
        assert_problem(&refused, 400, field, words);
    }
    let path = "/v1/drivers/jim";
    let body = json!({"status": "idle", "position": good});
    let refused = service
        .rest
        .put("/v1/drivers/{driver_id}", path, body)
        .await;
    assert_problem(&refused, 400, "driver_id", "must be a UUID");
    assert_unchanged(&service).await;
    service.stop().await;
}

#[tokio::test]
async fn a_batch_with_one_bad_position_is_refused_whole() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    let good = json!({"driver_id": driver, "position": financial_district()});
    let bad_position = json!({"driver_id": driver, "position": {"lat": 1, "lon": 200}});
    let bad_id = json!({"driver_id": "jim", "position": financial_district()});
    let batches = [
        (
            json!({"positions": [good, bad_position]}),
            "positions[1].position.lon",
            "between -180",
        ),
        (
            json!({"positions": [good, bad_id]}),
            "positions[1].driver_id",
            "UUID",
        ),
        (json!({"positions": []}), "positions", "allowed: 1 to 500"),
        (
            json!({"positions": vec![good; 501]}),
            "positions",
            "allowed: 1 to 500",
        ),
    ];
    for (body, field, words) in batches {
        let refused = service.rest.post("/v1/positions", body).await;
        assert_problem(&refused, 400, field, words);
    }
    assert_unchanged(&service).await;
    service.stop().await;
}

#[tokio::test]
async fn bodies_that_are_too_large_or_no_json_are_refused() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let post = async |content_type: &str, body: String| {
        service
            .rest
            .raw(
                Method::POST,
                "/v1/positions",
                "/v1/positions",
                content_type,
                body,
            )
            .await
    };
    let oversized = post("application/json", " ".repeat(65 * 1024)).await;
    assert_eq!(oversized.status, 413, "{}", oversized.body);
    let form = post("text/plain", "positions".to_owned()).await;
    assert_eq!(form.status, 415, "{}", form.body);
    let cut_off = post("application/json", "{\"positions\": [".to_owned()).await;
    assert_eq!(cut_off.status, 400, "{}", cut_off.body);
    let not_a_number = post("application/json", "{\"positions\": [NaN]}".to_owned()).await;
    assert_eq!(not_a_number.status, 400, "{}", not_a_number.body);
    service.stop().await;
}

#[tokio::test]
async fn a_zone_that_is_none_or_elsewhere_is_refused() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    for (zone, status) in [
        ("manhattan".to_owned(), 400),
        ("%ff".to_owned(), 400),
        (Zone::at(newark()).to_string(), 404),
    ] {
        let refused = service
            .rest
            .get("/v1/supply/{zone}", &format!("/v1/supply/{zone}"))
            .await;
        assert_eq!(refused.status, status, "{}", refused.body);
    }
    service.stop().await;
}

#[tokio::test]
async fn nonsense_over_grpc_is_refused_by_field() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let mut client = service.supply_service().await;
    let here = Some(Position::from(grand_central()));
    let nowhere = Some(Position {
        lat: f64::NAN,
        lon: 0.0,
    });
    let ride_id = Uuid::now_v7().to_string();

    for zones in [
        vec![],
        vec!["manhattan".to_owned()],
        vec![Zone::at(newark()).to_string()],
    ] {
        let refused = client
            .get_supply(GetSupplyRequest { zones })
            .await
            .unwrap_err();
        assert_invalid(&refused, "zones");
    }
    let dispatches = [
        (
            "ride_id",
            DispatchRequest {
                ride_id: "seven".to_owned(),
                pickup: here,
                dropoff: here,
            },
        ),
        (
            "pickup",
            DispatchRequest {
                ride_id: ride_id.clone(),
                pickup: None,
                dropoff: here,
            },
        ),
        (
            "dropoff",
            DispatchRequest {
                ride_id: ride_id.clone(),
                pickup: here,
                dropoff: nowhere,
            },
        ),
    ];
    for (field, request) in dispatches {
        assert_invalid(&client.dispatch(request).await.unwrap_err(), field);
    }
    let refused = client
        .release(ReleaseRequest {
            ride_id: String::new(),
        })
        .await
        .unwrap_err();
    assert_invalid(&refused, "ride_id");
    service.stop().await;
}

#[tokio::test]
async fn a_stream_of_positions_keeps_what_came_before_the_nonsense() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let mut client = service.supply_service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    let report = |driver_id: &str, position: Position| ReportPositionsRequest {
        driver_id: driver_id.to_owned(),
        position: Some(position),
    };
    let driver_id = driver.to_string();
    let downtown = report(&driver_id, financial_district().into());
    let stranger = report(&Uuid::now_v7().to_string(), grand_central().into());

    let sound = stream::iter([downtown.clone(), stranger, downtown.clone()]);
    let answer = client.report_positions(sound).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.ignored), (2, 1));

    let back = report(&driver_id, grand_central().into());
    for (field, nonsense) in [
        ("driver_id", report("jim", grand_central().into())),
        (
            "position",
            report(
                &driver_id,
                Position {
                    lat: 0.0,
                    lon: f64::INFINITY,
                },
            ),
        ),
    ] {
        client
            .report_positions(stream::iter([downtown.clone()]))
            .await
            .unwrap();
        let reports = stream::iter([back.clone(), nonsense, downtown.clone()]);
        let refused = client.report_positions(reports).await.unwrap_err();
        assert_invalid(&refused, field);
        assert_unchanged(&service).await;
    }
    service.stop().await;
}

#[tokio::test]
async fn an_open_stream_does_not_hold_up_the_end() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let mut client = service.supply_service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    let report = ReportPositionsRequest {
        driver_id: driver.to_string(),
        position: Some(financial_district().into()),
    };
    let endless = stream::iter([report]).chain(stream::pending());
    let stream = tokio::spawn(async move { client.report_positions(endless).await });
    crate::support::eventually("the report arrives", async || {
        let there = service
            .predicted(&[Zone::at(financial_district())])
            .await
            .unwrap();
        (there == [1.0]).then_some(())
    })
    .await;

    let asked = std::time::Instant::now();
    service.stop().await;
    assert!(
        asked.elapsed() < std::time::Duration::from_secs(3),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(stream.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let url = format!("http://{}", service.grpc);
    let channel = Endpoint::try_from(url).unwrap().connect_lazy();
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "surge.v1.SupplyService"] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status, 1, "SERVING");
    }

    let mut reflection = ServerReflectionClient::new(channel);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut answers = reflection
        .server_reflection_info(stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("no list of services: {answer:?}");
    };
    let names: Vec<&str> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(names.contains(&"surge.v1.SupplyService"), "{names:?}");
    service.stop().await;
}

fn assert_problem(answer: &Answer, status: u16, field: &str, words: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.content_type, "application/problem+json");
    let named = answer.body["field"].as_str().unwrap();
    assert!(
        field.starts_with(named),
        "{field} is not named by {}",
        answer.body
    );
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains(words), "{words} is not in: {detail}");
}

fn assert_invalid(status: &Status, field: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().starts_with(field), "{status}");
}

/// One driver, idle at Grand Central.
async fn assert_unchanged(service: &Running) {
    let zones = [Zone::at(grand_central()), Zone::at(financial_district())];
    assert_eq!(service.predicted(&zones).await.unwrap(), [1.0, 0.0]);
}
