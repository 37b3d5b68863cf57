//! The three dataflows side by side: the same market gives the same price, and each fails only with
//! the servers that it depends on.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use futures::future::join_all;
use http::StatusCode;
use marketplace::{time::MarketTime, view::Level};
use prost::Message;
use sqlx::{AssertSqlSafe, Executor};
use surge_proto::{subjects, v1::DemandLevel};
use test_harness::until;

use crate::support::{Exchange, PriceOptimization, ROLE, market, now, publish};

#[tokio::test]
async fn same_market_same_price_in_every_mode() {
    let exchange = Exchange::start().await;
    for shared_reads in ["off", "0us", "300us"] {
        let service = exchange.service(&["--shared-reads", shared_reads]).await;
        modes_agree(&exchange, &service).await;
    }
}

async fn modes_agree(exchange: &Exchange, service: &PriceOptimization) {
    exchange.callees.answer_with(&market(now(), |_| (1.0, 1.0)));
    service
        .quote_until("database", |status, _| status.is_success())
        .await;

    for round in 0..8 {
        let scarce = 0.37 * f64::from(round);
        let as_of = now();
        exchange
            .feed(&market(as_of, |zone| {
                (5.0 - scarce / 2.0, 2.0 + scarce * (zone % 5) as f64)
            }))
            .await;
        let request = service.quote_with_data("request").await;
        for mode in ["database", "events"] {
            let same = |quote: &serde_json::Value| {
                ["surge_multiplier", "fare_cents", "supply", "demand", "zone"]
                    .iter()
                    .all(|field| quote[field] == request[field])
            };
            let quote = service.quote_until(mode, |_, quote| same(quote)).await;
            assert_eq!(quote["dataflow"], mode);
        }
    }
}

/// Time for a slow machine to open connections in.
const PATIENT: &str = "--dataflow-deadline=4s";

#[tokio::test]
async fn closed_idle_sessions_cost_no_quote() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[PATIENT]).await;
    service
        .quote_until("database", |status, _| status.is_success())
        .await;
    let close = "ALTER ROLE price_optimization SET idle_session_timeout = '100ms'";
    exchange.administer(close).await;
    exchange.end_sessions(ROLE).await;
    let mut admin = exchange.admin().await;
    for _ in 0..8 {
        let (status, quote) = service.quote("database").await;
        assert_eq!(status, StatusCode::OK, "{quote}");
        until("the server has closed the idle sessions", async || {
            let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
            let open = sqlx::query_scalar(open).bind(ROLE).fetch_one(&mut admin);
            let open: i64 = open.await.unwrap();
            open == 0
        })
        .await;
    }
}

#[tokio::test]
async fn quotes_need_no_server_that_writes() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[PATIENT]).await;
    service
        .quote_until("database", |status, _| status.is_success())
        .await;
    exchange.only_reads(ROLE, true).await;
    let another = exchange.service(&[PATIENT]).await;
    for service in [service, another] {
        let (status, quote) = service.quote("database").await;
        assert_eq!(status, StatusCode::OK, "{quote}");
        let (status, ready) = service.get("/readyz").await;
        assert_eq!(status, StatusCode::OK, "{ready}");
    }
}

#[tokio::test]
async fn changed_schema_costs_no_quote() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&["--shared-reads=off", PATIENT]).await;
    service
        .quote_until("database", |status, _| status.is_success())
        .await;
    let quote = async || {
        let (status, quote) = service.quote("database").await;
        assert_eq!(status, StatusCode::OK, "{quote}");
    };
    exchange.grow_schema(ROLE, quote).await;
    let mut owner = exchange.connection_as(ROLE).await;
    for length in 100..104 {
        // The columns of prepared statements have another type now.
        let change = format!("ALTER TABLE zone_market ALTER traceparent TYPE varchar({length})");
        owner.execute(AssertSqlSafe(change)).await.unwrap();
        join_all((0..16).map(|_| quote())).await;
    }
}

#[tokio::test]
async fn shared_read_shares_answer_and_failure() {
    let mut exchange = Exchange::start().await;
    let service = exchange.service(&["--shared-reads=0us"]).await;
    service
        .quote_until("database", |status, _| status.is_success())
        .await;
    exchange.feed(&market(now(), |_| (3.0, 4.0))).await;
    let crowd = async |mode| join_all((0..64).map(|_| service.quote(mode))).await;
    for mode in ["request", "database"] {
        for (status, quote) in crowd(mode).await {
            assert_eq!(status, StatusCode::OK, "{quote}");
            assert_eq!(
                (&quote["supply"], &quote["demand"]),
                (&3.0.into(), &4.0.into())
            );
        }
    }

    exchange.callees.die();
    exchange.postgres.kill().await;
    for mode in ["request", "database"] {
        for (status, problem) in crowd(mode).await {
            assert!(status.is_server_error(), "{problem}");
        }
    }
    exchange.postgres.restart().await.unwrap();
    service.quote_with_data("database").await;
}

#[tokio::test]
async fn request_depends_on_its_callees_alone() {
    let mut exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    exchange.callees.answer_with(&market(now(), |_| (3.0, 4.0)));
    service.quote_with_data("request").await;

    exchange.postgres.kill().await;
    exchange.nats.kill().await;
    service.quote_with_data("request").await;

    exchange.callees.die();
    let (status, problem) = service.quote("request").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("-management is away"), "{detail}");
}

#[tokio::test]
async fn hanging_callee_is_a_missed_deadline() {
    let mut exchange = Exchange::start().await;
    // Connections to it are made by the kernel, and nobody ever answers on them.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    exchange.callees.address = hangs.local_addr().unwrap();
    let service = exchange.service(&[]).await;

    // Long enough for the ping of the connection, too, to go unanswered.
    let until = tokio::time::Instant::now() + Duration::from_secs(9);
    while tokio::time::Instant::now() < until {
        let (status, problem) = service.quote("request").await;
        assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{problem}");
    }
}

#[tokio::test]
async fn events_depends_on_nothing_once_complete() {
    let mut exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    exchange.publish(&market(now(), |_| (3.0, 4.0))).await;
    let before = service.quote_with_data("events").await;

    exchange.postgres.kill().await;
    exchange.callees.die();
    exchange.nats.kill().await;
    let after = service.quote_with_data("events").await;
    assert_eq!(after["surge_multiplier"], before["surge_multiplier"]);
    assert!(
        after["data_age_ms"].as_f64() > before["data_age_ms"].as_f64(),
        "data grows old"
    );
}

#[tokio::test]
async fn database_depends_on_postgres_alone() {
    let mut exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    service
        .quote_until("database", |status, _| status.is_success())
        .await;
    exchange.write_rows(&market(now(), |_| (3.0, 4.0))).await;
    exchange.callees.die();
    exchange.nats.kill().await;
    service.quote_with_data("database").await;

    exchange.postgres.kill().await;
    let (status, problem) = service.quote("database").await;
    assert!(status.is_server_error(), "{problem}");
    exchange.postgres.restart().await.unwrap();
    service.quote_with_data("database").await;
}

#[tokio::test]
async fn events_recovers_with_the_broker() {
    let mut exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    exchange.publish(&market(now(), |_| (9.0, 1.0))).await;
    service.quote_with_data("events").await;

    exchange.nats.kill().await;
    exchange.nats.restart().await.unwrap();
    exchange.publish(&market(now(), |_| (1.0, 9.0))).await;
    service
        .quote_until("events", |_, quote| quote["demand"] == 9.0)
        .await;
}

#[tokio::test]
async fn quote_without_data_is_degraded() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    let (status, quote) = service.quote("events").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(quote["degraded"], true);
    assert_eq!(quote["surge_multiplier"], 1.0);
    assert!(quote["data_age_ms"].is_null());
}

#[tokio::test]
async fn old_data_sets_no_price() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    let sixteen_minutes = Duration::from_secs(16 * 60);
    exchange
        .publish(&market(now() - sixteen_minutes, |_| (1.0, 30.0)))
        .await;
    let old = service
        .quote_until("events", |_, quote| quote["demand"] == 30.0)
        .await;
    assert_eq!(old["degraded"], true);
    assert_eq!(old["surge_multiplier"], 1.0);

    exchange.publish(&market(now(), |_| (1.0, 30.0))).await;
    let fresh = service.quote_with_data("events").await;
    assert_eq!(fresh["surge_multiplier"], 3.0);
}

#[tokio::test]
async fn data_from_the_future_sets_no_price() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    service
        .quote_until("database", |status, _| status.is_success())
        .await;
    let hours_ahead = now() + Duration::from_secs(3 * 3_600);
    exchange.feed(&market(hours_ahead, |_| (1.0, 30.0))).await;
    for mode in ["request", "database"] {
        let (_, quote) = service.quote(mode).await;
        assert_eq!(quote["degraded"], true, "{quote}");
        assert_eq!(quote["surge_multiplier"], 1.0);
        assert!(quote["data_age_ms"].is_null());
    }

    exchange.publish(&market(now(), |_| (2.0, 2.0))).await;
    let present = service.quote_with_data("events").await;
    assert_eq!(present["demand"], 2.0);
}

#[tokio::test]
async fn unparsable_message_becomes_a_dead_letter() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    exchange.publish(&market(now(), |_| (2.0, 2.0))).await;
    service.quote_with_data("events").await;

    let nonsense = b"\xff\xff".to_vec();
    let subject = format!(
        "{}.nonsense",
        subjects::SUPPLY.subjects.trim_end_matches(".>")
    );
    let jetstream = exchange.jetstream().await;
    publish(&jetstream, subject, nonsense.clone()).await;
    exchange.publish(&market(now(), |_| (7.0, 2.0))).await;
    service
        .quote_until("events", |_, quote| quote["supply"] == 7.0)
        .await;

    let letter = dead_letter(&exchange, "surge.dead.SUPPLY").await;
    assert_eq!(letter.payload, nonsense);
    assert!(letter.headers.get(platform::nats::DEAD_REASON).is_some());
}

/// The last dead letter on `subject`.
async fn dead_letter(exchange: &Exchange, subject: &str) -> StreamMessage {
    let letter = exchange.last_message(subjects::DEAD.name, subject, |_| true);
    letter.await
}

#[tokio::test]
async fn older_level_never_overwrites_newer_one() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    let new = now();
    let old = MarketTime::from_millis(new.millis() - 5_000);
    exchange.publish(&market(new, |_| (2.0, 8.0))).await;
    let here = service
        .quote_until("events", |_, quote| quote["demand"] == 8.0)
        .await["zone"]
        .clone();
    exchange.publish(&market(old, |_| (2.0, 3.0))).await;

    // A later message of the same stream: when it has arrived, all before it have.
    let zones = market(new, |_| (2.0, 8.0)).zones;
    let elsewhere = zones.iter().find(|levels| here != levels.zone.to_string());
    let elsewhere = elsewhere.unwrap().zone;
    let as_of = MarketTime::from_millis(new.millis() + 1);
    let marker = DemandLevel::new(elsewhere, Level { value: 5.0, as_of }).encode_to_vec();
    let jetstream = exchange.jetstream().await;
    publish(&jetstream, subjects::demand_of(elsewhere), marker).await;
    service.demand_becomes("events", elsewhere, 5.0).await;

    let (_, quote) = service.quote("events").await;
    assert_eq!(quote["demand"], 8.0);
}
