//! How long quotes take: the curve of each mode, out to the slowest quotes.

use maud::Markup;
use surge_proto::DataflowMode;

use super::axis::{Axis, number};
use super::chart::{Chart, ChartPoint, ChartSeries, Mark};
use super::palette::Palette;
use crate::report::{CompareReport, CurvePoint};

pub(super) fn section(report: &CompareReport) -> Markup {
    let figures: Vec<Markup> = curve(report).iter().map(Chart::figure).collect();
    super::section(
        "Latency, quote by quote",
        "The share of all quotes that was answered within a time. The far right is where riders \
         lose patience: one quote in a thousand, and the slowest.",
        &figures,
    )
}

fn curve(report: &CompareReport) -> Option<Chart> {
    let curves = report.series.latency_curve.iter();
    let trace =
        |(mode, curve): (&_, &Vec<_>)| Some(trace(*mode, curve, report.modes.get(mode)?.quotes));
    let traces: Vec<ChartSeries> = curves.map(trace).collect::<Option<_>>()?;
    let latencies = traces.iter().flat_map(|trace| &trace.points);
    let most = report.modes.values().map(|figures| figures.quotes).max()?;
    Some(Chart {
        caption: "Latency in ms by percentile, both axes logarithmic. Each line ends at the \
            slowest quote."
            .to_owned(),
        alternative: alternative(report),
        x: Axis::percentiles("percentile", most as f64),
        y: Axis::log("ms", latencies.map(|point| point.y).collect())?,
        rules: Vec::new(),
        traces,
    })
}

fn trace(mode: DataflowMode, curve: &[CurvePoint], quotes: u64) -> ChartSeries {
    // The slowest is drawn at the percentile of the last quote, and not beyond every percentile.
    let slowest = 100.0 - 100.0 / (quotes.max(1) as f64);
    let point = |point: &CurvePoint| {
        let latency_ms = point.latency_us as f64 / 1000.0;
        let share = match point.percentile {
            100.0 => format!("all {quotes}"),
            percentile => format!("{} %", number(percentile)),
        };
        ChartPoint {
            x: point.percentile.min(slowest),
            y: latency_ms,
            hint: format!("{mode}: {share} within {latency_ms:.2} ms"),
        }
    };
    let certain = |point: &&CurvePoint| point.percentile == 100.0 || point.percentile <= slowest;
    ChartSeries {
        name: mode.to_string(),
        colour: Palette::Mode(mode),
        mark: Mark::Line {
            width: 5,
            gap: f64::INFINITY,
        },
        points: curve.iter().filter(certain).map(point).collect(),
    }
}

fn alternative(report: &CompareReport) -> String {
    let ms = |micros: Option<u64>| {
        micros.map_or_else(
            || "unknown".to_owned(),
            |us| format!("{:.1} ms", us as f64 / 1000.0),
        )
    };
    let modes = report.modes.iter().map(|(mode, figures)| {
        let latency = &figures.latency_us;
        let [p50, p99, p999, max] = [latency.p50, latency.p99, latency.p999, latency.max].map(ms);
        format!(
            "{mode}: half within {p50}, 99 % within {p99}, 99.9 % within {p999}, the slowest {max}"
        )
    });
    format!(
        "Latency by percentile. {}.",
        modes.collect::<Vec<_>>().join("; ")
    )
}
