//! Outages of PostgreSQL: a call that needs it is refused quickly, all others go on, and no
//! accepted report is lost.

use std::time::{Duration, Instant};

use futures::future::join_all;
use marketplace::zone::Zone;
use serde_json::json;
use test_harness::{Servers, downtown, eventually, midtown, until};
use tonic::Code;
use uuid::Uuid;

use crate::support::{DriverManagement, ROLE};

/// A call gives up on PostgreSQL after a second; the rest is for the machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn supply_is_served_without_postgres() {
    let mut servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    servers.postgres.kill().await;

    for status in ["idle", "offline"] {
        let asked = Instant::now();
        let refused = service.report(driver, status, midtown()).await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert_eq!(refused.body["detail"], "PostgreSQL is away; try again");
        let took = asked.elapsed();
        assert!(took < REFUSED_WITHIN, "{took:?}");
    }
    let asked = Instant::now();
    let refused = service.dispatch(Uuid::now_v7()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let took = asked.elapsed();
    assert!(took < REFUSED_WITHIN, "{took:?}");

    assert_eq!(service.predicted_at(midtown()).await, 1.0);
    assert_eq!(service.idle_at(midtown()).await, 1);
    let readiness = service.rest.get("/readyz").await;
    assert_eq!(readiness.status, 503);
    assert_eq!(readiness.body["dependencies"]["postgres"]["status"], "down");
    assert_eq!(service.rest.get("/livez").await.status, 200);
    service.stop().await;
}

#[tokio::test]
async fn ended_sessions_cost_no_answer() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    for _ in 0..3 {
        let (driver, ride) = (service.driver_goes_online(midtown()).await, Uuid::now_v7());
        servers.end_sessions(ROLE).await;
        let reports = (0..16).map(|_| service.report(Uuid::now_v7(), "offline", midtown()));
        for answer in join_all(reports).await {
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        servers.end_sessions(ROLE).await;
        let sent = service.dispatch(ride).await.unwrap().unwrap();
        assert_eq!(sent.driver_id, driver.to_string());
        servers.end_sessions(ROLE).await;
        assert!(service.release(ride).await.unwrap());
        service.driver_is(driver, "offline", midtown()).await;
    }
    service.stop().await;
}

#[tokio::test]
async fn server_that_only_reads_is_an_outage() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    servers.only_reads(ROLE, true).await;
    let refused = service.report(Uuid::now_v7(), "idle", midtown()).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    let advice = "PostgreSQL only reads at present; try again";
    assert_eq!(refused.body["detail"], advice);
    assert_eq!(service.rest.get("/readyz").await.status, 503);

    // The sessions of that time are open, and would go on to refuse.
    servers.only_reads(ROLE, false).await;
    let taken = service.report(Uuid::now_v7(), "idle", midtown()).await;
    assert_eq!(taken.status, 200, "{}", taken.body);
    until("the service is ready", async || {
        service.rest.get("/readyz").await.status == 200
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn positions_wait_while_postgres_is_away() {
    let mut servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    servers.postgres.kill().await;
    let unsure = service.report(driver, "offline", midtown()).await;
    assert_eq!(unsure.status, 503);
    let taken = service.driver_moves(driver, downtown()).await;
    assert_eq!(taken, json!({"accepted": 1, "ignored": 0}));

    servers.postgres.restart().await.unwrap();
    let mut connection = servers.connection_as(ROLE).await;
    until("the position is written", async || {
        let zone = sqlx::query_scalar("SELECT zone FROM driver WHERE driver_id = $1");
        let zone = zone.bind(driver).fetch_one(&mut connection).await;
        let zone: String = zone.unwrap();
        zone == Zone::at(downtown()).to_string()
    })
    .await;
    // The row never went offline, so the service may send the driver once it has read that row
    // again.
    let ride = Uuid::now_v7();
    let sent = eventually("the driver is no longer in doubt", async || {
        let sent = service.dispatch_between(ride, downtown(), midtown());
        sent.await.ok().flatten()
    })
    .await;
    assert_eq!(sent.driver_id, driver.to_string());
    service.stop().await;
}

#[tokio::test]
async fn wrongly_known_driver_is_not_sent() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    // As if a commit had succeeded whose answer was lost.
    let mut connection = servers.connection_as(ROLE).await;
    sqlx::query("UPDATE driver SET status = 'offline', version = version + 1")
        .execute(&mut connection)
        .await
        .unwrap();

    let nobody = service.dispatch(Uuid::now_v7()).await.unwrap();
    assert!(nobody.is_none());
    until("the service knows that the driver is offline", async || {
        service.predicted_at(midtown()).await == 0.0
    })
    .await;
    service.driver_is(driver, "idle", midtown()).await;
    service.stop().await;
}

#[tokio::test]
async fn change_after_its_timeout_is_learned() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    service.driver_goes_online(midtown()).await;
    let ride = Uuid::now_v7();
    assert!(service.dispatch_patiently(ride).await.is_some());

    // The commit outlasts every deadline: meanwhile the service reads the driver again, who still
    // seems to be en route.
    let mut owner = servers.connection_as(ROLE).await;
    sqlx::raw_sql(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN PERFORM pg_sleep(3); RETURN NEW; END $$;
         CREATE CONSTRAINT TRIGGER dawdle AFTER UPDATE ON driver DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (OLD.status = 'en_route') EXECUTE FUNCTION dawdle()",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    let given_up = service.release(ride).await.unwrap_err();
    assert_eq!(given_up.code(), Code::Unavailable);
    until("the driver is known to be free", async || {
        service.idle_at(midtown()).await == 1
    })
    .await;
    service.stop().await;
}
