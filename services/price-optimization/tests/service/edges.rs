//! Both edges as a stranger meets them: the service refuses bad input and names the field, shows
//! its dependencies in /readyz, and answers as its OpenAPI document says.

use std::time::Duration;

use http::{Method, StatusCode};
use marketplace::zone::Bounds;
use serde_json::json;
use surge_proto::{
    convert::MAX_ZONES_PER_CALL,
    v1::{self, quote_service_client::QuoteServiceClient},
};
use test_harness::{assert_health_is_served, downtown, eventually, midtown};
use tokio::time::timeout;
use tonic::Code;

use crate::support::{Exchange, a_trip, market, market_of, now};

#[tokio::test]
async fn rejects_bad_input_with_its_field() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    let here = json!(midtown());
    let cases = [
        (json!({ "pickup": here }), "dropoff"),
        (json!({ "pickup": here, "dropoff": here, "tip": 1 }), "tip"),
        (
            json!({ "pickup": { "lat": 91.0, "lon": 0.0 }, "dropoff": here }),
            "pickup",
        ),
        (
            json!({ "pickup": { "lat": "north", "lon": 0.0 }, "dropoff": here }),
            "pickup.lat",
        ),
        (
            json!({ "pickup": { "lat": 34.05, "lon": -118.24 }, "dropoff": here }),
            "pickup",
        ),
        (json!([here, here]), "an object"),
        (
            json!({ "pickup": [40.7527, -73.9772], "dropoff": here }),
            "pickup",
        ),
        (
            json!({ "pickup": here, "dropoff": { "lat": 34.05, "lon": -118.24 } }),
            "dropoff",
        ),
    ];
    for (body, field) in cases {
        let refused = service.rest.post("/v1/quotes", &body).await;
        let problem = refused.body;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}: {problem}");
        assert!(problem.to_string().contains(field), "{body}: {problem}");
        assert_eq!(problem["type"], "about:blank");
    }
    let (status, problem) = service.quote("kafka").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("database, request, events")
    );
    let array = service.rest.put("/v1/dataflow", &json!(["events"])).await;
    assert_eq!(array.status, StatusCode::BAD_REQUEST, "{}", array.body);
    let (status, problem) = service.switch("kafka").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(
        problem["detail"].as_str().unwrap().contains("events"),
        "{problem}"
    );
}

#[tokio::test]
async fn rejects_bodies_that_are_not_json() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    let (json, text) = (Some("application/json"), Some("text/plain"));
    let unsupported = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    let cases = [
        (text, a_trip().to_string(), unsupported),
        (json, "{".to_owned(), StatusCode::BAD_REQUEST),
        (json, " ".repeat(65 * 1024), StatusCode::PAYLOAD_TOO_LARGE),
        (
            json,
            r#"{"pickup":{"lat":1e999,"lon":0}}"#.to_owned(),
            StatusCode::BAD_REQUEST,
        ),
        (
            json,
            r#"{"pickup":{"lat":NaN,"lon":0}}"#.to_owned(),
            StatusCode::BAD_REQUEST,
        ),
    ];
    for (content_type, body, expected) in cases {
        let call = service
            .rest
            .call(Method::POST, "/v1/quotes", content_type, body);
        let refused = call.await;
        assert_eq!(refused.status, expected, "{}", refused.body);
        assert_eq!(refused.content_type, "application/problem+json");
    }
    let (status, _) = service.get("/v1/nothing").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = service.get("/v1/quotes").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn grpc_quotes_and_refuses_like_rest() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    exchange
        .callees
        .answer_with(&market(now(), |_| (5.0, 10.0)));
    let rest = service.quote_with_data("request").await;

    let mut client = QuoteServiceClient::new(service.channel().await);
    let trip = v1::GetQuoteRequest {
        pickup: Some(midtown().into()),
        dropoff: Some(downtown().into()),
        dataflow: v1::Dataflow::Request.into(),
    };
    let quote = client.get_quote(trip).await.unwrap().into_inner();
    assert_eq!(json!(quote.fare_cents), rest["fare_cents"]);
    assert_eq!(
        f64::from(quote.surge_multiplier_tenths) / 10.0,
        rest["surge_multiplier"].as_f64().unwrap()
    );

    let not_a_number = Some(v1::Position {
        lat: f64::NAN,
        lon: 0.0,
    });
    for (bad, field) in [
        (
            v1::GetQuoteRequest {
                pickup: None,
                ..trip
            },
            "pickup",
        ),
        (
            v1::GetQuoteRequest {
                dropoff: not_a_number,
                ..trip
            },
            "dropoff",
        ),
        (
            v1::GetQuoteRequest {
                dataflow: 9,
                ..trip
            },
            "dataflow",
        ),
    ] {
        let status = client.get_quote(bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(field), "{status}");
    }
}

#[tokio::test]
async fn readiness_follows_dependencies_of_the_mode() {
    let mut exchange = Exchange::start().await;
    let service = exchange.service(&["--dataflow-mode=database"]).await;
    service
        .quote_until("database", |status, _| status.is_success())
        .await;
    exchange.nats.kill().await;
    let (status, ready) = service.get("/readyz").await;
    assert_eq!(status, StatusCode::OK, "{ready}");
    assert_eq!(ready["dependencies"]["nats"]["needed"], false);

    exchange.postgres.kill().await;
    let (status, unready) = service.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{unready}");
    assert_eq!(unready["dependencies"]["postgres"]["status"], "down");
    assert_eq!(service.get("/livez").await.0, StatusCode::OK);
}

#[tokio::test]
async fn events_is_ready_while_levels_are_fresh() {
    let mut exchange = Exchange::start().await;
    let service = exchange.service(&["--dataflow-mode=events"]).await;
    let (status, unready) = service.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{unready}");
    assert_eq!(unready["dependencies"]["local-state"]["needed"], true);

    let too_old = now() - Duration::from_secs(16 * 60);
    exchange.publish(&market(too_old, |_| (3.0, 4.0))).await;
    let unready = service
        .ready_until(|ready| {
            let reason = &ready["dependencies"]["local-state"]["reason"];
            reason
                .as_str()
                .is_some_and(|reason| reason.contains("ended at"))
        })
        .await;
    assert_eq!(unready["status"], "unready");

    exchange.publish(&market(now(), |_| (3.0, 4.0))).await;
    service
        .ready_until(|ready| ready["status"] == "ready")
        .await;
    exchange.nats.kill().await;
    let ready = service
        .ready_until(|ready| ready["dependencies"]["nats"]["status"] == "down")
        .await;
    assert_eq!(ready["status"], "ready", "{ready}");
    assert_eq!(ready["dependencies"]["nats"]["needed"], false);
    service.quote_with_data("events").await;
}

#[tokio::test]
async fn quotes_are_counted_under_their_mode() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    exchange
        .callees
        .answer_with(&market(now(), |_| (5.0, 10.0)));
    service.quote_with_data("request").await;
    let (_, metrics) = service.get("/metrics").await;
    let metrics = metrics.as_str().unwrap();
    for line in [
        "surge_quotes_total{dataflow=\"request\",outcome=\"quoted\"} 1",
        "surge_data_age_seconds_count{dataflow=\"request\"} 1",
        "surge_quote_duration_seconds_count{dataflow=\"request\"} 1",
        "surge_multiplier_count 1",
        "http_server_request_duration_seconds_count\
         {http_request_method=\"POST\",http_route=\"/v1/quotes\"",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

/// A caller that hangs up before the deadline, by HTTP and by gRPC: the request, the quote and the
/// calls that it made are counted.
#[tokio::test]
async fn quote_given_up_is_counted() {
    let mut exchange = Exchange::start().await;
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    exchange.callees.address = hangs.local_addr().unwrap();
    let mode = "--dataflow-mode=request";
    let service = exchange.service(&[mode, "--dataflow-deadline=4s"]).await;
    let mut grpc = QuoteServiceClient::new(service.channel().await);
    let request = v1::GetQuoteRequest {
        pickup: Some(midtown().into()),
        dropoff: Some(downtown().into()),
        dataflow: v1::Dataflow::Request.into(),
    };
    let soon = Duration::from_millis(200);
    let by_http = timeout(soon, service.quote("request")).await;
    let by_grpc = timeout(soon, grpc.get_quote(request)).await;
    assert!(by_http.is_err() && by_grpc.is_err());
    eventually("all of them are counted", async || {
        let (_, metrics) = service.get("/metrics").await;
        let metrics = metrics.as_str().unwrap();
        let lines = [
            "surge_quotes_total{dataflow=\"request\",outcome=\"failed\"} 2\n",
            "http_route=\"/v1/quotes\",http_response_status_code=\"499\"} 1\n",
            "QuoteService/GetQuote\",rpc_response_status_code=\"CANCELLED\"} 1\n",
            "SupplyService/GetSupply\",rpc_response_status_code=\"CANCELLED\"}",
        ];
        lines
            .iter()
            .all(|line| metrics.contains(line))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn surge_map_shows_every_zone() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&["--dataflow-mode=request"]).await;
    let market = market(now(), |_| (5.0, 10.0));
    exchange.callees.answer_with(&market);
    let (status, map) = service.get("/v1/surge").await;
    assert_eq!(status, StatusCode::OK, "{map}");
    let zones = map["zones"].as_array().unwrap();
    assert_eq!(zones.len(), market.zones.len());
    assert!(
        zones.iter().all(|zone| zone["surge_multiplier"] == 2.2),
        "{map}"
    );
}

#[tokio::test]
async fn surge_map_of_large_area_is_whole() {
    let exchange = Exchange::start().await;
    let bounds = Bounds::new(40.2, -74.5, 41.0, -73.5).unwrap();
    let area = format!("--service-area={bounds}");
    let service = exchange.service(&[&area]).await;
    let market = market_of(bounds, now(), |zone| (5.0, zone as f64));
    assert!(market.zones.len() > MAX_ZONES_PER_CALL);
    exchange.callees.answer_with(&market);
    let map = service.surge_map("request").await;
    let zones = map["zones"].as_array().unwrap();
    assert_eq!(zones.len(), market.zones.len());
    for (shown, levels) in zones.iter().zip(&market.zones) {
        assert_eq!(shown["zone"], levels.zone.to_string());
        assert_eq!(shown["demand"], levels.demand.unwrap().value);
    }
}

#[tokio::test]
async fn grpc_health_knows_process_and_service() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    assert_health_is_served(service.channel().await, "surge.v1.QuoteService").await;
}

/// The client of these tests holds each answer against the document; here each route is met once.
#[tokio::test]
async fn openapi_document_matches_answers() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&["--dataflow-mode=request"]).await;
    let levels = market(now(), |_| (5.0, 10.0));
    exchange.callees.answer_with(&levels);
    let quote = service.quote_with_data("request").await;
    let journey = |id: &str| format!("/v1/quotes/{id}/journey");
    let explained = journey(quote["quote_id"].as_str().unwrap());
    let answers = [
        (200, service.get(&explained).await),
        (400, service.get(&journey("x")).await),
        (400, service.quote("kafka").await),
        (200, service.get("/v1/surge").await),
        (200, service.get("/v1/dataflow").await),
        (200, service.switch("events").await),
        (400, service.switch("kafka").await),
    ];
    for (expected, (status, answer)) in answers {
        assert_eq!(status, expected, "{answer}");
    }
}
