//! The comparison and its city on a stack of their own: complete runs, too short for meaningful
//! figures.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use city::{City, CityConfig, Client};
use marketplace::Bounds;
use serde_json::Value;
use surge::{Part, Stack, StackSettings};
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, alone, project, stack_in, surge, text};

/// On a machine that is busy with other tests a run may be void, and says so: then it is made
/// again.
const RUNS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_of_report_is_measured() {
    let folder = alone().unwrap();
    let stack = Stack::start(stack_in(folder.path())).await.unwrap();
    let target = stack.target();
    let json = folder.path().join("compare.json");
    let page = folder.path().join("compare.html");
    let compare = |rate: &str| {
        // So few drivers that prices move at once: in a calm market the errors are not trusted.
        let options = ["compare", "--quick", "--fleet", "60", "--rate", rate];
        let mut compare = surge(folder.path(), &options);
        compare
            .args(["--target", &target.price])
            .args(["--driver-url", &target.driver, "--ride-url", &target.ride])
            .args(["--city-url", &stack.city_url()])
            .args([OsStr::new("--json"), json.as_ref()])
            .args([OsStr::new("--html"), page.as_ref()]);
        compare
    };
    let mut output = output_of(compare("60")).await;
    for _ in 1..RUNS {
        if output.status.success() {
            break;
        }
        output = output_of(compare("60")).await;
    }
    let written = fs::read(&json).unwrap();
    let mut another = compare("61");
    another.args([OsStr::new("--baseline"), json.as_ref()]);
    let refused = output_of(another).await;
    stack.stop(&CancellationToken::new()).await.unwrap();

    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
    assert!(
        text(&refused).contains("rate: 60 then, 61 now"),
        "{}",
        text(&refused)
    );
    assert_eq!(fs::read(&json).unwrap(), written);
    full_disk_costs_no_figures(folder.path(), &json).await;

    let report: Value = serde_json::from_slice(&written).unwrap();
    is_drawn(&report["series"], &fs::read_to_string(&page).unwrap());
    for part in ["modes", "floors", "generator"] {
        let unmeasured = unmeasured(part, &report[part]);
        assert_eq!(unmeasured, [""; 0], "{}", text(&output));
    }
    let share = &report["modes"]["events"]["share_of_floor"];
    assert!(share.as_f64().is_some_and(|share| share > 0.0), "{share}");
}

/// Something of everything was recorded, and the page has charts of it.
fn is_drawn(series: &Value, page: &str) {
    let events = |key: &str| series[key]["events"].as_array().map_or(0, Vec::len);
    assert!(
        events("latency_curve") > 0 && events("timeline") >= 10,
        "{series}"
    );
    let zones = |side: &Value| side.as_object().map_or(0, |zones| zones.len());
    let moment = &series["map"][0];
    let (quoted, right) = (zones(&moment["quoted"]["events"]), zones(&moment["oracle"]));
    assert!(quoted > 20 && quoted == right, "{quoted} of {right} zones");
    for key in ["probes", "zones"] {
        assert!(series[key].get(0).is_some(), "{key}");
    }
    assert!(page.matches("role=\"img\"").count() > 10);
}

async fn full_disk_costs_no_figures(folder: &Path, json: &Path) {
    let mut redraw = surge(folder, &["compare", "--html", "/dev/full", "--from"]);
    redraw.arg(json);
    let output = output_of(redraw).await;
    assert_eq!(output.status.code(), Some(1));
    let (printed, complaint) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(printed.contains("latency"), "{printed}");
    assert!(
        complaint.contains("No space left") && complaint.contains("--html"),
        "{complaint}"
    );
}

async fn output_of(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("waiting does not panic")
        .expect("the command was built beside this test")
}

#[tokio::test(flavor = "multi_thread")]
async fn dying_service_voids_run_everywhere() {
    let folder = alone().unwrap();
    let mut stack = Stack::start(stack_in(folder.path())).await.unwrap();
    let target = stack.target();
    let json = folder.path().join("compare.json");
    let options = "compare --rate 60 --seconds 8 --warmup-minutes 0 --rounds 0 --modes events";
    let options: Vec<&str> = options.split(' ').collect();
    let mut compare = surge(folder.path(), &options);
    compare
        .args(["--target", &target.price])
        .args(["--driver-url", &target.driver, "--ride-url", &target.ride])
        .args(["--city-url", &stack.city_url()])
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
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(report["valid"], false);
    let reasons = report["void_reasons"].to_string();
    assert!(reasons.contains("quotes failed"), "{reasons}");
    let events = &report["modes"]["events"];
    assert!(events["quotes"].as_u64() > Some(0) && events["errors"].as_u64() > Some(0));
    assert!(
        text(&output).to_lowercase().contains("void"),
        "{}",
        text(&output)
    );
}

/// Waits until the service has counted `count` quotes, so that the load runs.
async fn eventually_quotes(metrics: &str, count: u64) {
    let client = Client::new(PATIENCE);
    let deadline = Instant::now() + PATIENCE;
    let of_events = |line: &&str| line.starts_with("surge_quotes_total") && line.contains("events");
    loop {
        let answer = client.get(metrics).await.expect("the service runs");
        let metrics = String::from_utf8_lossy(&answer.body).into_owned();
        let counts = metrics.lines().filter(of_events);
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

/// A stack has one city: a second one refuses, and a comparison asks the first for the truth.
#[tokio::test(flavor = "multi_thread")]
async fn comparison_joins_the_living_city() {
    let folder = alone().unwrap();
    let evening = project().join("data/uber-pickups-2014-04-04-evening.csv.gz");
    let options = [
        "--fleet=60".to_owned(),
        format!("--pickups={}", evening.display()),
        format!(
            "--profile={}",
            project().join(surge::DEMAND_PROFILE).display()
        ),
    ];
    let stack = Stack::start(StackSettings {
        city: Some(options.to_vec()),
        ..stack_in(folder.path())
    });
    let stack = stack.await.unwrap();
    let (target, city_url) = (stack.target(), stack.city_url());
    let on_the_stack = |options: &[&str]| {
        let mut command = surge(folder.path(), options);
        command
            .args(["--target", &target.price, "--city-url", &city_url])
            .args(["--driver-url", &target.driver, "--ride-url", &target.ride]);
        command
    };
    let refused = output_of(on_the_stack(&["city", "--fleet", "60"])).await;
    assert_eq!(refused.status.code(), Some(1));
    let words = text(&refused);
    assert!(
        words.contains(&city_url) && words.lines().count() == 1,
        "{words}"
    );

    let json = folder.path().join("compare.json");
    let mut compare = on_the_stack(&["compare", "--quick", "--rounds", "0", "--rate", "60"]);
    compare.arg("--json").arg(&json);
    compare
        .arg("--html")
        .arg(folder.path().join("compare.html"));
    let joined = output_of(compare).await;
    let truth: Value = Client::new(PATIENCE)
        .get(&format!("{city_url}/v1/truth"))
        .await
        .expect("the city lives on")
        .json()
        .unwrap();
    stack.stop(&CancellationToken::new()).await.unwrap();
    assert_eq!(
        truth["distrust"],
        serde_json::json!([]),
        "{}",
        truth["progress"]
    );
    assert!(text(&joined).contains("joins it"), "{}", text(&joined));
    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let error = &report["modes"]["request"]["multiplier_error"]["mean_abs"];
    let untrusted = &report["untrusted_oracle"];
    assert!(
        error.as_f64().is_some_and(|error| error < 0.02),
        "{error} {untrusted}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn second_city_agrees_with_services() {
    let folder = alone().unwrap();
    let stack = Stack::start(stack_in(folder.path())).await.unwrap();
    let former = city(&stack, 1).await.unwrap();
    assert_eq!(former.distrust(), [""; 0]);
    let deadline = Instant::now() + PATIENCE;
    while former.progress().requests < 30 {
        assert!(Instant::now() < deadline, "{:?}", former.progress());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(former.stop().await.drivers_left_behind, 0);

    let latter = city(&stack, 2).await.unwrap();
    assert_eq!(latter.distrust(), [""; 0]);
    latter.stop().await;
    stack.stop(&CancellationToken::new()).await.unwrap();
}

/// A city of the bundled evening on these services; at its start it compares its ground truth with
/// them.
async fn city(stack: &Stack, seed: u64) -> anyhow::Result<City> {
    let profile = std::fs::read(project().join(surge::DEMAND_PROFILE))?;
    let evening = project().join("data/uber-pickups-2014-04-04-evening.csv.gz");
    let config = CityConfig {
        target: stack.target(),
        seed,
        fleet: 60,
        profile: serde_json::from_slice(&profile)?,
        pickups: city::pickups::read(evening)?,
        service_area: Bounds::NEW_YORK,
        crowds: Vec::new(),
    };
    let client = Client::new(Duration::from_secs(5));
    City::start(config, client).await
}

/// The keys below `path` that hold no figure.
fn unmeasured(path: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Null => vec![path.to_owned()],
        Value::Object(members) => members
            .iter()
            .flat_map(|(key, value)| unmeasured(&format!("{path}.{key}"), value))
            .collect(),
        _ => Vec::new(),
    }
}
