//! The batch job as a cron job runs it: its own process, set up by environment variables, reading
//! the views that the other two services publish.

use std::process::{Output, Stdio};

use private_servers::free_port;
use sqlx::{AssertSqlSafe, Executor};
use test_harness::{PATIENCE, RestClient, until};
use tokio::process::Command;

use crate::support::{Exchange, ROLE};

const ZONE: &str = "872a100d2ffffff";

/// What the producers publish, with one idle driver in the zone and one due there in seven minutes.
const PUBLISHED: &str = "
    CREATE VIEW driver.supply_watermark AS
    SELECT timestamptz '2014-04-04 20:00Z' AS as_of, NULL::text AS traceparent;
    CREATE VIEW driver.supply_by_zone AS
    SELECT '{zone}' AS zone, 1::int8 AS idle_drivers,
           ARRAY[timestamptz '2014-04-04 20:07Z'] AS dropoffs_due_at;
    CREATE VIEW ride.demand_watermark AS
    SELECT timestamptz '2014-04-04 19:00Z' AS observed_since,
           timestamptz '2014-04-04 20:00Z' AS as_of,
           300 AS window_seconds, NULL::text AS traceparent;
    CREATE VIEW ride.demand_by_zone_window AS
    SELECT '{zone}' AS zone, timestamptz '2014-04-04 19:55Z' AS window_start, 3::int8 AS requests;
    GRANT USAGE ON SCHEMA driver, ride TO price_optimization;
    GRANT SELECT ON ALL TABLES IN SCHEMA driver, ride TO price_optimization;";

#[tokio::test]
async fn batch_counts_dropoffs_within_forecast_window() {
    let exchange = Exchange::start().await;
    publish_views(&exchange).await;
    run_once(&exchange, &[]).await;
    assert_eq!(supply(&exchange).await, 1.0);
    run_once(&exchange, &[("FORECAST_WINDOW", "10m")]).await;
    assert_eq!(supply(&exchange).await, 2.0);
}

#[tokio::test]
async fn once_overrides_batch_period() {
    let exchange = Exchange::start().await;
    publish_views(&exchange).await;
    run_once(&exchange, &[("BATCH_EVERY", "1h")]).await;
    assert_eq!(supply(&exchange).await, 1.0);
}

#[tokio::test]
async fn batch_needs_a_server_that_writes() {
    let exchange = Exchange::start().await;
    let port = free_port().unwrap();
    let _batch = Command::new(env!("CARGO_BIN_EXE_price-optimization"))
        .arg("batch")
        .env("DATABASE_URL", &exchange.database_url)
        .env("HTTP_ADDR", format!("127.0.0.1:{port}"))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let rest = RestClient::connect(([127, 0, 0, 1], port).into()).await;
    for only_reads in [false, true, false] {
        exchange.only_reads(ROLE, only_reads).await;
        until("the readiness is that of the server", async || {
            rest.get("/readyz").await.status.is_success() != only_reads
        })
        .await;
    }
}

async fn publish_views(exchange: &Exchange) {
    let mut admin = exchange.admin().await;
    let views = PUBLISHED.replace("{zone}", ZONE);
    admin.execute(AssertSqlSafe(views)).await.unwrap();
}

/// `price-optimization batch --once`, which ends well and in time.
async fn run_once(exchange: &Exchange, environment: &[(&str, &str)]) {
    let batch = Command::new(env!("CARGO_BIN_EXE_price-optimization"))
        .args(["batch", "--once"])
        .env("DATABASE_URL", &exchange.database_url)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(PATIENCE, batch).await;
    let Output { status, stderr, .. } = ended.expect("an end in time").unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
}

async fn supply(exchange: &Exchange) -> f64 {
    let mut connection = exchange.connection_as(ROLE).await;
    let supply = sqlx::query_scalar("SELECT supply FROM zone_market WHERE zone = $1").bind(ZONE);
    supply.fetch_one(&mut connection).await.unwrap()
}
