//! Several replicas on one database: every request counts once, and all forecast the same to the
//! last bit.

use std::time::Duration;

use marketplace::zone::{Position, Zone};
use sqlx::Connection as _;
use test_harness::{Servers, midtown, until};
use uuid::Uuid;

use crate::support::{ROLE, RideManagement, demands_of_the_table, quote, quote_from, real_now};

async fn three(servers: &Servers) -> [RideManagement; 3] {
    [
        RideManagement::start(servers).await,
        RideManagement::start(servers).await,
        RideManagement::start(servers).await,
    ]
}

/// The requests that a replica has counted, in all zones.
fn counted(rides: &RideManagement) -> u32 {
    let windows = |zone: &Zone| rides.app.demand(*zone).unwrap().windows;
    let zones = rides.app.zones().iter().flat_map(windows);
    zones.map(|(_, requests)| requests).sum()
}

async fn counts(rides: &RideManagement, requests: u32) {
    until("every request is counted", async || {
        counted(rides) == requests
    })
    .await;
}

async fn request_number(rides: &RideManagement, number: u32) {
    let pickup = Position::new(40.70 + 0.004 * f64::from(number), -73.98).unwrap();
    let quote = quote_from(pickup);
    let answer = rides.request_patiently(Uuid::now_v7(), &quote).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
}

#[tokio::test]
async fn replicas_and_a_newcomer_forecast_the_same() {
    let servers = Servers::start().await;
    let replicas = three(&servers).await;
    for number in 0..24 {
        request_number(&replicas[number as usize % 3], number).await;
    }
    for rides in &replicas {
        counts(rides, 24).await;
    }
    let as_of = real_now();
    let of_table = demands_of_the_table(&servers, as_of).await;
    for rides in &replicas {
        assert_eq!(rides.app.all_demands(as_of), of_table);
    }
}

#[tokio::test]
async fn request_counts_once_however_often_read() {
    let servers = Servers::start().await;
    let [one, other, _] = three(&servers).await;

    // A transaction that stays open holds back the low watermark of every reader: what commits
    // after it is read again and again. It takes a request, too.
    let mut connection = servers.connection_as(ROLE).await;
    let mut late = connection.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO ride (ride_id, rider_id, quote_id, state, zone, pickup_lat, pickup_lon,
                           dropoff_lat, dropoff_lon, fare_cents, surge_multiplier_tenths,
                           requested_at)
         VALUES ($1, $1, $1, 'unserved', $2, 0, 0, 0, 0, 1, 10, now())",
    )
    .bind(Uuid::now_v7())
    .bind(Zone::at(midtown()).to_string())
    .execute(&mut *late)
    .await
    .unwrap();
    for number in 0..5 {
        request_number(&one, number).await;
        counts(&other, number + 1).await;
    }
    request_number(&other, 5).await;
    counts(&one, 6).await;
    late.commit().await.unwrap();
    counts(&one, 7).await;
    counts(&other, 7).await;

    // Nothing changes for as long as it takes to read several times more.
    let seen_again = other.app.known_as_of() + Duration::from_millis(500);
    until("the change log is read again", async || {
        assert_eq!((counted(&one), counted(&other)), (7, 7));
        other.app.known_as_of() > seen_again
    })
    .await;
}

#[tokio::test]
async fn replicas_agree_after_an_outage() {
    let mut servers = Servers::start().await;
    let [one, other, _] = three(&servers).await;
    request_number(&one, 0).await;
    counts(&other, 1).await;
    servers.postgres.kill().await;
    let refused = one.request(Uuid::now_v7(), &quote()).await;
    assert_eq!(refused.status, 503);
    servers.postgres.restart().await.unwrap();

    let accepted = one.request_patiently(Uuid::now_v7(), &quote()).await;
    assert_eq!(accepted.status, 201, "{}", accepted.body);
    counts(&other, 2).await;
    let as_of = real_now();
    assert_eq!(other.app.all_demands(as_of), one.app.all_demands(as_of));
}

#[tokio::test]
async fn commit_after_its_timeout_counts() {
    let servers = Servers::start().await;
    let [one, other, _] = three(&servers).await;
    let mut owner = servers.connection_as(ROLE).await;
    // The commit outlasts every deadline.
    sqlx::raw_sql(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON ride DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    let given_up = one.request(Uuid::now_v7(), &quote()).await;
    assert_eq!(given_up.status, 503, "{}", given_up.body);
    assert_eq!(counted(&one), 0, "it has not happened yet");
    counts(&other, 1).await;
    counts(&one, 1).await;
}
