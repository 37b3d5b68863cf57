//! What a new process knows: everything that was committed, and positions up to a moment ago.

use chrono::Utc;
use test_harness::{Servers, downtown, eventually, midtown};
use uuid::Uuid;

use crate::support::{DriverManagement, ROLE, at};

#[tokio::test]
async fn restart_keeps_supply_and_rides() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    service.driver_goes_online(midtown()).await;
    let ride = Uuid::now_v7();
    let sent = service.dispatch(ride).await.unwrap();
    assert_eq!(service.predicted().await, [1.0, 1.0]);
    service.stop().await;

    let service = DriverManagement::start(&servers).await;
    assert_eq!(service.predicted().await, [1.0, 1.0]);
    assert_eq!(service.dispatch(ride).await.unwrap(), sent);
    service.driver_is(driver, "on_trip", midtown()).await;
    service.stop().await;
}

#[tokio::test]
async fn large_fleet_is_read_at_the_start() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    service.driver_goes_online(midtown()).await;
    service.stop().await;
    // Changes it takes longer than any other statement may take.
    let mut owner = servers.connection_as(ROLE).await;
    sqlx::raw_sql(
        "ALTER TABLE driver RENAME TO large_fleet;
         CREATE VIEW driver AS SELECT large_fleet.* FROM large_fleet, pg_sleep(5)",
    )
    .execute(&mut owner)
    .await
    .unwrap();

    let service = DriverManagement::start(&servers).await;
    assert_eq!(service.idle_at(midtown()).await, 1);
    service.stop().await;
}

#[tokio::test]
async fn watermark_covers_positions_in_the_table() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let moved = at(40.7601, -73.9802);
    service.driver_moves(driver, moved).await;
    let reported_at = Utc::now();

    let mut connection = servers.connection_as(ROLE).await;
    let stored = eventually("the watermark passes the report", async || {
        let (lat, lon, is_covered): (f64, f64, bool) = sqlx::query_as(
            "SELECT lat, lon, (SELECT as_of FROM supply_watermark) >= $2
             FROM driver WHERE driver_id = $1",
        )
        .bind(driver)
        .bind(reported_at)
        .fetch_one(&mut connection)
        .await
        .unwrap();
        is_covered.then_some(at(lat, lon))
    })
    .await;
    assert_eq!(stored, moved);
    service.stop().await;
}

#[tokio::test]
async fn last_positions_are_written_before_the_end() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    service.driver_moves(driver, downtown()).await;
    service.stop().await;

    let service = DriverManagement::start(&servers).await;
    assert_eq!(service.predicted_at(downtown()).await, 1.0);
    service.stop().await;
}

#[tokio::test]
async fn role_reaches_only_its_own_schema() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let mut admin = servers.admin().await;
    sqlx::raw_sql("CREATE TABLE ride.secret (id int); CREATE TABLE pricing.secret (id int)")
        .execute(&mut admin)
        .await
        .unwrap();
    for (role, query) in [
        (ROLE, "SELECT * FROM ride.secret"),
        (ROLE, "SELECT * FROM pricing.secret"),
        ("price_optimization", "SELECT * FROM driver.driver"),
        ("price_optimization", "DELETE FROM driver.replica"),
    ] {
        let mut connection = servers.connection_as(role).await;
        let refused = sqlx::query(query).execute(&mut connection).await;
        let refusal = refused.unwrap_err().to_string();
        assert!(refusal.contains("permission denied"), "{role}: {refusal}");
    }
    service.stop().await;
}
