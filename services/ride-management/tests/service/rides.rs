//! Good days: a ride from its request to its end, and what a quote is good for.

use std::time::Duration;

use futures::future::join_all;
use http::StatusCode;
use prost::Message as _;
use serde_json::{Value, json};
use surge_proto::{
    subjects::RIDES,
    v1::{RideEvent, TripStage},
};
use test_harness::{RestAnswer, Servers, downtown, until};
use uuid::Uuid;

use crate::{
    drivers::Drivers,
    support::{RideManagement, driver_of, driver_reports, quote, real_now, request_body, token},
};

#[tokio::test]
async fn ride_is_matched_picked_up_and_completed() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;

    let ride = rides.new_ride().await;
    assert_eq!(ride["state"], "matched");
    assert_eq!(ride["fare_cents"], 2_769);
    assert_eq!(ride["surge_multiplier"], 1.3);
    assert!(ride["pickup_due_at"].is_string() && ride["ended_at"].is_null());

    let driver = driver_of(&ride);
    driver_reports(&servers, &ride, driver, TripStage::PickedUp).await;
    rides.ride_when(&ride, "picked_up").await;
    let too_late = rides.cancel(&ride).await;
    assert_eq!(too_late.status, StatusCode::CONFLICT);
    let detail = too_late.body["detail"].as_str().unwrap();
    assert!(detail.contains("picked_up"), "{detail}");

    driver_reports(&servers, &ride, driver, TripStage::DroppedOff).await;
    let completed = rides.ride_when(&ride, "completed").await;
    assert!(completed["picked_up_at"].is_string() && completed["ended_at"].is_string());
    assert_eq!(drivers.dispatches(), 1);
}

#[tokio::test]
async fn every_state_of_a_ride_is_published() {
    let servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let served = rides.new_ride().await;
    let unserved = rides.new_ride().await;
    rides.cancel(&served).await;

    for (state, ride) in [
        ("requested", &unserved),
        ("unserved", &unserved),
        ("matched", &served),
        ("cancelled", &served),
    ] {
        let subject = format!("surge.v1.rides.{state}");
        let is_of = |event: RideEvent| event.ride_id == ride["ride_id"].as_str().unwrap();
        let message = servers.last_message(RIDES.name, &subject, |message| {
            is_of(RideEvent::decode(message.payload.clone()).unwrap())
        });
        let message = message.await;
        let schema = message.headers.get("Surge-Schema").unwrap();
        assert_eq!(schema.as_str(), "surge.v1.RideEvent");
        let event = RideEvent::decode(message.payload).unwrap();
        let named = format!("RIDE_STATE_{}", state.to_uppercase());
        assert_eq!(event.state().as_str_name(), named);
    }
}

#[tokio::test]
async fn ride_without_a_near_driver_is_unserved() {
    let servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(0).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let ride = rides.new_ride().await;
    assert_eq!(ride["state"], "unserved");
    assert_eq!(rides.cancel(&ride).await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn cancelling_frees_the_driver() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(1).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let ride = rides.new_ride().await;
    assert_eq!(drivers.busy(), 1);

    let cancelled = rides.cancel(&ride).await;
    assert_eq!(cancelled.status, StatusCode::OK);
    assert_eq!(cancelled.body["state"], "cancelled");
    assert_eq!(drivers.busy(), 0);
    assert_eq!(rides.cancel(&ride).await.body, cancelled.body);

    let next = rides.new_ride().await;
    assert_eq!(next["state"], "matched", "the freed driver serves the next");
}

#[tokio::test]
async fn quote_buys_one_ride() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(9).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let (rider, quote) = (Uuid::now_v7(), quote());

    let answers = join_all((0..8).map(|_| rides.request_patiently(rider, &quote))).await;
    let created = |answer: &&RestAnswer| answer.status == StatusCode::CREATED;
    assert_eq!(answers.iter().filter(created).count(), 1);
    let id = &answers[0].body["ride_id"];
    for answer in &answers {
        assert_eq!(answer.body["ride_id"], *id, "{answer:?}");
    }
    assert_eq!(drivers.busy(), 1);

    let stranger = rides.request(Uuid::now_v7(), &quote).await;
    assert_eq!(stranger.status, StatusCode::CONFLICT);
    assert!(stranger.body["detail"].as_str().unwrap().contains("used"));
}

#[tokio::test]
async fn quote_holds_for_its_trip_until_expiry() {
    let servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(9).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let rider = Uuid::now_v7();

    let mut other_trip = request_body(rider, &quote());
    other_trip["dropoff"] = json!({ "lat": 40.80, "lon": -73.95 });
    let answer = rides.rest.post("/v1/rides", &other_trip).await;
    refused(answer, StatusCode::CONFLICT, "another trip");

    let mut expired = quote();
    expired.expires_at = real_now();
    let answer = rides.request(rider, &expired).await;
    refused(answer, StatusCode::CONFLICT, "expired");

    let mut tampered = request_body(rider, &quote());
    let changed = token(&quote()).replacen(|c: char| c.is_ascii_lowercase(), "A", 1);
    tampered["quote"] = Value::String(changed);
    let answer = rides.rest.post("/v1/rides", &tampered).await;
    assert_eq!(answer.body["field"], "quote");
    refused(answer, StatusCode::BAD_REQUEST, "no quote of this system");
}

#[tokio::test]
async fn repeated_request_finds_ride_after_expiry() {
    let servers = Servers::start().await;
    let (_drivers, supply_url) = Drivers::open(1).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let rider = Uuid::now_v7();
    let mut quote = quote();
    quote.expires_at = real_now() + Duration::from_secs(5);
    let ride = rides.request(rider, &quote).await.body;
    until("the quote has expired", async || {
        real_now() >= quote.expires_at
    })
    .await;

    let again = rides.request(rider, &quote).await;
    assert_eq!(again.status, StatusCode::OK);
    assert_eq!(again.body["ride_id"], ride["ride_id"]);
    let stranger = rides.request(Uuid::now_v7(), &quote).await;
    refused(stranger, StatusCode::CONFLICT, "expired");
}

#[tokio::test]
async fn request_has_the_points_of_the_quote() {
    let servers = Servers::start().await;
    let rides = RideManagement::start(&servers).await;
    let mut boston = request_body(Uuid::now_v7(), &quote());
    boston["pickup"] = json!({ "lat": 42.36, "lon": -71.06 });
    let answer = rides.rest.post("/v1/rides", &boston).await;
    assert_eq!(answer.body["field"], "pickup");
    refused(answer, StatusCode::BAD_REQUEST, "outside the service area");

    let mut nearly = request_body(Uuid::now_v7(), &quote());
    nearly["dropoff"]["lat"] = json!(downtown().lat() + 1e-9);
    let answer = rides.rest.post("/v1/rides", &nearly).await;
    assert_eq!(answer.status, StatusCode::CREATED, "the same place");
}

fn refused(answer: RestAnswer, status: StatusCode, why: &str) {
    assert_eq!(answer.status, status, "{:?}", answer.body);
    assert_eq!(answer.content_type, "application/problem+json");
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains(why), "{detail}");
}
