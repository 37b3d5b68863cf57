//! The colours and line styles of the modes: those of the comparison's report
//! (`loadtest/compare/src/charts/ink.rs`), from the palette of Okabe and Ito, which people with any
//! common colour blindness can tell apart. A mode looks the same in every panel, whatever else is
//! drawn there.

use serde_json::{Value, json};

/// A mode's name, which its series begin with, its colour, and the dashes of its lines.
pub const MODES: [(&str, &str, &[u32]); 3] = [
    ("database", "#D55E00", &[14, 7]),
    ("request", "#0072B2", &[]),
    ("events", "#009E73", &[4, 6]),
];

/// What makes the series of a mode look like it.
pub(crate) fn overrides() -> Vec<Value> {
    MODES
        .map(|(mode, colour, dashes)| of_mode(mode, colour, dashes))
        .into()
}

fn of_mode(mode: &str, colour: &str, dashes: &[u32]) -> Value {
    let style = match dashes {
        [] => json!({"fill": "solid"}),
        dashes => json!({"fill": "dash", "dash": dashes}),
    };
    json!({
        "matcher": {"id": "byRegexp", "options": format!("/^{mode}\\b/")},
        "properties": [
            {"id": "color", "value": {"mode": "fixed", "fixedColor": colour}},
            {"id": "custom.lineStyle", "value": style},
        ],
    })
}
