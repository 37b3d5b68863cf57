//! Drivers who fall silent, decline, leave, or never arrive. Time passes by a second service on the
//! same servers, whose market clock is ahead.

use futures::future::join_all;
use marketplace::zone::Zone;
use serde_json::json;
use surge_proto::v1::{TripProgress, TripStage};
use test_harness::{RestAnswer, Servers, downtown, midtown, until};
use tonic::Code;
use uuid::Uuid;

use prost::Message as _;
use surge_proto::subjects::TRIPS;

use crate::support::{DriverManagement, at};

async fn minutes_later(
    servers: &Servers,
    service: DriverManagement,
    minutes: i64,
) -> DriverManagement {
    service.stop().await;
    let start = chrono::Utc::now() + chrono::TimeDelta::minutes(minutes);
    let start = format!("--market-clock-start={}", start.to_rfc3339());
    DriverManagement::start_with(servers, &[&start]).await
}

async fn declines(service: &DriverManagement, driver: Uuid, ride: Uuid) -> RestAnswer {
    let report = json!({"status": "idle", "position": midtown(), "declines": ride});
    let path = format!("/v1/drivers/{driver}");
    service.rest.put(&path, &report).await
}

/// The idle drivers of midtown as the batch job reads them.
async fn idle_in_view(servers: &Servers) -> i64 {
    let mut reader = servers.connection_as("price_optimization").await;
    let idle = sqlx::query_scalar("SELECT idle_drivers FROM driver.supply_by_zone WHERE zone = $1");
    let idle = idle.bind(Zone::at(midtown()).to_string());
    idle.fetch_optional(&mut reader).await.unwrap().unwrap_or(0)
}

async fn view_shows(servers: &Servers, idle: i64) {
    until("the view agrees", async || {
        idle_in_view(servers).await == idle
    })
    .await;
}

#[tokio::test]
async fn silent_driver_is_no_supply_until_report() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let service = minutes_later(&servers, service, 13).await;
    assert_eq!(service.predicted_at(midtown()).await, 1.0);
    view_shows(&servers, 1).await;

    let service = minutes_later(&servers, service, 16).await;
    assert_eq!(service.predicted_at(midtown()).await, 0.0);
    assert_eq!(service.idle_at(midtown()).await, 0);
    view_shows(&servers, 0).await;
    let ride = Uuid::now_v7();
    assert!(service.dispatch(ride).await.unwrap().is_none());

    let accepted = service.driver_moves(driver, midtown()).await;
    assert_eq!(accepted, json!({"accepted": 1, "ignored": 0}));
    assert_eq!(service.predicted_at(midtown()).await, 1.0);
    view_shows(&servers, 1).await;
    let sent = service.dispatch(ride).await.unwrap().unwrap();
    assert_eq!(sent.driver_id, driver.to_string());
    service.stop().await;
}

#[tokio::test]
async fn declined_ride_goes_to_one_other_driver() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let other = service.driver_goes_online(at(40.757, -73.98)).await;
    let ride = Uuid::now_v7();
    let sent = service.dispatch(ride).await.unwrap().unwrap();
    assert_eq!(sent.driver_id, driver.to_string());

    let unnamed = service.report(driver, "idle", midtown()).await;
    assert_eq!(unnamed.status, 409);
    let detail = unnamed.body["detail"].as_str().unwrap();
    assert!(detail.contains("`declines`"), "{detail}");
    assert_eq!(declines(&service, driver, Uuid::now_v7()).await.status, 409);
    for _ in 0..2 {
        let declined = declines(&service, driver, ride).await;
        assert_eq!(declined.status, 200);
        assert_eq!(declined.body["status"], "idle");
        assert!(declined.body["ride_id"].is_null());
    }

    for sent in join_all((0..3).map(|_| service.dispatch_patiently(ride))).await {
        assert_eq!(sent.unwrap().driver_id, other.to_string());
    }
    assert_eq!(
        declines(&service, driver, ride).await.status,
        200,
        "much too late"
    );
    assert_eq!(
        service.dispatch_patiently(ride).await.unwrap().driver_id,
        other.to_string()
    );
    let next = service.dispatch(Uuid::now_v7()).await.unwrap().unwrap();
    assert_eq!(
        next.driver_id,
        driver.to_string(),
        "other rides are welcome"
    );
    service.stop().await;
}

#[tokio::test]
async fn driver_may_leave_on_the_way() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let ride = Uuid::now_v7();
    service.dispatch(ride).await.unwrap().unwrap();
    service.driver_is(driver, "offline", midtown()).await;
    let event = servers.last_message(TRIPS.name, "surge.v1.trips.given_back", |_| true);
    let event = TripProgress::decode(event.await.payload).unwrap();
    assert_eq!(event.stage(), TripStage::GivenBack);
    assert_eq!(
        (event.ride_id, event.driver_id),
        (ride.to_string(), driver.to_string())
    );

    service.driver_is(driver, "idle", midtown()).await;
    assert!(
        service.dispatch(ride).await.unwrap().is_none(),
        "nobody else"
    );
    assert!(!service.release(ride).await.unwrap());
    let refused = service.dispatch(ride).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    service.stop().await;
}

#[tokio::test]
async fn overdue_pickup_frees_the_ride() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let ride = Uuid::now_v7();
    service
        .dispatch_between(ride, midtown(), downtown())
        .await
        .unwrap()
        .unwrap();
    let service = minutes_later(&servers, service, 14).await;
    let other = service.driver_goes_online(midtown()).await;
    let sent = service.dispatch(ride).await.unwrap().unwrap();
    assert_eq!(sent.driver_id, driver.to_string(), "not yet");

    let service = minutes_later(&servers, service, 17).await;
    until("another driver is sent", async || {
        let sent = service.dispatch_patiently(ride).await;
        sent.unwrap().driver_id == other.to_string()
    })
    .await;
    let late = service.report(driver, "on_trip", midtown()).await;
    assert_eq!(late.status, 409);
    service.driver_is(driver, "idle", midtown()).await;
    service.driver_is(other, "on_trip", midtown()).await;
    service.stop().await;
}
