//! The table of metrics in docs/telemetry.md equals the metrics of the running processes, in both
//! directions: names, types, labels, and which process exposes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use city::Client;
use marketplace::DriverStatus;
use surge_proto::v1::{GetQuoteRequest, quote_service_client::QuoteServiceClient};
use uuid::Uuid;

use crate::{
    api::{MODES, downtown},
    support::{Exchange, Market, Outcome, eventually},
};

const TABLE: &str = include_str!("../../../docs/telemetry.md");

/// A row of the table.
#[derive(Debug)]
struct Documented {
    kind: String,
    labels: BTreeSet<String>,
    /// The letters of its processes.
    places: String,
}

/// A metric of one process.
#[derive(Debug, Default)]
struct Exposed {
    kind: String,
    /// The labels of all samples.
    labels: BTreeSet<String>,
    samples: usize,
    exemplars: usize,
}

#[tokio::test]
async fn documented_metrics_equal_exposed_metrics() -> Outcome {
    let documented = documented();
    ensure!(
        documented.len() > 40,
        "is the table still there? {documented:?}"
    );
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    for mode in MODES {
        exchange.api.quote(downtown(), mode).await?;
    }
    drive_one_rider(&exchange).await?;
    let target = exchange.stack.target();
    let batch = format!("http://127.0.0.1:{}", exchange.stack.ports().batch);
    for (place, base) in [
        ('D', &target.driver),
        ('R', &target.ride),
        ('P', &target.price),
        ('B', &batch),
    ] {
        eventually("every documented metric is exposed", async || {
            let exposed = exposed(base).await?;
            for (name, row) in &documented {
                if row.places.contains(place) {
                    let metric = exposed.get(name);
                    let metric = metric.with_context(|| format!("{place} has no {name}"))?;
                    ensure!(metric.kind == row.kind, "{name} is a {}", metric.kind);
                }
            }
            Ok(())
        })
        .await?;
        for (name, metric) in exposed(base).await? {
            let row = documented.get(&name);
            let row = row.with_context(|| format!("{place} exposes {name}, undocumented"))?;
            let unknown: Vec<_> = metric.labels.difference(&row.labels).collect();
            ensure!(
                unknown.is_empty() || name == "target_info",
                "{name} of {place} has labels that are not documented: {unknown:?}"
            );
            ensure!(
                metric.samples == 0 || row.places.contains(place),
                "{name} is not documented for {place}"
            );
        }
    }
    exchange.close().await
}

#[tokio::test]
async fn latencies_of_quotes_have_exemplars() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    for mode in MODES {
        exchange.api.quote(downtown(), mode).await?;
    }
    let exposed = exposed(&exchange.stack.target().price).await?;
    for name in [
        "surge_quote_duration_seconds",
        "surge_data_age_seconds",
        "http_server_request_duration_seconds",
        "rpc_client_call_duration_seconds",
        "db_client_operation_duration_seconds",
    ] {
        ensure!(exposed[name].exemplars > 0, "{name}: {:?}", exposed[name]);
    }
    exchange.close().await
}

/// Makes the processes do everything that they count: some metrics appear only then.
async fn drive_one_rider(exchange: &Exchange) -> Outcome {
    let (api, trip) = (&exchange.api, downtown());
    let mut grpc = QuoteServiceClient::connect(exchange.stack.quotes_grpc_url()).await?;
    grpc.get_quote(GetQuoteRequest {
        pickup: Some(trip.pickup.into()),
        dropoff: Some(trip.dropoff.into()),
        ..GetQuoteRequest::default()
    })
    .await?;
    let driver_id = api.goes_online(trip.pickup).await?;
    let quote = api.quote(trip, None).await?;
    let ride = api.request_ride(Uuid::now_v7(), &quote, trip).await?;
    eventually("a driver is sent", async || {
        api.ride_in("matched", ride.ride_id).await
    })
    .await?;
    let on_trip = api.report(driver_id, DriverStatus::OnTrip, trip.pickup);
    on_trip.await?;
    eventually("the rider is in the car", async || {
        api.ride_in("picked_up", ride.ride_id).await
    })
    .await?;
    Ok(())
}

/// The rows of the table by metric.
fn documented() -> BTreeMap<String, Documented> {
    let (metrics, _) = TABLE
        .split_once("## Traces")
        .expect("the metrics stand before the traces");
    let rows = metrics.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, kind, labels, places, ..] = cells[..] else {
            panic!("a row has four cells: {row}");
        };
        let words = labels.split('`').skip(1).step_by(2).map(str::to_owned);
        let row = Documented {
            kind: kind.trim_end_matches(" *").to_owned(),
            labels: words.collect(),
            places: places.replace("all", "D R P B"),
        };
        (name.trim_matches('`').to_owned(), row)
    })
    .collect()
}

/// The metrics of a process, by their names in Prometheus.
async fn exposed(base: &str) -> anyhow::Result<BTreeMap<String, Exposed>> {
    let client = Client::new(Duration::from_secs(5));
    let answer = client.get(&format!("{base}/metrics")).await?;
    let text = String::from_utf8(answer.body.to_vec())?;
    ensure!(text.ends_with("# EOF\n"), "cut off: {text}");
    let mut metrics: BTreeMap<String, Exposed> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (family, kind) = declared.split_once(' ').context("a type")?;
            current = match kind {
                "counter" => format!("{family}_total"),
                "info" => format!("{family}_info"),
                _ => family.to_owned(),
            };
            metrics.entry(current.clone()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') {
            let metric = metrics.get_mut(&current).context("a type comes first")?;
            metric.samples += 1;
            let (sample, exemplar) = line.split_once(" # ").unwrap_or((line, ""));
            metric.exemplars += usize::from(exemplar.contains("trace_id=\""));
            metric.labels.extend(labels_of(sample));
        }
    }
    Ok(metrics)
}

/// The names of the labels of a sample, without the bound of a bucket.
fn labels_of(sample: &str) -> Vec<String> {
    let within = sample.split_once('{').map_or("", |(_, rest)| rest);
    let names = within
        .split("=\"")
        .filter_map(|part| part.rsplit([',', '{', '"']).next());
    let is_name = |name: &&str| {
        let mut letters = name.chars();
        letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_') && !name.is_empty()
    };
    names
        .filter(is_name)
        .filter(|name| *name != "le")
        .map(str::to_owned)
        .collect()
}
