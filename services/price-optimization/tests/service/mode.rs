//! The mode in force: switched at run time, on every replica, with or without the control plane.

use http::StatusCode;
use test_harness::eventually;

use crate::support::{Exchange, PriceOptimization, a_trip};

async fn mode_becomes(service: &PriceOptimization, mode: &str) -> u64 {
    eventually(mode, async || {
        let (_, in_force) = service.get("/v1/dataflow").await;
        let epoch = in_force["epoch"].as_u64();
        epoch.filter(|_| in_force["mode"] == mode)
    })
    .await
}

#[tokio::test]
async fn switch_reaches_every_replica_and_quote() {
    let exchange = Exchange::start().await;
    let one = exchange.service(&["--dataflow-mode=database"]).await;
    let other = exchange.service(&["--dataflow-mode=request"]).await;
    assert_eq!(one.get("/v1/dataflow").await.1["mode"], "database");
    assert_eq!(one.get("/v1/dataflow").await.1["epoch"], 0);

    let (status, switched) = one.switch("events").await;
    assert_eq!(status, StatusCode::OK, "{switched}");
    assert_eq!(switched["epoch"], 1);
    assert_eq!(mode_becomes(&other, "events").await, 1);
    let quote = one.rest.post("/v1/quotes", &a_trip()).await.body;
    assert_eq!(quote["dataflow"], "events");
    assert_eq!(quote["epoch"], 1);

    assert_eq!(other.switch("request").await.1["epoch"], 2);
    assert_eq!(mode_becomes(&one, "request").await, 2);
}

#[tokio::test]
async fn concurrent_switches_are_all_counted() {
    let exchange = Exchange::start().await;
    let (one, other) = (exchange.service(&[]).await, exchange.service(&[]).await);
    let (first, second) = tokio::join!(one.switch("events"), other.switch("request"));
    assert_eq!((first.0, second.0), (StatusCode::OK, StatusCode::OK));
    let last = if first.1["epoch"] == 2 {
        first.1
    } else {
        second.1
    };
    assert_eq!(last["epoch"], 2);
    let mode = last["mode"].as_str().unwrap();
    assert_eq!(mode_becomes(&one, mode).await, 2);
    assert_eq!(mode_becomes(&other, mode).await, 2);
}

#[tokio::test]
async fn new_replica_learns_current_mode() {
    let exchange = Exchange::start().await;
    exchange.service(&[]).await.switch("events").await;
    let late = exchange.service(&["--dataflow-mode=database"]).await;
    assert_eq!(mode_becomes(&late, "events").await, 1);
}

#[tokio::test]
async fn mode_stays_while_nats_is_away() {
    let mut exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    service.switch("request").await;
    exchange.nats.kill().await;

    let problem = eventually("the switch is refused", async || {
        let (status, problem) = service.switch("events").await;
        (status == StatusCode::SERVICE_UNAVAILABLE).then_some(problem)
    })
    .await;
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("not switched"), "{detail}");
    assert_eq!(service.get("/v1/dataflow").await.1["mode"], "request");
}
