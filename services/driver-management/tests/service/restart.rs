//! What a new process knows: everything that was committed, and positions up to a moment ago.

use marketplace::zone::Zone;
use serde_json::json;
use uuid::Uuid;

use crate::support::{Stand, at, eventually, financial_district, grand_central};

#[tokio::test]
async fn a_restarted_service_has_the_same_supply_and_the_same_rides() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let zones = [Zone::at(grand_central()), Zone::at(financial_district())];
    let driver = service.driver_goes_online(grand_central()).await;
    service.driver_goes_online(grand_central()).await;
    let ride = Uuid::now_v7();
    let sent = service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap();
    let before = service.predicted(&zones).await.unwrap();
    assert_eq!(before, [1.0, 1.0]);
    service.stop().await;

    let service = stand.service().await;
    assert_eq!(service.predicted(&zones).await.unwrap(), before);
    let again = service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap();
    assert_eq!(again, sent);
    service.driver_is(driver, "on_trip", grand_central()).await;
    service.stop().await;
}

#[tokio::test]
async fn a_fleet_that_takes_longer_to_read_than_anything_else_is_read() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    service.driver_goes_online(grand_central()).await;
    service.stop().await;
    let mut owner = stand.connection_of("driver_management").await;
    sqlx::raw_sql(
        "ALTER TABLE driver RENAME TO large_fleet;
         CREATE VIEW driver AS SELECT large_fleet.* FROM large_fleet, pg_sleep(5)",
    )
    .execute(&mut owner)
    .await
    .unwrap();

    let service = stand.service().await;
    let supply = service.supply(Zone::at(grand_central())).await;
    assert_eq!(supply["idle_drivers"], 1);
    service.stop().await;
}

#[tokio::test]
async fn a_position_is_in_the_table_once_the_watermark_has_passed_it() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    let moved = at(40.7601, -73.9802);
    let reports = json!({"positions": [{"driver_id": driver, "position": moved}]});
    service.rest.post("/v1/positions", reports).await;
    let reported_at = chrono::Utc::now();

    let mut connection = stand.connection_of("driver_management").await;
    let stored = eventually("the watermark passes the report", async || {
        let row: (f64, f64, bool) = sqlx::query_as(
            "SELECT lat, lon, (SELECT as_of FROM supply_watermark) >= $2 FROM driver WHERE driver_id = $1",
        )
        .bind(driver)
        .bind(reported_at)
        .fetch_one(&mut connection)
        .await
        .unwrap();
        row.2.then_some(at(row.0, row.1))
    })
    .await;
    assert_eq!(stored, moved);
    service.stop().await;
}

#[tokio::test]
async fn the_last_positions_are_written_before_the_service_ends() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    let reports = json!({"positions": [{"driver_id": driver, "position": financial_district()}]});
    service.rest.post("/v1/positions", reports).await;
    service.stop().await;

    let service = stand.service().await;
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
async fn the_role_of_the_service_reaches_its_own_schema_and_no_other() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let mut admin = stand.admin().await;
    sqlx::raw_sql("CREATE TABLE ride.secret (id int); CREATE TABLE pricing.secret (id int)")
        .execute(&mut admin)
        .await
        .unwrap();
    let mut own = stand.connection_of("driver_management").await;
    for query in ["SELECT * FROM ride.secret", "SELECT * FROM pricing.secret"] {
        let refused = sqlx::query(query).execute(&mut own).await.unwrap_err();
        assert!(
            refused.to_string().contains("permission denied"),
            "{refused}"
        );
    }
    let mut stranger = stand.connection_of("price_optimization").await;
    for query in ["SELECT * FROM driver.driver", "DELETE FROM driver.replica"] {
        let refused = sqlx::query(query).execute(&mut stranger).await.unwrap_err();
        assert!(
            refused.to_string().contains("permission denied"),
            "{refused}"
        );
    }
    service.stop().await;
}
