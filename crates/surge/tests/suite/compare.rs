//! The comparison from the command line, on a stack of its own: short, so that its figures mean nothing, and complete.

use std::time::{Duration, Instant};

use loadtest::Client;
use serde_json::Value;
use surge::{Part, Stack};
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, stack_in, state_folder, surge, text};

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_of_the_receipt_is_measured() {
    let folder = state_folder().unwrap();
    let stack = Stack::start(stack_in(folder.path())).await.unwrap();
    let target = stack.target();
    let json = folder.path().join("compare.json");
    let mut compare = surge(folder.path(), &["compare", "--quick", "--rate", "60"]);
    compare
        .args(["--target", &target.price])
        .args(["--driver-url", &target.driver, "--ride-url", &target.ride])
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(folder.path().join("compare.html"));
    let output = tokio::task::spawn_blocking(move || compare.output())
        .await
        .unwrap()
        .unwrap();
    stack.stop(&CancellationToken::new()).await.unwrap();

    let receipt: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    for part in ["modes", "floors", "generator"] {
        let unmeasured = unmeasured(part, &receipt[part]);
        assert_eq!(unmeasured, [""; 0], "{}", text(&output));
    }
    let share = &receipt["modes"]["events"]["share_of_floor"];
    assert!(share.as_f64().is_some_and(|share| share > 0.0), "{share}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_voids_the_run_in_the_table_the_receipt_and_the_exit_code() {
    let folder = state_folder().unwrap();
    let mut stack = Stack::start(stack_in(folder.path())).await.unwrap();
    let target = stack.target();
    let json = folder.path().join("compare.json");
    let options = "compare --rate 60 --seconds 8 --warmup-minutes 0 --rounds 0 --modes events";
    let options: Vec<&str> = options.split(' ').collect();
    let mut compare = surge(folder.path(), &options);
    compare
        .args(["--target", &target.price])
        .args(["--driver-url", &target.driver, "--ride-url", &target.ride])
        .arg("--json")
        .arg(&json)
        .arg("--html")
        .arg(folder.path().join("compare.html"));
    let output = tokio::task::spawn_blocking(move || compare.output());
    let metrics = format!("{}/metrics", target.price);
    eventually_quotes(&metrics, 120).await;
    stack.kill(Part::PriceOptimization).await;

    let output = output.await.unwrap().unwrap();
    stack.stop(&CancellationToken::new()).await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let receipt: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(receipt["valid"], false);
    let reasons = receipt["void_reasons"].to_string();
    assert!(reasons.contains("quotes failed"), "{reasons}");
    let events = &receipt["modes"]["events"];
    assert!(events["quotes"].as_u64() > Some(0) && events["errors"].as_u64() > Some(0));
    assert!(
        text(&output).to_lowercase().contains("void"),
        "{}",
        text(&output)
    );
}

/// Waits until the service has told of so many quotes: the load is under way.
async fn eventually_quotes(metrics: &str, count: u64) {
    let client = Client::new(PATIENCE);
    let deadline = Instant::now() + PATIENCE;
    let of_events = |line: &&str| line.starts_with("surge_quotes_total") && line.contains("events");
    loop {
        let answer = client.get(metrics).await.expect("the service runs");
        let told = String::from_utf8_lossy(&answer.body).into_owned();
        let counts = told.lines().filter(of_events);
        let total: f64 = counts
            .filter_map(|line| line.split(' ').next_back()?.parse::<f64>().ok())
            .sum();
        if total >= count as f64 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "only {total} quotes were asked for"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The keys below `path` that hold no figure.
fn unmeasured(path: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Null => vec![path.to_owned()],
        Value::Object(members) => members
            .iter()
            // The quick comparison has one round, and one round has no range.
            .filter(|(key, _)| *key != "capacity_range_per_s")
            .flat_map(|(key, value)| unmeasured(&format!("{path}.{key}"), value))
            .collect(),
        _ => Vec::new(),
    }
}
