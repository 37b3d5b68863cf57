//! The charts of the page: SVG without script, so that they open anywhere, print, and follow the
//! reader's light or dark.
//!
//! A chart is first described ([`chart::Chart`]: axes, traces, rules) and then drawn, all by the
//! same few lines. A chart without data is left out, down to its heading: there are no empty axes.

mod axis;
mod capacity;
mod chart;
mod choice;
mod latency;
mod map;
mod palette;
mod timeline;

use maud::{Markup, html};

use crate::report::CompareReport;
use crate::wording::validity;

pub(crate) fn all(report: &CompareReport) -> Markup {
    html! {
        (latency::section(report))
        (timeline::section(report))
        (capacity::section(report))
        (timeline::zones(report))
        (map::section(report))
        @if !report.untrusted_oracle.is_empty() {
            h2 { "Not drawn: the multiplier error, and the prices of the city" }
            p { (validity::error_not_shown(&report.untrusted_oracle)) }
        }
    }
}

/// The rules of all charts, to go into the page's style sheet.
pub(crate) fn style() -> String {
    [LAYOUT, choice::STYLE, map::STYLE, &palette::style()].concat()
}

const LAYOUT: &str = "
.charts { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
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

#[cfg(test)]
mod tests {
    use surge_proto::DataflowMode;

    use super::*;
    use crate::report::{example, example_with_series};

    #[test]
    fn no_data_gives_no_heading() {
        assert_eq!(all(&example()).into_string(), "");
    }

    #[test]
    fn every_chart_has_alternative_and_hover_values() {
        let charts = all(&example_with_series()).into_string();
        // One of latency, four of the course, three of capacity, one zone, four maps.
        assert_eq!(charts.matches("role=\"img\" aria-label=\"").count(), 13);
        for words in [
            "events: 90 % within 0.40 ms",
            "events at 500 quotes/s, sustained: p50 2.0 ms, p99 9.0 ms",
            "database is wrong by 0.300 on average",
            "1 of 1 zones above 1.0, the most expensive at 1.5, 1 wrong by 0.2 or more",
        ] {
            assert!(charts.contains(words), "{words} is missing");
        }
    }

    #[test]
    fn run_without_capacity_has_no_load_chart() {
        let mut report = example_with_series();
        report.series.probes.clear();
        let charts = all(&report).into_string();
        assert!(!charts.contains("Latency under load"));
        assert!(charts.contains("Second by second"));
    }

    #[test]
    fn mode_has_its_own_colour_everywhere() {
        let mut report = example_with_series();
        report.modes.retain(|mode, _| *mode == DataflowMode::Events);
        report
            .series
            .latency_curve
            .retain(|mode, _| *mode == DataflowMode::Events);
        let charts = latency::section(&report).into_string();
        assert!(charts.contains("stroke=\"#009E73\"") && !charts.contains("#0072B2"));
    }
}
