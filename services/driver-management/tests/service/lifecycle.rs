//! A driver's day, and what a driver may not do.

use chrono::{DateTime, Utc};
use marketplace::zone::Zone;
use serde_json::json;
use sqlx::PgConnection;
use test_harness::{Servers, downtown, midtown, until};
use uuid::Uuid;

use crate::support::{DriverManagement, ROLE, at, newark};

#[tokio::test]
async fn a_drivers_day() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;

    // Online, idle, and counted.
    let driver = service.driver_goes_online(midtown()).await;
    let supply = service.supply(Zone::at(midtown())).await;
    assert_eq!(supply["supply"], 1.0);
    assert_eq!(supply["idle_drivers"], 1);

    // Sent to a ride that ends downtown: no longer supply of midtown, soon supply of downtown.
    let (ride, pickup) = (Uuid::now_v7(), at(40.754, -73.976));
    let sent = service.dispatch_between(ride, pickup, downtown()).await;
    assert_eq!(sent.unwrap().unwrap().driver_id, driver.to_string());
    assert_eq!(service.predicted().await, [0.0, 1.0]);
    assert_eq!(service.idle_at(downtown()).await, 0);

    // The rider gets in, and out again.
    let on_trip = service.driver_is(driver, "on_trip", pickup).await;
    assert_eq!(on_trip["ride_id"], json!(ride));
    let idle = service.driver_is(driver, "idle", downtown()).await;
    assert_eq!(idle["zone"], json!(Zone::at(downtown())));
    assert!(idle["ride_id"].is_null() && idle["dropoff_due_at"].is_null());
    assert_eq!(service.predicted().await, [0.0, 1.0]);
    assert_eq!(service.idle_at(downtown()).await, 1);

    // Home.
    service.driver_is(driver, "offline", downtown()).await;
    assert_eq!(service.predicted_at(downtown()).await, 0.0);
    service.stop().await;
}

#[tokio::test]
async fn illegal_report_changes_nothing() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = Uuid::now_v7();

    let newcomer = service.report(driver, "on_trip", midtown()).await;
    assert_eq!(newcomer.status, 409);
    assert_eq!(stored(&servers, driver).await, None, "a refused driver");

    service.driver_is(driver, "idle", midtown()).await;
    let before = stored(&servers, driver).await;
    for status in ["en_route", "on_trip"] {
        let refused = service.report(driver, status, downtown()).await;
        assert_eq!(refused.status, 409);
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains("is idle") && detail.contains(status));
        assert!(detail.ends_with("allowed now: idle, offline"), "{detail}");
    }
    assert_eq!(stored(&servers, driver).await, before);
    assert_eq!(service.predicted_at(midtown()).await, 1.0);
    service.stop().await;
}

#[tokio::test]
async fn repeated_report_moves_only_the_driver() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    service.dispatch(Uuid::now_v7()).await.unwrap();
    let first = service.driver_is(driver, "on_trip", midtown()).await;

    let elsewhere = at(40.74, -73.98);
    let mut again = service.driver_is(driver, "on_trip", elsewhere).await;
    assert_eq!(again["position"], json!(elsewhere));
    again["position"] = first["position"].clone();
    again["zone"] = first["zone"].clone();
    assert_eq!(again, first);
    service.stop().await;
}

#[tokio::test]
async fn driver_outside_service_area_is_no_supply() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let outside = service.driver_is(driver, "idle", newark()).await;
    assert!(outside["zone"].is_null());
    assert_eq!(service.predicted_at(midtown()).await, 0.0);
    let sent = service.dispatch_between(Uuid::now_v7(), midtown(), newark());
    assert!(sent.await.unwrap().is_none());
    service.stop().await;
}

#[tokio::test]
async fn positions_are_accepted_from_online_drivers() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let online = service.driver_goes_online(midtown()).await;
    let offline = service.driver_goes_online(midtown()).await;
    service.driver_is(offline, "offline", midtown()).await;

    let report = |driver| json!({"driver_id": driver, "position": downtown()});
    let reports = [online, offline, Uuid::now_v7()].map(report);
    let reports = json!({"positions": reports});
    let answer = service.rest.post("/v1/positions", &reports).await;
    assert_eq!(answer.body, json!({"accepted": 1, "ignored": 2}));
    assert_eq!(service.predicted_at(downtown()).await, 1.0);
    service.stop().await;
}

#[tokio::test]
async fn full_fleet_keeps_the_drivers_it_has() {
    let servers = Servers::start().await;
    let service = DriverManagement::start_with(&servers, &["--fleet-limit=1"]).await;
    let driver = service.driver_goes_online(midtown()).await;
    let refused = service.report(Uuid::now_v7(), "idle", midtown()).await;
    assert_eq!(refused.status, 409);
    let detail = refused.body["detail"].as_str().unwrap();
    assert!(detail.contains("fleet is full"), "{detail}");
    service.driver_is(driver, "offline", midtown()).await;
    service.stop().await;
}

#[tokio::test]
async fn metrics_count_drivers_and_dispatches() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    service.driver_goes_online(midtown()).await;
    for (pickup, dropoff) in [(downtown(), midtown()), (midtown(), downtown())] {
        let dispatch = service.dispatch_between(Uuid::now_v7(), pickup, dropoff);
        dispatch.await.unwrap();
    }

    let metrics = service.rest.get("/metrics").await.body;
    let metrics = metrics.as_str().unwrap();
    for line in [
        "surge_drivers{status=\"idle\"} 0",
        "surge_drivers{status=\"en_route\"} 1",
        "surge_dispatches_total{outcome=\"sent\"} 1",
        "surge_dispatches_total{outcome=\"nobody_near\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    service.stop().await;
}

#[tokio::test]
async fn published_views_agree_with_the_answers() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    service.driver_goes_online(midtown()).await;
    service.driver_goes_online(newark()).await;
    service.dispatch(Uuid::now_v7()).await.unwrap();
    let on_trip = service.driver_is(driver, "on_trip", midtown()).await;
    assert!(on_trip["dropoff_due_at"].is_string());

    let mut reader = servers.connection_as("price_optimization").await;
    let rows: Vec<(String, i64, i32)> = sqlx::query_as(
        "SELECT zone, idle_drivers, cardinality(dropoffs_due_at)
         FROM driver.supply_by_zone ORDER BY idle_drivers",
    )
    .fetch_all(&mut reader)
    .await
    .unwrap();
    let zone = |position| Zone::at(position).to_string();
    assert_eq!(rows, [(zone(downtown()), 0, 1), (zone(midtown()), 1, 0)]);

    let first = watermark(&mut reader).await;
    until("the watermark moves on", async || {
        watermark(&mut reader).await > first
    })
    .await;
    service.stop().await;
}

/// The row of a driver, without its position, which the service writes a moment later.
async fn stored(servers: &Servers, driver: Uuid) -> Option<(String, i64, Option<Uuid>)> {
    let mut connection = servers.connection_as(ROLE).await;
    sqlx::query_as("SELECT status, version, ride_id FROM driver WHERE driver_id = $1")
        .bind(driver)
        .fetch_optional(&mut connection)
        .await
        .unwrap()
}

async fn watermark(reader: &mut PgConnection) -> DateTime<Utc> {
    let watermark = sqlx::query_scalar("SELECT as_of FROM driver.supply_watermark");
    watermark.fetch_one(reader).await.unwrap()
}
