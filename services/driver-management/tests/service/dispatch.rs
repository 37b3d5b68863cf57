//! Sending drivers to rides: the nearest one, one for each ride, and one ride for each.

use std::collections::{HashMap, HashSet};

use futures::future::join_all;
use marketplace::zone::Zone;
use tonic::Code;
use uuid::Uuid;

use crate::support::{Stand, at, financial_district, grand_central};

#[tokio::test]
async fn the_nearest_idle_driver_is_sent_and_a_repeated_question_gets_the_same_answer() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    service.driver_goes_online(at(40.760, -73.970)).await;
    let near = service.driver_goes_online(at(40.753, -73.977)).await;

    let ride = Uuid::now_v7();
    let sent = service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap();
    assert_eq!(sent.as_ref().unwrap().driver_id, near.to_string());
    let again = service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap();
    assert_eq!(again, sent);

    service.driver_is(near, "on_trip", grand_central()).await;
    service.driver_is(near, "idle", financial_district()).await;
    let late = service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap();
    assert_eq!(late, sent, "a ride that is over got another driver");
    service.stop().await;
}

#[tokio::test]
async fn nobody_is_sent_too_far() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    service.driver_goes_online(financial_district()).await;
    let ride = Uuid::now_v7();
    let nobody = service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap();
    assert!(nobody.is_none(), "3.6 miles are more than 20 minutes");

    let near = service.driver_goes_online(grand_central()).await;
    let sent = service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap();
    assert_eq!(
        sent.unwrap().driver_id,
        near.to_string(),
        "a ride may ask again"
    );
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crowding_rides_never_share_a_driver_and_no_ride_gets_two() {
    const DRIVERS: usize = 30;
    const RIDES: usize = 40;
    const ASKING_EACH: usize = 3;
    let stand = Stand::start().await;
    let service = stand.service().await;
    for _ in 0..DRIVERS {
        service.driver_goes_online(grand_central()).await;
    }

    let rides: Vec<Uuid> = (0..RIDES).map(|_| Uuid::now_v7()).collect();
    let questions = rides
        .iter()
        .cycle()
        .take(RIDES * ASKING_EACH)
        .map(async |ride| {
            let (pickup, dropoff) = (grand_central(), financial_district());
            (
                *ride,
                service.dispatch_patiently(*ride, pickup, dropoff).await,
            )
        });
    let answers = join_all(questions).await;

    let mut driver_of: HashMap<Uuid, String> = HashMap::new();
    for (ride, sent) in answers {
        if let Some(sent) = sent {
            let known = driver_of
                .entry(ride)
                .or_insert_with(|| sent.driver_id.clone());
            assert_eq!(*known, sent.driver_id, "ride {ride} got two drivers");
        }
    }
    let drivers: HashSet<&String> = driver_of.values().collect();
    assert_eq!(drivers.len(), driver_of.len(), "two rides share a driver");
    assert_eq!(
        drivers.len(),
        DRIVERS,
        "a driver stayed idle while a ride went without"
    );
    assert_eq!(
        service
            .predicted(&[Zone::at(grand_central())])
            .await
            .unwrap(),
        [0.0]
    );
    service.stop().await;
}

#[tokio::test]
async fn a_cancelled_ride_frees_its_driver_once() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    let ride = Uuid::now_v7();
    service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap();

    assert!(service.release(ride).await.unwrap());
    assert!(
        !service.release(ride).await.unwrap(),
        "repeating it changes nothing"
    );
    assert_eq!(
        service
            .predicted(&[Zone::at(grand_central())])
            .await
            .unwrap(),
        [1.0]
    );
    let refused = service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);

    let next = service
        .dispatch(Uuid::now_v7(), grand_central(), financial_district())
        .await;
    assert_eq!(next.unwrap().unwrap().driver_id, driver.to_string());
    service.stop().await;
}

#[tokio::test]
async fn a_ride_with_its_rider_in_the_car_is_not_released() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let driver = service.driver_goes_online(grand_central()).await;
    let ride = Uuid::now_v7();
    service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap();
    service.driver_is(driver, "on_trip", grand_central()).await;

    let refused = service.release(ride).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let idle = service
        .driver_is(driver, "idle", financial_district())
        .await;
    assert!(idle["ride_id"].is_null());
    assert!(
        !service.release(ride).await.unwrap(),
        "a ride that is over has nobody on the way"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_dispatch_that_its_own_release_overtook_strands_nobody() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    service.driver_goes_online(grand_central()).await;
    let ride = Uuid::now_v7();
    assert!(!service.release(ride).await.unwrap());
    let refused = service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("was released"));
    assert_eq!(
        service
            .predicted(&[Zone::at(grand_central())])
            .await
            .unwrap(),
        [1.0]
    );
    service.stop().await;
}
