//! The colours of the charts. A mode has the same one everywhere, here and in Grafana
//! ([`DataflowMode::profile`]), and dashes of its own for readers who see no colours.
//!
//! A drawing has the colours for light paper. The page's style sheet finds them by their value and
//! puts those for dark paper there.

use std::fmt::Write;

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
    fn all() -> impl Iterator<Item = Self> {
        let modes = DataflowMode::ALL.into_iter().map(Self::Mode);
        modes.chain([Self::Reference, Self::Floor, Self::Text, Self::Grid])
    }

    /// On light paper: different for each, so that the style sheet can tell them apart.
    pub(super) fn colour(self) -> RGBColor {
        let [red, green, blue] = match self {
            Self::Mode(mode) => mode.profile().rgb,
            Self::Reference => [0x1B, 0x20, 0x26],
            Self::Floor => [0x8A, 0x93, 0x9E],
            Self::Text => [0x4A, 0x52, 0x5C],
            Self::Grid => [0xDD, 0xE1, 0xE6],
        };
        RGBColor(red, green, blue)
    }

    /// On dark paper: lighter, of the same hue.
    fn on_dark(self) -> String {
        let [red, green, blue] = match self {
            Self::Mode(mode) => mode.profile().rgb_on_dark,
            Self::Reference => [0xF2, 0xF4, 0xF6],
            Self::Floor => [0x7D, 0x88, 0x94],
            Self::Text => [0xAA, 0xB3, 0xBD],
            Self::Grid => [0x2F, 0x36, 0x3F],
        };
        format!("#{red:02x}{green:02x}{blue:02x}")
    }

    /// The dashes of its lines, in the units of a drawing.
    fn dashes(self) -> String {
        let dashes = match self {
            Self::Mode(mode) => mode.profile().dashes,
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

/// The rules by which drawings follow the page into the dark.
pub(super) fn style() -> String {
    let (mut light, mut dark) = (String::new(), String::new());
    for colour in Palette::all() {
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
