//! Rides that their drivers gave back, and riders with several rides.

use futures::future::join;
use http::StatusCode;
use serde_json::Value;
use surge_proto::{
    subjects::{DEAD, TRIPS, dead_letter},
    v1::TripStage,
};
use test_harness::{Servers, eventually};
use uuid::Uuid;

use crate::{
    drivers::Drivers,
    support::{RideManagement, driver_of, driver_reports, quote},
};

#[tokio::test]
async fn ride_given_back_is_dispatched_anew() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(2).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let ride = rides.new_ride().await;
    let first = driver_of(&ride);
    give_back(&servers, &drivers, &ride).await;
    let second = matched_after(&rides, first, &ride).await;
    give_back(&servers, &drivers, &second).await;
    let unserved = rides.ride_when(&ride, "unserved").await;
    assert!(unserved["driver_id"].is_null() && unserved["ended_at"].is_string());
    assert_eq!(drivers.dispatches(), 3);
}

#[tokio::test]
async fn late_events_of_earlier_driver_change_nothing() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(2).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let ride = rides.new_ride().await;
    let first = driver_of(&ride);
    give_back(&servers, &drivers, &ride).await;
    let second = matched_after(&rides, first, &ride).await;
    for stage in [TripStage::GivenBack, TripStage::PickedUp] {
        driver_reports(&servers, &ride, first, stage).await;
    }
    let dead = dead_letter(TRIPS);
    servers.last_message(DEAD.name, &dead, |_| true).await;
    assert_eq!(rides.look_at(&ride).await.body, second);
    assert_eq!(drivers.dispatches(), 2);
}

async fn give_back(servers: &Servers, drivers: &Drivers, ride: &Value) {
    drivers.give_back(ride);
    driver_reports(servers, ride, driver_of(ride), TripStage::GivenBack).await;
}

/// The ride, once it has another driver than `first`.
async fn matched_after(rides: &RideManagement, first: Uuid, ride: &Value) -> Value {
    eventually("another driver", async || {
        let now = rides.look_at(ride).await.body;
        (now["state"] == "matched" && driver_of(&now) != first).then_some(now)
    })
    .await
}

#[tokio::test]
async fn rider_may_have_several_rides() {
    let servers = Servers::start().await;
    let (drivers, supply_url) = Drivers::open(2).await;
    let rides = RideManagement::start_at(&servers, &supply_url).await;
    let (rider, own, friends) = (Uuid::now_v7(), quote(), quote());
    let (own, friends) = join(
        rides.request_patiently(rider, &own),
        rides.request_patiently(rider, &friends),
    )
    .await;
    assert_eq!(
        (own.status, friends.status),
        (StatusCode::CREATED, StatusCode::CREATED)
    );
    assert_ne!(driver_of(&own.body), driver_of(&friends.body));
    assert_eq!(drivers.busy(), 2);
}
