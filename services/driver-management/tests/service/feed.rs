//! The supply feed and the trip events, as a subscriber of JetStream gets them.

use std::collections::BTreeMap;

use async_nats::jetstream::{
    Context, Message,
    consumer::{DeliverPolicy, PullConsumer, pull},
    message::StreamMessage,
};
use futures::StreamExt;
use marketplace::{
    time::MarketTime,
    view::Level,
    zone::{Bounds, ServiceArea, Zone},
};
use prost::Message as _;
use surge_proto::{
    convert::market_time,
    subjects::{SUPPLY, SUPPLY_WATERMARK, Stream, TRIPS, supply_of},
    v1::{SupplyLevel, TripProgress, TripStage, Watermark},
};
use test_harness::{Loss, PATIENCE, Servers, downtown, eventually, midtown, until};
use uuid::Uuid;

use crate::support::{DriverManagement, ROLE};

#[tokio::test]
async fn new_subscriber_gets_every_zone() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    service.driver_goes_online(midtown()).await;
    let jetstream = servers.jetstream().await;
    let consumer = follow(&jetstream, SUPPLY, DeliverPolicy::LastPerSubject).await;

    let area = ServiceArea::new(Bounds::NEW_YORK);
    let mut levels: BTreeMap<Zone, Level> = BTreeMap::new();
    let mut watermarks = 0;
    // The first watermark may be older than the driver.
    while levels.len() < area.len() || watermarks < 2 || levels[&Zone::at(midtown())].value < 1.0 {
        let message = next(&consumer).await;
        if message.subject.as_str() == SUPPLY_WATERMARK {
            watermarks += 1;
            continue;
        }
        let schema = message.headers.as_ref().unwrap().get("Surge-Schema");
        assert_eq!(schema.unwrap().as_str(), "surge.v1.SupplyLevel");
        let (zone, level) = level_of(&message);
        assert_eq!(message.subject.as_str(), supply_of(zone));
        levels.insert(zone, level);
    }
    let all: f64 = levels.values().map(|level| level.value).sum();
    assert_eq!(all, 1.0, "one driver is supply of one zone");
    service.stop().await;
}

#[tokio::test]
async fn watermark_follows_the_levels_it_covers() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let jetstream = servers.jetstream().await;
    let consumer = follow(&jetstream, SUPPLY, DeliverPolicy::All).await;
    service.driver_goes_online(midtown()).await;

    let mut newest_level = None;
    let mut has_driver = false;
    let mut last_watermark: Option<MarketTime> = None;
    while !(has_driver && last_watermark >= newest_level) {
        let message = next(&consumer).await;
        if message.subject.as_str() == SUPPLY_WATERMARK {
            let watermark = Watermark::decode(message.payload.clone()).unwrap();
            let as_of = market_time("as_of", watermark.as_of).unwrap();
            assert!(last_watermark.is_none_or(|last| as_of > last), "it moves");
            assert!(newest_level.is_none_or(|level| as_of >= level), "too early");
            last_watermark = Some(as_of);
            continue;
        }
        let (_, level) = level_of(&message);
        newest_level = newest_level.max(Some(level.as_of));
        has_driver |= level.value == 1.0;
    }
    service.stop().await;
}

#[tokio::test]
async fn unchanged_level_is_not_published_again() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let jetstream = servers.jetstream().await;
    let consumer = follow(&jetstream, SUPPLY, DeliverPolicy::All).await;
    let (mut levels, mut watermarks) = (0, 0);
    while watermarks < 5 {
        match next(&consumer).await.subject.as_str() {
            SUPPLY_WATERMARK => watermarks += 1,
            _ => levels += 1,
        }
    }
    assert_eq!(levels, ServiceArea::new(Bounds::NEW_YORK).len());
    service.stop().await;
}

/// Whatever the broker loses, a consumer that begins afterwards gets a level that never changes,
/// long before the next regular resync.
#[tokio::test]
async fn lost_levels_are_published_again() {
    let mut servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let quiet = supply_of(Zone::at(midtown()));
    let mut last = servers.last_message(SUPPLY.name, &quiet, |_| true).await;
    let backup = servers.back_up_nats().await;
    for loss in Loss::all(&backup) {
        servers.lose(SUPPLY.name, loss).await;
        let is_new = |message: &StreamMessage| message.time > last.time;
        last = servers.last_message(SUPPLY.name, &quiet, is_new).await;
    }
    servers.lose(TRIPS.name, Loss::Deleted).await;
    until("the stream of trips is there again", async || {
        let jetstream = servers.jetstream().await;
        jetstream.get_stream(TRIPS.name).await.is_ok()
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn trip_events_wait_while_nats_is_away() {
    let mut servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    let driver = service.driver_goes_online(midtown()).await;
    let ride = Uuid::now_v7();
    let sent = service.dispatch(ride).await.unwrap().unwrap();
    assert_eq!(sent.driver_id, driver.to_string());

    servers.nats.kill().await;
    service.driver_is(driver, "on_trip", midtown()).await;
    service.driver_is(driver, "idle", downtown()).await;
    assert_eq!(service.predicted_at(downtown()).await, 1.0);
    let readiness = service.rest.get("/readyz").await;
    assert_eq!(readiness.status, 200, "{}", readiness.body);
    assert_eq!(readiness.body["dependencies"]["nats"]["status"], "down");

    servers.nats.restart().await.unwrap();
    let jetstream = servers.jetstream().await;
    let consumer = follow(&jetstream, TRIPS, DeliverPolicy::All).await;
    for stage in [TripStage::PickedUp, TripStage::DroppedOff] {
        let message = next(&consumer).await;
        let progress = TripProgress::decode(message.payload.clone()).unwrap();
        assert_eq!(progress.stage(), stage);
        assert_eq!(progress.ride_id, ride.to_string());
        assert_eq!(progress.driver_id, driver.to_string());
        let headers = message.headers.as_ref().unwrap();
        assert!(headers.get("Nats-Msg-Id").is_some());
    }
    let mut connection = servers.connection_as(ROLE).await;
    until("the outbox is empty", async || {
        let count = sqlx::query_scalar("SELECT count(*) FROM outbox");
        let count: i64 = count.fetch_one(&mut connection).await.unwrap();
        count == 0
    })
    .await;
    until("NATS is up again", async || {
        let readiness = service.rest.get("/readyz").await;
        readiness.body["dependencies"]["nats"]["status"] == "up"
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn service_started_before_nats_catches_up() {
    let mut servers = Servers::start().await;
    servers.nats.kill().await;
    let service = DriverManagement::start(&servers).await;
    service.driver_goes_online(midtown()).await;
    servers.nats.restart().await.unwrap();

    let jetstream = servers.jetstream().await;
    let consumer = follow(&jetstream, SUPPLY, DeliverPolicy::LastPerSubject).await;
    let subject = supply_of(Zone::at(midtown()));
    loop {
        let message = next(&consumer).await;
        if message.subject.as_str() == subject {
            assert_eq!(level_of(&message).1.value, 1.0);
            break;
        }
    }
    service.stop().await;
}

fn level_of(message: &Message) -> (Zone, Level) {
    let wire = SupplyLevel::decode(message.payload.clone()).unwrap();
    (&wire).try_into().unwrap()
}

async fn follow(
    jetstream: &Context,
    stream: Stream,
    deliver_policy: DeliverPolicy,
) -> PullConsumer {
    let Stream { name, subjects } = stream;
    let stream = eventually("the service makes the stream", async || {
        jetstream.get_stream(name).await.ok()
    })
    .await;
    let config = pull::Config {
        deliver_policy,
        // nats-server delivers the last message of each subject only where subjects are named.
        filter_subject: subjects.to_owned(),
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.unwrap()
}

async fn next(consumer: &PullConsumer) -> Message {
    let fetch = consumer.fetch().max_messages(1).expires(PATIENCE);
    let mut batch = fetch.messages().await.unwrap();
    let message = batch.next().await.expect("a message in time").unwrap();
    message.ack().await.unwrap();
    message
}
