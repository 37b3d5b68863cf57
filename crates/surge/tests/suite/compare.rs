//! The comparison, and the city that it lives on, on a stack of their own: short, so that figures mean nothing, and complete.

use std::time::{Duration, Instant};

use loadtest::{
    Client,
    city::{City, CityConfig},
};
use marketplace::Bounds;
use serde_json::Value;
use surge::Stack;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, project, stack_in, state_folder, surge, text};

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
async fn a_city_that_follows_another_on_the_same_services_sees_what_they_see() {
    let folder = state_folder().unwrap();
    let stack = Stack::start(stack_in(folder.path())).await.unwrap();
    let former = city(&stack, 1).await.unwrap();
    assert_eq!(former.warnings(), [""; 0]);
    let deadline = Instant::now() + PATIENCE;
    while former.progress().requests < 30 {
        assert!(Instant::now() < deadline, "{:?}", former.progress());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(former.stop().await.drivers_left_behind, 0);

    let latter = city(&stack, 2).await.unwrap();
    assert_eq!(latter.warnings(), [""; 0]);
    latter.stop().await;
    stack.stop(&CancellationToken::new()).await.unwrap();
}

/// A city of the bundled evening on these services; at its start it compares its books with them.
async fn city(stack: &Stack, seed: u64) -> anyhow::Result<City> {
    let profile = std::fs::read(project().join(surge::DEMAND_PROFILE))?;
    let evening = project().join("data/uber-pickups-2014-04-04-evening.csv.gz");
    let config = CityConfig {
        target: stack.target(),
        seed,
        fleet: 60,
        profile: serde_json::from_slice(&profile)?,
        pickups: loadtest::pickups::read(evening)?,
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
            // The quick comparison has one round, and one round has no range.
            .filter(|(key, _)| *key != "capacity_range_per_s")
            .flat_map(|(key, value)| unmeasured(&format!("{path}.{key}"), value))
            .collect(),
        _ => Vec::new(),
    }
}
