//! What the broker may lose, and in which order things may come: streams purged, deleted, with
//! their storage lost or set back to an older backup. Levels that are published are in force soon,
//! and a replica that lacks some is not ready.

use http::StatusCode;
use surge_proto::subjects::{CONTROL_BUCKET, DEMAND, SUPPLY};
use test_harness::{Loss, until};

use crate::support::{Exchange, PriceOptimization, market, now};

/// Publishes a market with this supply, and waits until the services quote with it.
async fn reaches(exchange: &Exchange, services: &[&PriceOptimization], supply: f64) {
    exchange.publish(&market(now(), |_| (supply, 4.0))).await;
    for service in services {
        let quote = |status: StatusCode, quote: &serde_json::Value| {
            status.is_success() && quote["supply"] == supply && quote["degraded"] == false
        };
        service.quote_until("events", quote).await;
    }
}

async fn streams_are_made(exchange: &Exchange) {
    let jetstream = exchange.jetstream().await;
    for stream in [SUPPLY, DEMAND] {
        let made = platform::nats::ensure_stream(&jetstream, stream.name, stream.subjects, 1);
        made.await.unwrap();
    }
}

/// The orders of three things: the stream is made, its first level comes, a replica subscribes.
#[tokio::test]
async fn feeds_are_received_in_every_order() {
    let mut exchange = Exchange::start().await;
    let first = exchange.service(&[]).await;
    reaches(&exchange, &[&first], 1.0).await;
    exchange.lose(SUPPLY.name, Loss::Storage).await;
    streams_are_made(&exchange).await;
    let jetstream = exchange.jetstream().await;
    until("the replica subscribes to empty streams", async || {
        let stream = jetstream.get_stream(SUPPLY.name).await.unwrap();
        stream.cached_info().state.consumer_count > 0
    })
    .await;
    reaches(&exchange, &[&first], 2.0).await;
    let late = exchange.service(&[]).await;
    reaches(&exchange, &[&first, &late], 3.0).await;
}

#[tokio::test]
async fn subscribers_survive_what_the_broker_loses() {
    let mut exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    reaches(&exchange, &[&service], 1.0).await;
    let backup = exchange.back_up_nats().await;
    reaches(&exchange, &[&service], 2.0).await;
    let losses = [Loss::Purged, Loss::Deleted, Loss::SetBack(&backup)];
    for (supply, loss) in [3.0, 4.0, 5.0].into_iter().zip(losses) {
        for stream in [SUPPLY, DEMAND] {
            exchange.lose(stream.name, loss).await;
        }
        reaches(&exchange, &[&service], supply).await;
    }
}

#[tokio::test]
async fn replica_without_levels_is_unready() {
    let exchange = Exchange::start().await;
    exchange.publish(&market(now(), |_| (3.0, 4.0))).await;
    let jetstream = exchange.jetstream().await;
    let supply = jetstream.get_stream(SUPPLY.name).await.unwrap();
    let levels = supply.purge().filter("surge.v1.supply.zone.>");
    levels.await.unwrap();

    let service = exchange.service(&["--dataflow-mode=events"]).await;
    let unready = service
        .ready_until(|ready| {
            let reason = ready["dependencies"]["local-state"]["reason"].as_str();
            reason.is_some_and(|reason| reason.contains("110 zones have no level of supply"))
        })
        .await;
    assert_eq!(unready["status"], "unready", "{unready}");
    let map = service.surge_map("events").await;
    let mut zones = map["zones"].as_array().unwrap().iter();
    assert!(zones.all(|zone| zone["degraded"] == true));

    exchange.publish(&market(now(), |_| (3.0, 4.0))).await;
    let ready = |ready: &serde_json::Value| ready["status"] == "ready";
    service.ready_until(ready).await;
}

#[tokio::test]
async fn mode_outlives_its_bucket() {
    let mut exchange = Exchange::start().await;
    let old = exchange.service(&["--dataflow-mode=database"]).await;
    old.switch("request").await;
    let backup = exchange.back_up_nats().await;
    // The replica has to connect again first.
    until("the mode is switched again", async || {
        old.switch("events").await.1["epoch"] == 2
    })
    .await;
    let bucket = format!("KV_{CONTROL_BUCKET}");
    for loss in Loss::all(&backup) {
        exchange.lose(&bucket, loss).await;
        let new = exchange.service(&["--dataflow-mode=database"]).await;
        until("a new replica learns the mode", async || {
            let (_, mode) = new.get("/v1/dataflow").await;
            mode["mode"] == "events" && mode["epoch"] == 2
        })
        .await;
        assert_eq!(old.get("/v1/dataflow").await.1["mode"], "events");
    }
    until("and again", async || {
        old.switch("request").await.1["epoch"] == 3
    })
    .await;
}
