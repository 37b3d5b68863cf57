//! The colours and line styles of the modes, the same in every dashboard and in the report of a
//! comparison.
//!
//! The colours are from the palette of Okabe and Ito (2008), which people with any common colour
//! blindness can distinguish. The lines also have different dashes, for readers who see no colours.

use serde_json::{Value, json};

/// The style of a mode in charts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeStyle {
    /// The mode's name, with which its series begin.
    pub name: &'static str,
    /// Red, green and blue of its lines on light paper.
    pub rgb: [u8; 3],
    /// The dashes of its lines: lengths of dash and gap in turn; none for a solid line.
    pub dashes: &'static [u32],
}

/// The style of each mode.
pub const MODES: [ModeStyle; 3] = [
    ModeStyle {
        name: "database",
        rgb: [0xD5, 0x5E, 0x00],
        dashes: &[14, 7],
    },
    ModeStyle {
        name: "request",
        rgb: [0x00, 0x72, 0xB2],
        dashes: &[],
    },
    ModeStyle {
        name: "events",
        rgb: [0x00, 0x9E, 0x73],
        dashes: &[4, 6],
    },
];

impl ModeStyle {
    /// The colour as style sheets write it.
    pub fn hex(&self) -> String {
        let [red, green, blue] = self.rgb;
        format!("#{red:02X}{green:02X}{blue:02X}")
    }
}

/// The overrides that give the series of each mode its style in a Grafana panel.
pub(crate) fn overrides() -> Vec<Value> {
    MODES.iter().map(of_mode).collect()
}

fn of_mode(mode: &ModeStyle) -> Value {
    let style = match mode.dashes {
        [] => json!({"fill": "solid"}),
        dashes => json!({"fill": "dash", "dash": dashes}),
    };
    json!({
        "matcher": {"id": "byRegexp", "options": format!("/^{}\\b/", mode.name)},
        "properties": [
            {"id": "color", "value": {"mode": "fixed", "fixedColor": mode.hex()}},
            {"id": "custom.lineStyle", "value": style},
        ],
    })
}
