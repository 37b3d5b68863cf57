//! Sending drivers to rides: the nearest one, one for each ride, and one ride for each.

use std::collections::{HashMap, HashSet};

use futures::future::join_all;
use test_harness::{Servers, downtown, midtown};
use tonic::Code;
use uuid::Uuid;

use crate::support::{DriverManagement, at};

#[tokio::test]
async fn repeated_dispatch_gives_the_same_driver() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    service.driver_goes_online(at(40.760, -73.970)).await;
    let near = service.driver_goes_online(at(40.753, -73.977)).await;

    let ride = Uuid::now_v7();
    let sent = service.dispatch(ride).await.unwrap();
    assert_eq!(sent.as_ref().unwrap().driver_id, near.to_string());
    assert_eq!(service.dispatch(ride).await.unwrap(), sent);

    service.driver_is(near, "on_trip", midtown()).await;
    service.driver_is(near, "idle", downtown()).await;
    let late = service.dispatch(ride).await.unwrap();
    assert_eq!(late, sent, "a ride that is over got another driver");
    service.stop().await;
}

#[tokio::test]
async fn no_driver_is_sent_too_far() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    service.driver_goes_online(downtown()).await;
    let ride = Uuid::now_v7();
    let nobody = service.dispatch(ride).await.unwrap();
    assert!(nobody.is_none(), "3.6 miles are more than 20 minutes");

    let near = service.driver_goes_online(midtown()).await;
    let sent = service.dispatch(ride).await.unwrap().unwrap();
    assert_eq!(sent.driver_id, near.to_string(), "a ride may ask again");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_rides_never_share_a_driver() {
    const DRIVERS: usize = 30;
    const RIDES: usize = 40;
    const REQUESTS_PER_RIDE: usize = 3;
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    for _ in 0..DRIVERS {
        service.driver_goes_online(midtown()).await;
    }

    let rides: Vec<Uuid> = (0..RIDES).map(|_| Uuid::now_v7()).collect();
    let requests = rides.iter().cycle().take(RIDES * REQUESTS_PER_RIDE);
    let requests = requests.map(async |ride| (*ride, service.dispatch_patiently(*ride).await));

    let mut driver_of: HashMap<Uuid, String> = HashMap::new();
    for (ride, sent) in join_all(requests).await {
        if let Some(sent) = sent {
            let known = driver_of.entry(ride);
            let known = known.or_insert_with(|| sent.driver_id.clone());
            assert_eq!(*known, sent.driver_id, "ride {ride} got two drivers");
        }
    }
    let drivers: HashSet<&String> = driver_of.values().collect();
    assert_eq!(drivers.len(), driver_of.len(), "two rides share a driver");
    assert_eq!(drivers.len(), DRIVERS, "a driver stayed idle");
    assert_eq!(service.predicted_at(midtown()).await, 0.0);
    service.stop().await;
}

#[tokio::test]
async fn release_frees_the_driver_once() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let ride = Uuid::now_v7();
    service.dispatch(ride).await.unwrap();

    assert!(service.release(ride).await.unwrap());
    assert!(!service.release(ride).await.unwrap(), "the second time");
    assert_eq!(service.predicted_at(midtown()).await, 1.0);
    let refused = service.dispatch(ride).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);

    let next = service.dispatch(Uuid::now_v7()).await.unwrap();
    assert_eq!(next.unwrap().driver_id, driver.to_string());
    service.stop().await;
}

#[tokio::test]
async fn ride_with_its_rider_is_not_released() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let ride = Uuid::now_v7();
    service.dispatch(ride).await.unwrap();
    service.driver_is(driver, "on_trip", midtown()).await;

    let refused = service.release(ride).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let idle = service.driver_is(driver, "idle", downtown()).await;
    assert!(idle["ride_id"].is_null());
    let released = service.release(ride).await.unwrap();
    assert!(!released, "a ride that is over has no driver on the way");
    service.stop().await;
}

#[tokio::test]
async fn dispatch_after_its_release_is_refused() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    service.driver_goes_online(midtown()).await;
    let ride = Uuid::now_v7();
    assert!(!service.release(ride).await.unwrap());
    let refused = service.dispatch(ride).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("was released"));
    assert_eq!(service.predicted_at(midtown()).await, 1.0);
    service.stop().await;
}
