//! The course of the measurement: data age and latency second by second, and the multiplier of the busiest zones.

use marketplace::Multiplier;
use maud::{Markup, html};
use surge_proto::DataflowMode;

use super::axis::Axis;
use super::chart::{Chart, Mark, Point, Trace};
use super::choice;
use super::ink::Ink;
use crate::report::Report;
use crate::series::{Interval, ZoneCourse};

pub(super) fn section(report: &Report) -> Markup {
    let charts = [
        data_age(report),
        multiplier_error(report),
        latency(report),
        errors(report),
    ];
    let figures: Vec<Markup> = charts.iter().flatten().map(Chart::figure).collect();
    super::section(
        "Second by second",
        "The same quotes in the order in which they were asked: a batch job shows as a saw, an outage as a gap.",
        &figures,
    )
}

/// The multiplier in the busiest zones, of which the reader chooses one.
pub(super) fn zones(report: &Report) -> Markup {
    let chart = |zone: &ZoneCourse| Some((place(zone), multipliers(report, zone)?.figure()));
    let charts: Vec<_> = report.series.zones.iter().filter_map(chart).collect();
    html! {
        @if !charts.is_empty() {
            h2 { "The price of one zone" }
            p {
                "What each dataflow quoted for the same pickups, over what was right at that instant. The zones are those that \
                 were asked for most."
            }
            (choice::one_of("Zone, by the middle of it:", "zone", &charts))
        }
    }
}

fn data_age(report: &Report) -> Option<Chart> {
    let age_s = |interval: &Interval| Some(interval.data_age_ms_p50? / 1000.0);
    let chart = over_time(report, "s", age_s, Axis::log)?;
    Some(Chart {
        caption: "Age of the data behind the prices in s, the median of each second; logarithmic."
            .to_owned(),
        in_words: spans(report, "Age of the data behind the prices", "s", age_s),
        ..chart
    })
}

fn multiplier_error(report: &Report) -> Option<Chart> {
    let error = |interval: &Interval| interval.multiplier_error_mean_abs;
    let chart = over_time(report, "mean |Δ|", error, |name, values| {
        Axis::linear(name, values)
    })?;
    Some(Chart {
        caption: "Distance of the multiplier from what was right, the mean of each second."
            .to_owned(),
        in_words: spans(
            report,
            "Distance of the multiplier from what was right",
            "",
            error,
        ),
        ..chart
    })
}

fn latency(report: &Report) -> Option<Chart> {
    let p99_ms = |interval: &Interval| Some(interval.latency_us_p99? as f64 / 1000.0);
    let chart = over_time(report, "ms", p99_ms, Axis::log)?;
    Some(Chart {
        caption: "Latency in ms, 99 of 100 quotes of each second within it; logarithmic."
            .to_owned(),
        in_words: spans(report, "Latency of 99 in 100 quotes", "ms", p99_ms),
        ..chart
    })
}

/// Only where there were any: a flat line at zero tells less than the table.
fn errors(report: &Report) -> Option<Chart> {
    let mut intervals = report.series.timeline.values().flatten();
    if intervals.all(|interval| interval.errors == 0) {
        return None;
    }
    let errors = |interval: &Interval| Some(interval.errors as f64);
    let chart = over_time(report, "errors", errors, |name, values| {
        Axis::linear(name, values)
    })?;
    Some(Chart {
        caption:
            "Quotes that were not answered, or wrongly, of those meant to leave in each second."
                .to_owned(),
        in_words: spans(report, "Quotes without a right answer", "a second", errors),
        ..chart
    })
}

/// A figure of every mode over the seconds of the measurement; without caption.
fn over_time(
    report: &Report,
    unit: &'static str,
    figure: impl Fn(&Interval) -> Option<f64>,
    axis: impl Fn(&'static str, std::vec::IntoIter<f64>) -> Option<Axis>,
) -> Option<Chart> {
    let timeline = report.series.timeline.iter();
    let traces: Vec<Trace> = timeline
        .map(|(mode, intervals)| {
            let figures = intervals.iter().map(&figure);
            line(report, Ink::Mode(*mode), mode.as_str(), unit, figures)
        })
        .collect();
    let places = |of: fn(&Point) -> f64| {
        let points = traces.iter().flat_map(|trace| &trace.points);
        points.map(of).collect::<Vec<f64>>()
    };
    Some(Chart {
        caption: String::new(),
        in_words: String::new(),
        x: Axis::linear("seconds", places(|point| point.x).into_iter())?,
        y: axis(unit, places(|point| point.y).into_iter())?,
        rules: Vec::new(),
        traces,
    })
}

fn line(
    report: &Report,
    ink: Ink,
    name: &str,
    unit: &str,
    figures: impl Iterator<Item = Option<f64>>,
) -> Trace {
    let interval_s = f64::from(report.series.interval_s);
    let point = |(interval, figure): (usize, Option<f64>)| {
        let (x, y) = (interval as f64 * interval_s, figure?);
        Some(Point {
            x,
            y,
            hint: format!("{name}, second {x:.0}: {} {unit}", short(y)),
        })
    };
    Trace {
        name: name.to_owned(),
        ink,
        mark: Mark::Line {
            width: if ink == Ink::Reference { 9 } else { 4 },
            gap: interval_s * MOST_MISSING,
        },
        points: figures.enumerate().filter_map(point).collect(),
    }
}

/// A line leaps over this many intervals; more without a quote are shown as a gap.
const MOST_MISSING: f64 = 5.0;

/// Three digits that count.
fn short(value: f64) -> String {
    let decimals = (2 - value.abs().max(0.001).log10().floor() as i32).clamp(0, 3);
    format!("{value:.*}", decimals as usize)
}

fn multipliers(report: &Report, zone: &ZoneCourse) -> Option<Chart> {
    let course = |ink, name: &str, multipliers: &[Option<Multiplier>]| {
        let multipliers = multipliers
            .iter()
            .map(|multiplier| Some(multiplier.as_ref()?.as_f64()));
        line(report, ink, name, "", multipliers)
    };
    let mut traces = vec![course(Ink::Reference, "right (oracle)", &zone.oracle)];
    let quoted = zone.quoted.iter();
    traces.extend(quoted.map(|(mode, quoted)| course(Ink::Mode(*mode), mode.as_str(), quoted)));
    let points = || traces.iter().flat_map(|trace| &trace.points);
    Some(Chart {
        caption: format!(
            "Surge multiplier in zone {}, the last quote of each second.",
            zone.zone
        ),
        in_words: differences(zone),
        x: Axis::linear("seconds", points().map(|point| point.x))?,
        y: Axis::linear("multiplier", points().map(|point| point.y))?,
        rules: Vec::new(),
        traces,
    })
}

/// Where the zone is, for a reader who has a map.
fn place(zone: &ZoneCourse) -> String {
    let centre = zone.zone.centre();
    format!(
        "{:.3}, {:.3} ({} quotes)",
        centre.lat(),
        centre.lon(),
        zone.quotes
    )
}

fn differences(zone: &ZoneCourse) -> String {
    let modes = zone.quoted.iter().filter_map(|(mode, quoted)| {
        let pairs = quoted.iter().zip(&zone.oracle);
        let differences: Vec<f64> = pairs
            .filter_map(|(quoted, oracle)| {
                Some((quoted.as_ref()?.as_f64() - oracle.as_ref()?.as_f64()).abs())
            })
            .collect();
        let mean = differences.iter().sum::<f64>() / differences.len() as f64;
        mean.is_finite()
            .then(|| format!("{mode} is off by {mean:.3} on average"))
    });
    let modes: Vec<String> = modes.collect();
    format!(
        "Surge multiplier of zone {} over time. {}.",
        zone.zone,
        modes.join("; ")
    )
}

/// The lowest and the highest figure of each mode.
fn spans(
    report: &Report,
    what: &str,
    unit: &str,
    figure: impl Fn(&Interval) -> Option<f64>,
) -> String {
    let span = |(mode, intervals): (&DataflowMode, &Vec<Interval>)| {
        let figures = || intervals.iter().filter_map(&figure);
        let (least, greatest) = (figures().reduce(f64::min)?, figures().reduce(f64::max)?);
        Some(format!(
            "{mode}: {} to {} {unit}",
            short(least),
            short(greatest)
        ))
    };
    let spans: Vec<String> = report.series.timeline.iter().filter_map(span).collect();
    format!("{what}, second by second. {}.", spans.join("; "))
}
