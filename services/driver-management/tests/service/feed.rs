//! The supply feed and the trip events, as a subscriber of JetStream gets them.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{
    Context, Message,
    consumer::{DeliverPolicy, PullConsumer, pull},
};
use driver_management::{Service, events::SupplyFeed};
use futures::StreamExt;
use marketplace::{
    time::MarketTime,
    view::Level,
    zone::{Bounds, ServiceArea, Zone},
};
use platform::nats;
use prost::Message as _;
use surge_proto::{
    convert::market_time,
    subjects::{SUPPLY, SUPPLY_WATERMARK, Stream, TRIPS, supply_of},
    v1::{SupplyLevel, TripProgress, TripStage, Watermark},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Running, Stand, eventually, financial_district, grand_central};

#[tokio::test]
async fn a_new_subscriber_gets_every_zone_and_then_a_watermark() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    service.driver_goes_online(grand_central()).await;
    let jetstream = connect(&stand).await;
    let consumer = follow(&jetstream, SUPPLY, DeliverPolicy::LastPerSubject).await;

    let area = ServiceArea::new(Bounds::NEW_YORK);
    let mut levels: BTreeMap<Zone, Level> = BTreeMap::new();
    let mut watermarks = 0;
    // The second watermark is news of its own: the first may have been there before the driver was.
    while levels.len() < area.len()
        || watermarks < 2
        || levels[&Zone::at(grand_central())].value < 1.0
    {
        let message = next(&consumer).await;
        if message.subject.as_str() == SUPPLY_WATERMARK {
            watermarks += 1;
            continue;
        }
        let schema = message
            .headers
            .as_ref()
            .unwrap()
            .get("Surge-Schema")
            .unwrap();
        assert_eq!(schema.as_str(), "surge.v1.SupplyLevel");
        let wire = SupplyLevel::decode(message.payload.clone()).unwrap();
        let (zone, level) = (&wire).try_into().unwrap();
        assert_eq!(message.subject.as_str(), supply_of(zone));
        levels.insert(zone, level);
    }
    let others: f64 = levels.values().map(|level| level.value).sum();
    assert_eq!(others, 1.0, "one driver is supply of one zone");
    service.stop().await;
}

#[tokio::test]
async fn a_watermark_vouches_for_every_level_before_it() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let jetstream = connect(&stand).await;
    let consumer = follow(&jetstream, SUPPLY, DeliverPolicy::All).await;
    service.driver_goes_online(grand_central()).await;

    let mut newest_level = None;
    let mut seen_online = false;
    let mut last_watermark: Option<MarketTime> = None;
    while !(seen_online && last_watermark >= newest_level) {
        let message = next(&consumer).await;
        if message.subject.as_str() == SUPPLY_WATERMARK {
            let watermark = Watermark::decode(message.payload.clone()).unwrap();
            let as_of = market_time("as_of", watermark.as_of).unwrap();
            assert!(
                last_watermark.is_none_or(|last| as_of > last),
                "watermarks move on"
            );
            assert!(
                newest_level.is_none_or(|level| as_of >= level),
                "a level it did not wait for"
            );
            last_watermark = Some(as_of);
            continue;
        }
        let wire = SupplyLevel::decode(message.payload.clone()).unwrap();
        let (_, level): (Zone, Level) = (&wire).try_into().unwrap();
        newest_level = newest_level.max(Some(level.as_of));
        seen_online |= level.value == 1.0;
    }
    service.stop().await;
}

#[tokio::test]
async fn what_did_not_change_is_not_told_again() {
    let stand = Stand::start().await;
    let service = stand.service().await;
    let jetstream = connect(&stand).await;
    let consumer = follow(&jetstream, SUPPLY, DeliverPolicy::All).await;
    let mut counts = (0, 0);
    while counts.1 < 5 {
        match next(&consumer).await.subject.as_str() {
            SUPPLY_WATERMARK => counts.1 += 1,
            _ => counts.0 += 1,
        }
    }
    assert_eq!(
        counts.0,
        ServiceArea::new(Bounds::NEW_YORK).len(),
        "levels of an idle market"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_level_that_the_stream_has_forgotten_is_told_again() {
    let stand = Stand::start().await;
    let service = Service::start(stand.config(&[])).await.unwrap();
    let client = nats::connect(&stand.nats.url(), "feed").await.unwrap();
    let jetstream = nats::jetstream(client.clone());
    let (every, again) = (Duration::from_millis(20), Duration::from_millis(200));
    let feed = SupplyFeed::new(service.app(), client, every);
    let stop = CancellationToken::new();
    let feeding = tokio::spawn(feed.telling_again(again).run(stop.clone()));
    let stream = eventually("the feed makes the stream", async || {
        jetstream.get_stream(SUPPLY.name).await.ok()
    })
    .await;
    let quiet = supply_of(Zone::at(grand_central()));
    let last_told = async || stream.get_last_raw_message_by_subject(&quiet).await.ok();
    let told = eventually("the zone is told", last_told).await;

    let purged = stream.purge().filter(&quiet).await.unwrap();
    assert!(purged.purged >= 1);
    eventually("it is told again", async || {
        let again = last_told().await?;
        (again.sequence > told.sequence).then_some(())
    })
    .await;
    stop.cancel();
    feeding.await.unwrap();
}

#[tokio::test]
async fn trips_that_ended_while_nats_was_away_are_told_when_it_is_back() {
    let mut stand = Stand::start().await;
    let service = stand.service().await;
    let (driver, ride) = driver_on_the_way(&service).await;

    stand.nats.kill().await;
    service.driver_is(driver, "on_trip", grand_central()).await;
    service
        .driver_is(driver, "idle", financial_district())
        .await;
    assert_eq!(
        service
            .predicted(&[Zone::at(financial_district())])
            .await
            .unwrap(),
        [1.0]
    );
    let readiness = service.rest.get_plain("/readyz").await;
    assert_eq!(
        readiness.status, 200,
        "the service does not need NATS: {}",
        readiness.body
    );
    assert_eq!(readiness.body["dependencies"]["nats"]["status"], "down");

    stand.nats.restart().await.unwrap();
    let jetstream = connect(&stand).await;
    let consumer = follow(&jetstream, TRIPS, DeliverPolicy::All).await;
    for stage in [TripStage::PickedUp, TripStage::DroppedOff] {
        let message = next(&consumer).await;
        let progress = TripProgress::decode(message.payload.clone()).unwrap();
        assert_eq!(progress.stage(), stage);
        assert_eq!(
            (progress.ride_id, progress.driver_id),
            (ride.to_string(), driver.to_string())
        );
        assert!(
            message
                .headers
                .as_ref()
                .unwrap()
                .get("Nats-Msg-Id")
                .is_some()
        );
    }
    eventually("the outbox is empty", async || {
        (waiting(&stand).await == 0).then_some(())
    })
    .await;
    eventually("the feed flows again", async || {
        let readiness = service.rest.get_plain("/readyz").await;
        (readiness.body["dependencies"]["nats"]["status"] == "up").then_some(())
    })
    .await;
    service.stop().await;
}

#[tokio::test]
async fn a_service_that_starts_before_nats_catches_up() {
    let mut stand = Stand::start().await;
    stand.nats.kill().await;
    let service = stand.service().await;
    service.driver_goes_online(grand_central()).await;
    stand.nats.restart().await.unwrap();

    let jetstream = connect(&stand).await;
    let consumer = follow(&jetstream, SUPPLY, DeliverPolicy::LastPerSubject).await;
    let subject = supply_of(Zone::at(grand_central()));
    loop {
        let message = next(&consumer).await;
        if message.subject.as_str() == subject {
            let level = SupplyLevel::decode(message.payload.clone()).unwrap();
            assert_eq!(level.predicted_drivers, 1.0);
            break;
        }
    }
    service.stop().await;
}

async fn driver_on_the_way(service: &Running) -> (Uuid, Uuid) {
    let driver = service.driver_goes_online(grand_central()).await;
    let ride = Uuid::now_v7();
    let sent = service
        .dispatch(ride, grand_central(), financial_district())
        .await
        .unwrap();
    assert_eq!(sent.unwrap().driver_id, driver.to_string());
    (driver, ride)
}

async fn waiting(stand: &Stand) -> i64 {
    let mut connection = stand.connection_of("driver_management").await;
    let count = sqlx::query_scalar("SELECT count(*) FROM outbox");
    count.fetch_one(&mut connection).await.unwrap()
}

async fn connect(stand: &Stand) -> Context {
    nats::jetstream(
        nats::connect(&stand.nats.url(), "subscriber")
            .await
            .unwrap(),
    )
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
    let fetch = consumer
        .fetch()
        .max_messages(1)
        .expires(Duration::from_secs(10));
    let mut batch = fetch.messages().await.unwrap();
    let message = batch
        .next()
        .await
        .expect("a message within ten seconds")
        .unwrap();
    message.ack().await.unwrap();
    message
}
