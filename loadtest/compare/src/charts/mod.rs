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

#[cfg(test)]
mod tests {
    use surge_proto::DataflowMode;

    use super::*;
    use crate::report::example;
    use crate::series;

    #[test]
    fn without_figures_there_is_not_even_a_heading() {
        assert_eq!(all(&example()).into_string(), "");
    }

    #[test]
    fn every_chart_has_an_alternative_in_words_and_its_values_on_hover() {
        let mut report = example();
        report.series = series::example();
        let charts = all(&report).into_string();
        // One of latency, four of the course, three of capacity, one zone, four maps.
        assert_eq!(charts.matches("role=\"img\" aria-label=\"").count(), 13);
        for words in [
            "events: 90 % within 0.40 ms",
            "events at 500 quotes/s held: p50 2.0 ms, p99 9.0 ms",
            "database is off by 0.300 on average",
            "1 of 1 zones above 1.0, the dearest at 1.5, 1 off by 0.2 or more",
        ] {
            assert!(charts.contains(words), "{words} is missing");
        }
    }

    #[test]
    fn a_run_without_capacity_has_no_chart_of_it() {
        let mut report = example();
        report.series = series::example();
        report.series.probes.clear();
        let charts = all(&report).into_string();
        assert!(!charts.contains("Latency against"));
        assert!(charts.contains("Second by second"));
    }

    #[test]
    fn a_mode_is_drawn_in_its_own_colour_everywhere() {
        let mut report = example();
        report.series = series::example();
        report.modes.retain(|mode, _| *mode == DataflowMode::Events);
        report
            .series
            .latency_curve
            .retain(|mode, _| *mode == DataflowMode::Events);
        let charts = latency::section(&report).into_string();
        assert!(charts.contains("stroke=\"#009E73\"") && !charts.contains("#0072B2"));
    }
}
