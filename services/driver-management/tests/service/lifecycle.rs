//! A driver's day, and what a driver may not do.

use serde_json::json;
use uuid::Uuid;

use marketplace::zone::Zone;

use crate::support::{Stand, at, eventually, financial_district, grand_central, newark};

#[tokio::test]
async fn a_drivers_day() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let (midtown, downtown) = (Zone::at(grand_central()), Zone::at(financial_district()));

    // Online, idle, and counted.
    let driver = service.driver_goes_online(grand_central()).await;
    let supply = service.supply(midtown).await;
    assert_eq!(
        (&supply["supply"], &supply["idle_drivers"]),
        (&json!(1.0), &json!(1))
    );

    // Sent to a ride that ends downtown: supply of midtown no more, of downtown soon.
    let ride = Uuid::now_v7();
    let sent = service
        .dispatch(ride, at(40.754, -73.976), financial_district())
        .await;
    assert_eq!(sent.unwrap().unwrap().driver_id, driver.to_string());
    assert_eq!(
        service.predicted(&[midtown, downtown]).await.unwrap(),
        [0.0, 1.0]
    );
    assert_eq!(service.supply(downtown).await["idle_drivers"], 0);

    // The rider gets in, and out again.
    let on_trip = service
        .driver_is(driver, "on_trip", at(40.754, -73.976))
        .await;
    assert_eq!(on_trip["ride_id"], json!(ride));
    let idle = service
        .driver_is(driver, "idle", financial_district())
        .await;
    assert_eq!(idle["zone"], json!(downtown));
    assert!(idle["ride_id"].is_null() && idle["dropoff_due_at"].is_null());
    assert_eq!(
        service.predicted(&[midtown, downtown]).await.unwrap(),
        [0.0, 1.0]
    );
    assert_eq!(service.supply(downtown).await["idle_drivers"], 1);

    // Home.
    service
        .driver_is(driver, "offline", financial_district())
        .await;
    assert_eq!(service.predicted(&[downtown]).await.unwrap(), [0.0]);
    service.stop().await;
}

#[tokio::test]
async fn an_illegal_report_is_refused_by_name_and_changes_nothing() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = Uuid::now_v7();

    let newcomer = service.report(driver, "on_trip", grand_central()).await;
    assert_eq!(newcomer.status, 409);
    assert!(
        stored(&stand, driver).await.is_none(),
        "a refused driver was written down"
    );

    service.driver_is(driver, "idle", grand_central()).await;
    let before = stored(&stand, driver).await;
    for asked in ["en_route", "on_trip"] {
        let refused = service.report(driver, asked, financial_district()).await;
        assert_eq!(refused.status, 409);
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(
            detail.contains("is idle") && detail.contains(asked),
            "{detail}"
        );
        assert!(detail.ends_with("allowed now: idle, offline"), "{detail}");
    }
    assert_eq!(stored(&stand, driver).await, before);
    assert_eq!(
        service
            .predicted(&[Zone::at(grand_central())])
            .await
            .unwrap(),
        [1.0]
    );
    service.stop().await;
}

#[tokio::test]
async fn a_repeated_report_moves_the_driver_and_nothing_else() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    service
        .dispatch(Uuid::now_v7(), grand_central(), financial_district())
        .await
        .unwrap();
    let first = service.driver_is(driver, "on_trip", grand_central()).await;

    let mut again = service
        .driver_is(driver, "on_trip", at(40.74, -73.98))
        .await;
    assert_eq!(again["position"], json!(at(40.74, -73.98)));
    again["position"] = first["position"].clone();
    again["zone"] = first["zone"].clone();
    assert_eq!(again, first);
    service.stop().await;
}

#[tokio::test]
async fn a_driver_outside_the_service_area_is_nobodys_supply() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    let outside = service.driver_is(driver, "idle", newark()).await;
    assert!(outside["zone"].is_null());
    assert_eq!(
        service
            .predicted(&[Zone::at(grand_central())])
            .await
            .unwrap(),
        [0.0]
    );
    let nobody = service
        .dispatch(Uuid::now_v7(), grand_central(), newark())
        .await
        .unwrap();
    assert!(nobody.is_none());
    service.stop().await;
}

#[tokio::test]
async fn positions_are_taken_in_batches_from_drivers_who_are_online() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let online = service.driver_goes_online(grand_central()).await;
    let offline = service.driver_goes_online(grand_central()).await;
    service.driver_is(offline, "offline", grand_central()).await;

    let report = |driver| json!({"driver_id": driver, "position": financial_district()});
    let reports = [online, offline, Uuid::now_v7()].map(report);
    let answer = service
        .rest
        .post("/v1/positions", json!({"positions": reports}))
        .await;
    assert_eq!(answer.body, json!({"accepted": 1, "ignored": 2}));
    assert_eq!(
        service
            .predicted(&[Zone::at(financial_district())])
            .await
            .unwrap(),
        [1.0]
    );
    service.stop().await;
}

#[tokio::test]
async fn a_full_fleet_takes_no_more_drivers_but_keeps_those_it_has() {
    let stand = Stand::start().await;
    let service = stand.service_with(&["--fleet-limit=1"]).await;
    let driver = service.driver_goes_online(grand_central()).await;
    let refused = service
        .report(Uuid::now_v7(), "idle", grand_central())
        .await;
    assert_eq!(refused.status, 409);
    assert!(
        refused.body["detail"]
            .as_str()
            .unwrap()
            .contains("fleet is full")
    );
    service.driver_is(driver, "offline", grand_central()).await;
    service.stop().await;
}

#[tokio::test]
async fn the_metrics_count_drivers_and_dispatches() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    service.driver_goes_online(grand_central()).await;
    service
        .dispatch(Uuid::now_v7(), financial_district(), grand_central())
        .await
        .unwrap();
    service
        .dispatch(Uuid::now_v7(), grand_central(), financial_district())
        .await
        .unwrap();

    let metrics = service.rest.get_plain("/metrics").await.body;
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

/// The row of a driver, without its position, which is written when it suits.
async fn stored(stand: &Stand, driver: Uuid) -> Option<(String, i64, Option<Uuid>)> {
    let mut connection = stand.connection_of("driver_management").await;
    sqlx::query_as("SELECT status, version, ride_id FROM driver WHERE driver_id = $1")
        .bind(driver)
        .fetch_optional(&mut connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_published_views_agree_with_what_the_service_answers() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    service.driver_goes_online(grand_central()).await;
    service.driver_goes_online(newark()).await;
    service
        .dispatch(Uuid::now_v7(), grand_central(), financial_district())
        .await
        .unwrap();
    let due_at = service.driver_is(driver, "on_trip", grand_central()).await;

    let mut reader = stand.connection_of("price_optimization").await;
    let rows: Vec<(String, i64, i32)> = sqlx::query_as(
        "SELECT zone, idle_drivers, cardinality(dropoffs_due_at) FROM driver.supply_by_zone ORDER BY idle_drivers",
    )
    .fetch_all(&mut reader)
    .await
    .unwrap();
    let (downtown, midtown) = (Zone::at(financial_district()), Zone::at(grand_central()));
    assert_eq!(
        rows,
        [(downtown.to_string(), 0, 1), (midtown.to_string(), 1, 0)]
    );
    assert!(due_at["dropoff_due_at"].is_string());

    let first = watermark(&mut reader).await;
    eventually("the watermark moves on", async || {
        (watermark(&mut reader).await > first).then_some(())
    })
    .await;
    service.stop().await;
}

async fn watermark(reader: &mut sqlx::PgConnection) -> chrono::DateTime<chrono::Utc> {
    sqlx::query_scalar("SELECT as_of FROM driver.supply_watermark")
        .fetch_one(reader)
        .await
        .unwrap()
}
