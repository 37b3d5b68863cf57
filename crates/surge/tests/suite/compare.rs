//! The comparison from the command line, on a stack of its own: short, so that its figures mean nothing, and complete.

use serde_json::Value;
use surge::Stack;
use tokio_util::sync::CancellationToken;

use crate::support::{stack_in, state_folder, surge, text};

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
