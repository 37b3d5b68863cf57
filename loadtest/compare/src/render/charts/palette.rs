//! The colours of the charts. A mode has the same one everywhere, here and in Grafana
//! ([`dashboards::MODES`]), and dashes of its own for readers who see no colours.
//!
//! A drawing has the colours for light paper. The page's style sheet finds them by their value and
//! puts those for dark paper there.

use std::fmt::Write;

use dashboards::{MODES, ModeStyle};
use maud::{Markup, html};
use plotters::style::RGBColor;
use surge_proto::DataflowMode;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Palette {
    Mode(DataflowMode),
    /// A right value, or a limit.
    Reference,
    /// A bare server.
    Floor,
    /// Words and axes.
    Text,
    /// The lines of the grid.
    Grid,
}

impl Palette {
    const ALL: [Self; 7] = [
        Self::Mode(DataflowMode::Database),
        Self::Mode(DataflowMode::Request),
        Self::Mode(DataflowMode::Events),
        Self::Reference,
        Self::Floor,
        Self::Text,
        Self::Grid,
    ];

    /// On light paper: different for each, so that the style sheet can tell them apart.
    pub(super) fn colour(self) -> RGBColor {
        let [red, green, blue] = match self {
            Self::Mode(mode) => style_of(mode).rgb,
            Self::Reference => [0x1B, 0x20, 0x26],
            Self::Floor => [0x8A, 0x93, 0x9E],
            Self::Text => [0x4A, 0x52, 0x5C],
            Self::Grid => [0xDD, 0xE1, 0xE6],
        };
        RGBColor(red, green, blue)
    }

    /// On dark paper: lighter, of the same hue.
    const fn on_dark(self) -> &'static str {
        match self {
            Self::Mode(DataflowMode::Database) => "#ff9a4d",
            Self::Mode(DataflowMode::Request) => "#5cb8f0",
            Self::Mode(DataflowMode::Events) => "#3fd6a8",
            Self::Reference => "#f2f4f6",
            Self::Floor => "#7d8894",
            Self::Text => "#aab3bd",
            Self::Grid => "#2f363f",
        }
    }

    /// The dashes of its lines, in the units of a drawing.
    fn dashes(self) -> String {
        let dashes = match self {
            Self::Mode(mode) => style_of(mode).dashes,
            _ => &[],
        };
        let dashes: Vec<String> = dashes.iter().map(ToString::to_string).collect();
        if dashes.is_empty() {
            "none".to_owned()
        } else {
            dashes.join(" ")
        }
    }

    fn hex(self) -> String {
        let RGBColor(red, green, blue) = self.colour();
        format!("#{red:02X}{green:02X}{blue:02X}")
    }
}

fn style_of(mode: DataflowMode) -> &'static ModeStyle {
    let style = MODES.iter().find(|style| style.name == mode.as_str());
    style.expect("every mode has a style")
}

/// The rules by which drawings follow the page into the dark.
pub(super) fn style() -> String {
    let (mut light, mut dark) = (String::new(), String::new());
    for colour in Palette::ALL {
        let (hex, on_dark, dashes) = (colour.hex(), colour.on_dark(), colour.dashes());
        let dashes = writeln!(
            light,
            "polyline[stroke=\"{hex}\"] {{ stroke-dasharray: {dashes}; }}"
        );
        let colours = writeln!(
            dark,
            "[stroke=\"{hex}\"] {{ stroke: {on_dark}; }} [fill=\"{hex}\"] {{ fill: {on_dark}; }}"
        );
        dashes.and(colours).expect("a string takes every text");
    }
    format!("{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n")
}

pub(super) fn legend(entries: &[(Palette, String)]) -> Markup {
    html! {
        p.legend aria-hidden="true" {
            @for (colour, name) in entries {
                span {
                    svg viewBox="0 0 60 16" width="30" height="8" {
                        polyline points="0,8 60,8" fill="none" stroke-width="6"
                            stroke=(colour.hex()) {}
                    }
                    " " (name)
                }
            }
        }
    }
}
