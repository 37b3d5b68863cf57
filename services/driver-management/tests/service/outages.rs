//! Bad days of PostgreSQL: what needs it says so quickly, what does not goes on, and nothing that was taken is lost.

use std::time::{Duration, Instant};

use marketplace::zone::Zone;
use serde_json::json;
use tonic::Code;
use uuid::Uuid;

use crate::support::{Stand, eventually, financial_district, grand_central};

#[tokio::test]
async fn without_postgres_changes_are_refused_within_two_seconds_and_supply_is_still_told() {
    let mut stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    stand.postgres.kill().await;

    for status in ["idle", "offline"] {
        let asked = Instant::now();
        let refused = service.report(driver, status, grand_central()).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert_eq!(refused.body["detail"], "PostgreSQL is away; try again");
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
    }
    let asked = Instant::now();
    let refused = service
        .dispatch(Uuid::now_v7(), grand_central(), financial_district())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );

    assert_eq!(
        service
            .predicted(&[Zone::at(grand_central())])
            .await
            .unwrap(),
        [1.0]
    );
    assert_eq!(
        service.supply(Zone::at(grand_central())).await["idle_drivers"],
        1
    );
    let readiness = service.rest.get_plain("/readyz").await;
    assert_eq!(readiness.status, 503);
    assert_eq!(readiness.body["dependencies"]["postgres"]["status"], "down");
    assert_eq!(service.rest.get_plain("/livez").await.status, 200);
    service.stop().await;
}

#[tokio::test]
async fn positions_wait_for_postgres_and_doubts_are_cleared_when_it_is_back() {
    let mut stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    stand.postgres.kill().await;
    let unsure = service.report(driver, "offline", grand_central()).await;
    assert_eq!(unsure.status, 503);
    let reports = json!({"positions": [{"driver_id": driver, "position": financial_district()}]});
    let taken = service.rest.post("/v1/positions", reports).await;
    assert_eq!(taken.body, json!({"accepted": 1, "ignored": 0}));

    stand.postgres.restart().await.unwrap();
    let mut connection = stand.connection_of("driver_management").await;
    eventually("the position is written", async || {
        let zone: String = sqlx::query_scalar("SELECT zone FROM driver WHERE driver_id = $1")
            .bind(driver)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        (zone == Zone::at(financial_district()).to_string()).then_some(())
    })
    .await;
    // The driver was never written offline, so once read again it may be sent.
    let ride = Uuid::now_v7();
    let sent = eventually("the driver is trusted again", async || {
        let sent = service
            .dispatch(ride, financial_district(), grand_central())
            .await;
        sent.ok().flatten()
    })
    .await;
    assert_eq!(sent.driver_id, driver.to_string());
    service.stop().await;
}

#[tokio::test]
async fn a_driver_that_memory_knows_wrongly_is_not_sent_and_soon_known_rightly() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    // As if a commit had succeeded whose answer was lost.
    let mut connection = stand.connection_of("driver_management").await;
    sqlx::query("UPDATE driver SET status = 'offline', version = version + 1")
        .execute(&mut connection)
        .await
        .unwrap();

    let nobody = service
        .dispatch(Uuid::now_v7(), grand_central(), financial_district())
        .await;
    assert!(nobody.unwrap().is_none());
    eventually("memory knows better", async || {
        let predicted = service
            .predicted(&[Zone::at(grand_central())])
            .await
            .unwrap();
        (predicted == [0.0]).then_some(())
    })
    .await;
    service.driver_is(driver, "idle", grand_central()).await;
    service.stop().await;
}

#[tokio::test]
async fn a_change_that_happens_after_its_caller_was_told_it_failed_is_learned() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    service.driver_goes_online(grand_central()).await;
    let ride = Uuid::now_v7();
    let sent = service.dispatch_patiently(ride, grand_central(), financial_district());
    assert!(sent.await.is_some());

    // Longer than anybody waits for it: the driver is read again meanwhile, and seems to be on the way still.
    let mut owner = stand.connection_of("driver_management").await;
    sqlx::raw_sql(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN PERFORM pg_sleep(3); RETURN NEW; END $$;
         CREATE TRIGGER dawdle BEFORE UPDATE ON driver
             FOR EACH ROW WHEN (OLD.status = 'en_route') EXECUTE FUNCTION dawdle()",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    let given_up = service.release(ride).await.unwrap_err();
    assert_eq!(given_up.code(), Code::Unavailable);
    eventually("the driver is known to be free", async || {
        let supply = service.supply(Zone::at(grand_central())).await;
        (supply["idle_drivers"] == 1).then_some(())
    })
    .await;
    service.stop().await;
}
