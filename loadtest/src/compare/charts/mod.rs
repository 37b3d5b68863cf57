//! The charts of the page: SVG without script, so that they open anywhere, print, and follow the reader's light or dark.
//!
//! A chart is first said ([`chart::Chart`]: axes, traces, rules) and then drawn, all by the same few lines. Whatever was
//! not measured is left out, down to the heading: there are no empty axes.

mod axis;
mod capacity;
mod chart;
mod choice;
mod course;
mod ink;
mod latency;
mod map;

use maud::{Markup, html};

use super::report::Report;

/// Every chart there are figures for.
pub(crate) fn all(report: &Report) -> Markup {
    html! {
        (latency::section(report))
        (course::section(report))
        (capacity::section(report))
        (course::zones(report))
        (map::section(report))
    }
}

/// The rules of all charts, to go into the page's style sheet.
pub(crate) fn style() -> String {
    [LAYOUT, choice::STYLE, map::STYLE, &ink::style()].concat()
}

const LAYOUT: &str = "
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.25rem; }
figure { margin: .5rem 0; min-width: 0; max-width: 36rem; }
figure > svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; color: var(--quiet); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem; margin: 0 0 .25rem; }
";

/// A heading over charts; nothing at all without charts.
fn section(title: &str, words: &str, figures: &[Markup]) -> Markup {
    html! {
        @if !figures.is_empty() {
            h2 { (title) }
            p { (words) }
            div.charts { @for figure in figures { (figure) } }
        }
    }
}
