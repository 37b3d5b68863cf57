//! The course of the measurement: data age, error and latency second by second, and the multiplier
//! of the busiest zones.

use marketplace::Multiplier;
use maud::{Markup, html};

use super::axis::Axis;
use super::chart::{Chart, ChartPoint, ChartSeries, Mark};
use super::choice;
use super::palette::Palette;
use crate::report::{CompareReport, Interval, ZoneSeries};
use crate::statistics::mean;

pub(super) fn section(report: &CompareReport) -> Markup {
    let figures = CHARTS
        .iter()
        .filter_map(|chart| Some(over_time(report, chart)?.figure()));
    super::section(
        "Second by second",
        "The same quotes in the order in which they were requested: a batch job shows as a saw, \
         an outage as a gap.",
        &figures.collect::<Vec<_>>(),
    )
}

struct TimeChart {
    caption: &'static str,
    /// The quantity and its unit, for readers who do not see the chart.
    quantity: &'static str,
    unit: &'static str,
    logarithmic: bool,
    figure: fn(&Interval) -> Option<f64>,
    /// Whether a chart of nothing but zeros is drawn: a flat line at zero says less than the table.
    draws_zero: bool,
}

const CHARTS: [TimeChart; 4] = [
    TimeChart {
        caption: "Age of the data behind the prices in s, the median of each second; logarithmic.",
        quantity: "Age of the data behind the prices",
        unit: "s",
        logarithmic: true,
        figure: |interval| Some(interval.data_age_ms_p50? / 1000.0),
        draws_zero: true,
    },
    TimeChart {
        caption: "Distance of the multiplier from the right one, the mean of each second.",
        quantity: "Distance of the multiplier from the right one",
        unit: "mean |Δ|",
        logarithmic: false,
        figure: |interval| interval.multiplier_error_mean_abs,
        draws_zero: true,
    },
    TimeChart {
        caption: "Latency in ms, 99 of 100 quotes of each second within it; logarithmic.",
        quantity: "Latency of 99 in 100 quotes",
        unit: "ms",
        logarithmic: true,
        figure: |interval| Some(interval.latency_us_p99? as f64 / 1000.0),
        draws_zero: true,
    },
    TimeChart {
        caption: "Quotes that were not answered, or wrongly, of those meant to leave in each \
            second.",
        quantity: "Quotes without a right answer",
        unit: "errors",
        logarithmic: false,
        figure: |interval| Some(interval.errors as f64),
        draws_zero: false,
    },
];

fn over_time(report: &CompareReport, chart: &TimeChart) -> Option<Chart> {
    let timeline = report.series.timeline.iter();
    let traces = timeline.map(|(mode, intervals)| {
        let figures = intervals.iter().map(chart.figure);
        line(
            report,
            Palette::Mode(*mode),
            mode.as_str(),
            chart.unit,
            figures,
        )
    });
    let traces: Vec<ChartSeries> = traces.collect();
    let points = || traces.iter().flat_map(|trace| &trace.points);
    let axis = if chart.logarithmic {
        Axis::log
    } else {
        Axis::linear
    };
    if !chart.draws_zero && points().all(|point| point.y == 0.0) {
        return None;
    }
    // The lowest and the highest figure of each mode.
    let ranges = traces.iter().filter_map(|trace| {
        let values = || trace.points.iter().map(|point| point.y);
        let (least, greatest) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
        Some(format!(
            "{}: {} to {} {}",
            trace.name,
            short(least),
            short(greatest),
            chart.unit
        ))
    });
    Some(Chart {
        caption: chart.caption.to_owned(),
        alternative: format!(
            "{}, second by second. {}.",
            chart.quantity,
            ranges.collect::<Vec<_>>().join("; ")
        ),
        x: Axis::linear("seconds", points().map(|point| point.x).collect())?,
        y: axis(chart.unit, points().map(|point| point.y).collect())?,
        rules: Vec::new(),
        traces,
    })
}

fn line(
    report: &CompareReport,
    colour: Palette,
    name: &str,
    unit: &str,
    figures: impl Iterator<Item = Option<f64>>,
) -> ChartSeries {
    // A line leaps over this many intervals; more without a quote are shown as a gap.
    const MOST_MISSING: f64 = 5.0;
    let interval_s = f64::from(report.series.interval_s);
    let point = |(interval, figure): (usize, Option<f64>)| {
        let (x, y) = (interval as f64 * interval_s, figure?);
        let hint = format!("{name}, second {x:.0}: {} {unit}", short(y));
        Some(ChartPoint { x, y, hint })
    };
    ChartSeries {
        name: name.to_owned(),
        colour,
        mark: Mark::Line {
            width: if colour == Palette::Reference { 9 } else { 4 },
            gap: interval_s * MOST_MISSING,
        },
        points: figures.enumerate().filter_map(point).collect(),
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    let decimals = (2 - value.abs().max(0.001).log10().floor() as i32).clamp(0, 3);
    format!("{value:.*}", decimals as usize)
}

/// The multiplier in the busiest zones, of which the reader chooses one.
pub(super) fn zones(report: &CompareReport) -> Markup {
    let chart = |zone: &ZoneSeries| Some((label(zone), multipliers(report, zone)?.figure()));
    let charts: Vec<_> = report.series.zones.iter().filter_map(chart).collect();
    html! {
        @if !charts.is_empty() {
            h2 { "The price of one zone" }
            p {
                "What each dataflow quoted for the same pickups"
                @if report.untrusted_oracle.is_empty() {
                    ", over the right multiplier at that instant"
                }
                ". The zones are those with the most quotes."
            }
            (choice::one_of("Zone, by its middle:", "zone", &charts))
        }
    }
}

fn multipliers(report: &CompareReport, zone: &ZoneSeries) -> Option<Chart> {
    let series = |colour, name: &str, multipliers: &[Option<Multiplier>]| {
        let values = multipliers
            .iter()
            .map(|multiplier| Some(multiplier.as_ref()?.as_f64()));
        line(report, colour, name, "", values)
    };
    let mut traces = vec![series(Palette::Reference, "right (oracle)", &zone.oracle)];
    let quoted = zone.quoted.iter();
    traces.extend(quoted.map(|(mode, quoted)| series(Palette::Mode(*mode), mode.as_str(), quoted)));
    let points = || traces.iter().flat_map(|trace| &trace.points);
    Some(Chart {
        caption: format!(
            "Surge multiplier in zone {}, the last quote of each second.",
            zone.zone
        ),
        alternative: differences(zone),
        x: Axis::linear("seconds", points().map(|point| point.x).collect())?,
        y: Axis::linear("multiplier", points().map(|point| point.y).collect())?,
        rules: Vec::new(),
        traces,
    })
}

/// The position of the zone, for a reader who has a map.
fn label(zone: &ZoneSeries) -> String {
    let centre = zone.zone.centre();
    format!(
        "{:.3}, {:.3} ({} quotes)",
        centre.lat(),
        centre.lon(),
        zone.quotes
    )
}

fn differences(zone: &ZoneSeries) -> String {
    let modes = zone.quoted.iter().filter_map(|(mode, quoted)| {
        let pairs = quoted.iter().zip(&zone.oracle);
        let difference = |(quoted, oracle): (&Option<Multiplier>, &Option<Multiplier>)| {
            Some((quoted.as_ref()?.as_f64() - oracle.as_ref()?.as_f64()).abs())
        };
        let mean = mean(&pairs.filter_map(difference).collect::<Vec<_>>())?;
        Some(format!("{mode} is wrong by {mean:.3} on average"))
    });
    let modes = modes.collect::<Vec<_>>().join("; ");
    format!("Surge multiplier of zone {} over time. {modes}.", zone.zone)
}
