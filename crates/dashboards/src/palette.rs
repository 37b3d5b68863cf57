//! The styles of the modes' lines in Grafana, the same in every dashboard.

use serde_json::{Value, json};
use surge_proto::DataflowMode;

/// The overrides that give the series of each mode its style in a Grafana panel.
pub(crate) fn overrides() -> Vec<Value> {
    DataflowMode::ALL.into_iter().map(of_mode).collect()
}

fn of_mode(mode: DataflowMode) -> Value {
    let profile = mode.profile();
    let style = match profile.dashes {
        [] => json!({"fill": "solid"}),
        dashes => json!({"fill": "dash", "dash": dashes}),
    };
    let [red, green, blue] = profile.rgb;
    let colour = format!("#{red:02X}{green:02X}{blue:02X}");
    json!({
        "matcher": {"id": "byRegexp", "options": format!("/^{mode}\\b/")},
        "properties": [
            {"id": "color", "value": {"mode": "fixed", "fixedColor": colour}},
            {"id": "custom.lineStyle", "value": style},
        ],
    })
}
