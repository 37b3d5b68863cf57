//! The colours of the charts: a mode has the same one everywhere, and another line style for those who see no colours.
//!
//! The modes have three colours of the palette of Okabe and Ito (2008), which people with any common colour blindness
//! can tell apart. A drawing carries the light colours; the page's style sheet finds them again and puts its own there.

use std::fmt::Write;

use maud::{Markup, html};
use plotters::style::RGBColor;
use surge_proto::DataflowMode;

/// What something is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    /// What belongs to a mode.
    Mode(DataflowMode),
    /// What is right, or allowed.
    Reference,
    /// What bare servers do.
    Floor,
    /// Words and axes.
    Text,
    /// The lines of the grid.
    Grid,
}

impl Ink {
    const ALL: [Self; 7] = [
        Self::Mode(DataflowMode::Database),
        Self::Mode(DataflowMode::Request),
        Self::Mode(DataflowMode::Events),
        Self::Reference,
        Self::Floor,
        Self::Text,
        Self::Grid,
    ];

    /// The colour in a drawing: different for each ink, so that the style sheet can tell them apart.
    pub(super) const fn colour(self) -> RGBColor {
        match self {
            Self::Mode(DataflowMode::Database) => RGBColor(0xD5, 0x5E, 0x00),
            Self::Mode(DataflowMode::Request) => RGBColor(0x00, 0x72, 0xB2),
            Self::Mode(DataflowMode::Events) => RGBColor(0x00, 0x9E, 0x73),
            Self::Reference => RGBColor(0x1B, 0x20, 0x26),
            Self::Floor => RGBColor(0x8A, 0x93, 0x9E),
            Self::Text => RGBColor(0x4A, 0x52, 0x5C),
            Self::Grid => RGBColor(0xDD, 0xE1, 0xE6),
        }
    }

    /// The colour on dark paper: lighter, of the same hue.
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
    const fn dashes(self) -> &'static str {
        match self {
            Self::Mode(DataflowMode::Database) => "14 7",
            Self::Mode(DataflowMode::Events) => "4 6",
            _ => "none",
        }
    }

    fn hex(self) -> String {
        let RGBColor(red, green, blue) = self.colour();
        format!("#{red:02X}{green:02X}{blue:02X}")
    }
}

/// The rules by which drawings follow the page into the dark.
pub(crate) fn style() -> String {
    let (mut light, mut dark) = (String::new(), String::new());
    for ink in Ink::ALL {
        let (hex, on_dark, dashes) = (ink.hex(), ink.on_dark(), ink.dashes());
        writeln!(
            light,
            "polyline[stroke=\"{hex}\"] {{ stroke-dasharray: {dashes}; }}"
        )
        .expect("a string takes every text");
        writeln!(
            dark,
            "[stroke=\"{hex}\"] {{ stroke: {on_dark}; }} [fill=\"{hex}\"] {{ fill: {on_dark}; }}"
        )
        .expect("a string takes every text");
    }
    format!("{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n")
}

/// Which line is whose.
pub(super) fn legend(entries: &[(Ink, String)]) -> Markup {
    html! {
        p.legend aria-hidden="true" {
            @for (ink, name) in entries {
                span {
                    svg viewBox="0 0 60 16" width="30" height="8" {
                        polyline points="0,8 60,8" fill="none" stroke=(ink.hex()) stroke-width="6" {}
                    }
                    " " (name)
                }
            }
        }
    }
}
