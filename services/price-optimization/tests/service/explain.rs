//! The journey of a quote: every hop of every mode is there, in order, and adds up to the data age
//! that of the quote.

use std::{collections::HashMap, process::Stdio, time::Duration};

use chrono::{DateTime, Utc};
use http::StatusCode;
use marketplace::view::MarketView;
use platform::{nats, propagation::TRACEPARENT};
use prost::Message;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use surge_proto::{convert::timestamp, subjects, v1};
use test_harness::{PATIENCE, eventually};
use tokio::process::Command;
use uuid::Uuid;

use crate::support::{Exchange, PriceOptimization, market, now};

const SUPPLY_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const DEMAND_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Market time is in whole milliseconds, and so is what is computed from it.
const TOLERANCE_MS: f64 = 2.0;

#[tokio::test]
async fn request_quote_explains_both_calls() {
    let exchange = Exchange::start().await;
    for shared_reads in ["off", "0us"] {
        let service = exchange.service(&["--shared-reads", shared_reads]).await;
        let levels = market(now(), |_| (3.0, 4.0));
        exchange.callees.answer_as_of_now_with(&levels);
        let quote = service.quote_with_data("request").await;
        let journey = service.journey(&quote).await;
        for feed in feeds(&journey) {
            assert_eq!(stages(feed), ["asked", "observed", "received", "priced"]);
        }
        assert_eq!(stop(&journey, 0, "observed")["by"], "driver-management");
        assert_eq!(stop(&journey, 1, "observed")["by"], "ride-management");
        adds_up(&journey, &quote);
        is_worked(&journey, &quote);
    }
}

#[tokio::test]
async fn events_quote_explains_its_messages() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&["--traces-url=http://ui.example/"]).await;
    let a_while_ago = now() - Duration::from_millis(50);
    let levels = market(a_while_ago, |zone| (3.0 + (zone % 3) as f64, 4.0));
    let sequences = publish_levels(&exchange, &levels).await;
    let quote = service.quote_with_data("events").await;
    let journey = service.journey(&quote).await;
    for feed in feeds(&journey) {
        let expected = ["observed", "published", "received", "read", "priced"];
        assert_eq!(stages(feed), expected);
    }
    let message = &stop(&journey, 0, "published")["message"];
    let subject = message["subject"].as_str().unwrap();
    assert!(
        subject.starts_with("surge.v1.supply.zone."),
        "no watermark vouches for it: {message}"
    );
    adds_up(&journey, &quote);

    let watermarks = publish_watermarks(&exchange).await;
    let vouched_for = |feed: &Value| {
        let mut stops = feed["stops"].as_array().unwrap().iter();
        stops.any(|stop| {
            stop["message"]["subject"]
                .as_str()
                .is_some_and(is_watermark)
        })
    };
    let (quote, journey) = service
        .journey_until("events", |journey| feeds(journey).iter().all(vouched_for))
        .await;
    let carriers = [
        (subjects::SUPPLY_WATERMARK, watermarks.supply, SUPPLY_TRACE),
        (subjects::DEMAND_WATERMARK, watermarks.demand, DEMAND_TRACE),
    ];
    for (feed, (subject, sequence, trace)) in carriers.into_iter().enumerate() {
        let published = stop(&journey, feed, "published");
        assert_eq!(published["message"]["subject"], subject);
        assert_eq!(published["message"]["sequence"], sequence);
        assert_eq!(published["trace"]["trace_id"], trace);
        let url = format!("http://ui.example/trace/{trace}");
        assert_eq!(published["trace"]["url"], url);
    }
    let zones = journey["zones"].as_array().unwrap();
    assert_eq!(zones.len(), 7);
    assert_eq!(zones[0]["zone"], quote["zone"]);
    assert_eq!(zones[0]["supply"]["value"], quote["supply"]);
    for zone in zones {
        let message = &zone["demand"]["message"];
        let subject = format!("surge.v1.demand.zone.{}", zone["zone"].as_str().unwrap());
        assert_eq!(message["stream"], "DEMAND");
        assert_eq!(message["subject"], subject);
        assert_eq!(message["sequence"], sequences[&subject]);
        assert_eq!(message["trace"]["trace_id"], DEMAND_TRACE);
    }
    adds_up(&journey, &quote);
    is_worked(&journey, &quote);
}

#[tokio::test]
async fn database_quote_explains_writes_run_and_rows() {
    let mut exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    publish_views(&exchange, "clock_timestamp() - interval '1500 ms'").await;
    run_batch(&exchange).await;
    let quote = service.quote_with_data("database").await;
    let journey = service.journey(&quote).await;
    for (feed, trace) in [SUPPLY_TRACE, DEMAND_TRACE].into_iter().enumerate() {
        let expected = [
            "observed",
            "published",
            "received",
            "written",
            "read",
            "priced",
        ];
        assert_eq!(stages(&journey["feeds"][feed]), expected);
        let published = stop(&journey, feed, "published");
        assert_eq!(published["trace"]["trace_id"], trace);
        for stage in ["received", "written"] {
            let stop = stop(&journey, feed, stage);
            assert_eq!(stop["run"], 1);
            assert_eq!(stop["trace"]["trace_id"].as_str().unwrap().len(), 32);
        }
    }
    assert_eq!(journey["notes"], Value::Array(Vec::new()));
    adds_up(&journey, &quote);
    is_worked(&journey, &quote);

    let pool = PgPool::connect(&exchange.database_url).await.unwrap();
    run_batch(&exchange).await;
    let dead_for_hours = "UPDATE batch_run SET read_at = now() - (3 - run) * interval '1 hour'";
    pool.execute(dead_for_hours).await.unwrap();
    let later = service.quote_with_data("database").await;
    let recent = service.journey(&later).await;
    assert_eq!(recent["notes"], Value::Array(Vec::new()));
    pool.execute("UPDATE batch_run SET read_at = read_at - interval '2 hours'")
        .await
        .unwrap();
    let late = service.journey(&later).await;
    assert!(
        late["notes"]
            .to_string()
            .contains("the batch job may be down")
    );
    pool.execute("DELETE FROM batch_run").await.unwrap();
    let forgotten = service.journey(&quote).await;
    let stages_left = ["observed", "read", "priced"];
    assert_eq!(stages(&forgotten["feeds"][0]), stages_left);
    assert!(
        forgotten["notes"]
            .to_string()
            .contains("its record was deleted")
    );
    adds_up(&forgotten, &quote);

    drop(pool);
    exchange.postgres.kill().await;
    let away = service.journey(&quote).await;
    assert_eq!(stages(&away["feeds"][1]), stages_left);
    assert!(away["notes"].to_string().contains("PostgreSQL is away"));
    let rows = stop(&away, 0, "read");
    assert_eq!(rows["trace"]["trace_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn explains_rows_without_time_of_write() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    publish_views(&exchange, "NULL").await;
    run_batch(&exchange).await;
    let quote = service.quote_with_data("database").await;
    let journey = service.journey(&quote).await;
    let expected = ["observed", "received", "written", "read", "priced"];
    assert_eq!(stages(&journey["feeds"][0]), expected);
    adds_up(&journey, &quote);
}

#[tokio::test]
async fn quote_without_data_explains_what_is_missing() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    let (_, quote) = service.quote("events").await;
    let journey = service.journey(&quote).await;
    assert_eq!(journey["degraded"], true);
    assert_eq!(journey["formula"], Value::Null);
    assert_eq!(journey["costliest_hop"], Value::Null);
    let notes = journey["notes"].to_string();
    for producer in ["driver-management", "ride-management"] {
        let note = format!("for 7 of 7 zones no level of {producer} has reached");
        assert!(notes.contains(&note), "{notes}");
    }
}

#[tokio::test]
async fn keeps_only_the_last_quotes() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&["--journeys-kept=3"]).await;
    let mut quotes = Vec::new();
    for _ in 0..5 {
        quotes.push(service.quote("events").await.1);
    }
    for (number, quote) in quotes.iter().enumerate() {
        let (status, answer) = service.get(&path(quote)).await;
        if number >= 2 {
            assert_eq!(status, StatusCode::OK, "{answer}");
            continue;
        }
        assert_eq!(status, StatusCode::NOT_FOUND, "{answer}");
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.contains("the last 3 quotes"), "{detail}");
        assert!(detail.contains("another replica"), "{detail}");
    }
}

#[tokio::test]
async fn rejects_malformed_and_unknown_quote_ids() {
    let exchange = Exchange::start().await;
    let service = exchange.service(&[]).await;
    let id = Uuid::now_v7();
    let long = "0".repeat(8_000);
    let hostile = [
        "x",
        "%ff%fe",
        "..%2f..%2fetc%2fpasswd",
        "0x00",
        "%00",
        "%27%3BDROP%20TABLE%20zone_market",
        &id.simple().to_string(),
        &format!("%7B{id}%7D"),
        &format!("urn:uuid:{id}"),
        &format!("{id}%20"),
        &long,
    ];
    for hostile in hostile {
        let (status, problem) = service.get(&format!("/v1/quotes/{hostile}/journey")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{hostile}: {problem}");
        assert_eq!(problem["field"], "quote_id", "{hostile}: {problem}");
    }
    for nobody in [id, Uuid::nil(), Uuid::max()] {
        let (status, problem) = service.get(&format!("/v1/quotes/{nobody}/journey")).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("10000"), "{detail}");
    }
}

impl PriceOptimization {
    async fn journey(&self, quote: &Value) -> Value {
        let (status, journey) = self.get(&path(quote)).await;
        assert_eq!(status, StatusCode::OK, "{journey}");
        assert_eq!(journey["quote_id"], quote["quote_id"]);
        assert_eq!(journey["dataflow"], quote["dataflow"]);
        journey
    }

    /// Quotes in `mode` until `wanted` holds for a journey.
    async fn journey_until(&self, mode: &str, wanted: impl Fn(&Value) -> bool) -> (Value, Value) {
        eventually("the wanted journey", async || {
            let (_, quote) = self.quote(mode).await;
            let journey = self.journey(&quote).await;
            wanted(&journey).then_some((quote, journey))
        })
        .await
    }
}

fn path(quote: &Value) -> String {
    format!("/v1/quotes/{}/journey", quote["quote_id"].as_str().unwrap())
}

fn feeds(journey: &Value) -> &Vec<Value> {
    journey["feeds"].as_array().unwrap()
}

fn stages(feed: &Value) -> Vec<&str> {
    let stops = feed["stops"].as_array().unwrap().iter();
    stops.map(|stop| stop["stage"].as_str().unwrap()).collect()
}

fn stop<'a>(journey: &'a Value, feed: usize, stage: &str) -> &'a Value {
    let stops = journey["feeds"][feed]["stops"].as_array().unwrap();
    stops.iter().find(|stop| stop["stage"] == stage).unwrap()
}

fn moment(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// Stops follow one another, hops add up to the age of their feed, and the older feed's age is the
/// quote's data age.
fn adds_up(journey: &Value, quote: &Value) {
    let quoted = quote["data_age_ms"].as_f64().unwrap();
    assert_eq!(journey["data_age_ms"].as_f64().unwrap(), quoted);
    let mut ages = Vec::new();
    for feed in feeds(journey) {
        let stops = feed["stops"].as_array().unwrap();
        for hop in stops.windows(2) {
            let between = moment(&hop[1]["at"]) - moment(&hop[0]["at"]);
            let between = between.as_seconds_f64() * 1_000.0;
            assert!(between > -TOLERANCE_MS, "not in order: {feed}");
            assert!((between - hop[1]["hop_ms"].as_f64().unwrap()).abs() < 0.01);
        }
        let age = feed["age_ms"].as_f64().unwrap();
        let observed = stops.iter().position(|stop| stop["stage"] == "observed");
        let after = &stops[observed.unwrap() + 1..];
        let hops: f64 = after
            .iter()
            .map(|stop| stop["hop_ms"].as_f64().unwrap())
            .sum();
        assert!((hops - age).abs() < 0.01, "{hops} and {age}: {feed}");
        assert_eq!(stops.last().unwrap()["at"], journey["priced_at"]);
        if feed["is_older"] == true {
            assert!((age - quoted).abs() < TOLERANCE_MS, "{age} and {quoted}");
        }
        ages.push((feed["is_older"] == true, age));
    }
    let oldest = ages.iter().map(|(_, age)| *age).fold(0.0, f64::max);
    assert!(ages.contains(&(true, oldest)), "{ages:?}");
    let costliest = &journey["costliest_hop"];
    assert!(costliest["hop_ms"].as_f64().unwrap() <= oldest + TOLERANCE_MS);
}

/// The formula and the fare come to what the quote said.
fn is_worked(journey: &Value, quote: &Value) {
    let formula = |field: &str| journey["formula"][field].as_f64().unwrap();
    let needed = formula("smoothed_demand") + formula("driver_reserve") + formula("pseudo_drivers");
    let load = needed / (formula("smoothed_supply") + formula("pseudo_drivers"));
    assert!((load - formula("load_ratio")).abs() < 1e-9);
    let multiplier = quote["surge_multiplier"].as_f64().unwrap();
    assert!((formula("target") - multiplier).abs() <= 0.05 + 1e-9);
    assert_eq!(
        journey["fare"]["surge_multiplier"],
        quote["surge_multiplier"]
    );
    assert_eq!(journey["fare"]["fare_cents"], quote["fare_cents"]);
}

/// Publishes levels, each under its feed's trace; returns their numbers by subject.
async fn publish_levels(exchange: &Exchange, view: &MarketView) -> HashMap<String, u64> {
    let jetstream = exchange.jetstream().await;
    for stream in [subjects::SUPPLY, subjects::DEMAND] {
        let made = nats::ensure_stream(&jetstream, stream.name, stream.subjects, 1).await;
        made.unwrap();
    }
    let mut sequences = HashMap::new();
    for levels in &view.zones {
        let supply = v1::SupplyLevel::new(levels.zone, levels.supply.unwrap()).encode_to_vec();
        let demand = v1::DemandLevel::new(levels.zone, levels.demand.unwrap()).encode_to_vec();
        for (subject, payload, trace) in [
            (subjects::supply_of(levels.zone), supply, SUPPLY_TRACE),
            (subjects::demand_of(levels.zone), demand, DEMAND_TRACE),
        ] {
            let sequence = publish_under(&jetstream, &subject, payload, trace).await;
            sequences.insert(subject, sequence);
        }
    }
    sequences
}

fn is_watermark(subject: &str) -> bool {
    subject.ends_with(".watermark")
}

/// Numbers of the watermarks in their streams.
struct Watermarks {
    supply: u64,
    demand: u64,
}

async fn publish_watermarks(exchange: &Exchange) -> Watermarks {
    let jetstream = exchange.jetstream().await;
    let as_of = now();
    let watermark = || {
        v1::Watermark {
            as_of: Some(timestamp(as_of)),
        }
        .encode_to_vec()
    };
    let (supply, demand) = (subjects::SUPPLY_WATERMARK, subjects::DEMAND_WATERMARK);
    Watermarks {
        supply: publish_under(&jetstream, supply, watermark(), SUPPLY_TRACE).await,
        demand: publish_under(&jetstream, demand, watermark(), DEMAND_TRACE).await,
    }
}

async fn publish_under(
    jetstream: &async_nats::jetstream::Context,
    subject: &str,
    payload: Vec<u8>,
    trace: &str,
) -> u64 {
    let message = nats::message("test", payload).header(TRACEPARENT, traceparent(trace).as_str());
    let sent = jetstream.send_publish(subject.to_owned(), message).await;
    sent.unwrap().await.unwrap().sequence
}

fn traceparent(trace: &str) -> String {
    format!("00-{trace}-b7ad6b7169203331-01")
}

/// What the producers publish in PostgreSQL, as of two seconds ago and written at `written_at`.
async fn publish_views(exchange: &Exchange, written_at: &str) {
    let mut admin = exchange.admin().await;
    let views = format!(
        "CREATE TABLE public.published AS
         SELECT date_trunc('milliseconds', clock_timestamp()) - interval '2 s' AS as_of,
                ({written_at})::timestamptz AS written_at;
         CREATE VIEW driver.supply_watermark AS
         SELECT as_of, '{supply}'::text AS traceparent, written_at FROM public.published;
         CREATE VIEW driver.supply_by_zone AS
         SELECT '872a100d2ffffff' AS zone, 1::int8 AS idle_drivers,
                '{{}}'::timestamptz[] AS dropoffs_due_at;
         CREATE VIEW ride.demand_watermark AS
         SELECT as_of - interval '1 hour' AS observed_since, as_of, 300 AS window_seconds,
                '{demand}'::text AS traceparent, written_at FROM public.published;
         CREATE VIEW ride.demand_by_zone_window AS
         SELECT '872a100d2ffffff' AS zone, as_of - interval '5 minutes' AS window_start,
                3::int8 AS requests FROM public.published;
         GRANT USAGE ON SCHEMA driver, ride TO price_optimization;
         GRANT SELECT ON ALL TABLES IN SCHEMA driver, ride TO price_optimization;",
        supply = traceparent(SUPPLY_TRACE),
        demand = traceparent(DEMAND_TRACE),
    );
    admin.execute(AssertSqlSafe(views)).await.unwrap();
}

/// `price-optimization batch --once`, traced to a collector that is not there.
async fn run_batch(exchange: &Exchange) {
    let batch = Command::new(env!("CARGO_BIN_EXE_price-optimization"))
        .args(["batch", "--once"])
        .env("DATABASE_URL", &exchange.database_url)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(PATIENCE, batch).await;
    let ended = ended.expect("an end in time").unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
}
