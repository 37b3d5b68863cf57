//! Several replicas on one database: every request counts once, and all forecast the same to the last bit.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::time::Duration;

use marketplace::zone::{Position, Zone};
use sqlx::Connection as _;
use support::{City, RideManagement, eventually, midtown, quote_from, real_now};
use uuid::Uuid;

async fn three(city: &City) -> [RideManagement; 3] {
    [
        city.open(&[]).await,
        city.open(&[]).await,
        city.open(&[]).await,
    ]
}

/// Requests that a replica has counted, in all zones.
fn counted(rides: &RideManagement) -> u32 {
    let windows = |zone: &Zone| rides.app.demand(*zone).unwrap().windows;
    let zones = rides.app.zones().iter().flat_map(windows);
    zones.map(|(_, requests)| requests).sum()
}

async fn knows(rides: &RideManagement, requests: u32) {
    eventually("every request is counted", async || {
        (counted(rides) == requests).then_some(())
    })
    .await;
}

async fn someone_asks(rides: &RideManagement, number: u32) {
    let pickup = Position::new(40.70 + 0.004 * f64::from(number), -73.98).unwrap();
    let asked = rides.request(Uuid::now_v7(), &quote_from(pickup)).await;
    assert_eq!(asked.status, 201, "{}", asked.body);
}

#[tokio::test]
async fn replicas_forecast_the_same_to_the_last_bit_and_so_does_a_newcomer() {
    let city = City::build().await;
    let replicas = three(&city).await;
    for number in 0..24 {
        someone_asks(&replicas[number as usize % 3], number).await;
    }
    for rides in &replicas {
        knows(rides, 24).await;
    }
    let as_of = real_now();
    let of_table = city.demands_of_the_table(as_of).await;
    for rides in &replicas {
        assert_eq!(rides.app.all_demands(as_of), of_table);
    }
}

#[tokio::test]
async fn a_request_that_is_read_twice_counts_once_and_one_that_commits_late_counts_too() {
    let city = City::build().await;
    let [one, other, _] = three(&city).await;

    // A transaction that stays open holds the horizon of everybody's reading back: what comes after it is read again and
    // again. It takes a request, too.
    let mut connection = city.log_in_as("ride_management").await;
    let mut late = connection.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO ride (ride_id, rider_id, quote_id, state, zone, pickup_lat, pickup_lon, dropoff_lat, dropoff_lon,
                           fare_cents, surge_multiplier_tenths, requested_at)
         VALUES ($1, $1, $1, 'unserved', $2, 0, 0, 0, 0, 1, 10, now())",
    )
    .bind(Uuid::now_v7())
    .bind(Zone::at(midtown()).to_string())
    .execute(&mut *late)
    .await
    .unwrap();
    for number in 0..5 {
        someone_asks(&one, number).await;
        knows(&other, number + 1).await;
    }
    someone_asks(&other, 5).await;
    knows(&one, 6).await;
    late.commit().await.unwrap();
    knows(&one, 7).await;
    knows(&other, 7).await;

    // Nothing changes for as long as it takes to read several times more.
    let seen_again = other.app.known_as_of() + Duration::from_millis(500);
    eventually("the journal is read again", async || {
        assert_eq!((counted(&one), counted(&other)), (7, 7));
        (other.app.known_as_of() > seen_again).then_some(())
    })
    .await;
}

#[tokio::test]
async fn after_an_outage_of_postgres_replicas_agree_again() {
    let mut city = City::build().await;
    let [one, other, _] = three(&city).await;
    someone_asks(&one, 0).await;
    knows(&other, 1).await;
    city.postgres.kill().await;
    let refused = one.request(Uuid::now_v7(), &quote_from(midtown())).await;
    assert_eq!(refused.status, 503);
    city.postgres.restart().await.unwrap();

    let quote = quote_from(midtown());
    let accepted = one.request_patiently(Uuid::now_v7(), &quote).await;
    assert_eq!(accepted.status, 201, "{}", accepted.body);
    knows(&other, 2).await;
    let as_of = real_now();
    assert_eq!(other.app.all_demands(as_of), one.app.all_demands(as_of));
}

#[tokio::test]
async fn a_request_that_commits_after_its_replica_has_given_it_up_counts() {
    let city = City::build().await;
    let [one, other, _] = three(&city).await;
    let mut owner = city.log_in_as("ride_management").await;
    // The commit takes longer than anybody waits for it.
    sqlx::raw_sql(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON ride DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    let given_up = one.request(Uuid::now_v7(), &quote_from(midtown())).await;
    assert_eq!(given_up.status, 503, "{}", given_up.body);
    assert_eq!(counted(&one), 0, "it has not happened yet");
    knows(&other, 1).await;
    knows(&one, 1).await;
}
