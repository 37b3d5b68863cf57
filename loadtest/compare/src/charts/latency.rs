//! How long quotes take: the curve of each mode, out to the slowest quotes.

use maud::Markup;
use surge_proto::DataflowMode;

use super::axis::{Axis, number};
use super::chart::{Chart, Mark, Point, Trace};
use super::ink::Ink;
use crate::report::Report;
use crate::series::CurvePoint;

pub(super) fn section(report: &Report) -> Markup {
    let figures: Vec<Markup> = curve(report)
        .into_iter()
        .map(|chart| chart.figure())
        .collect();
    super::section(
        "Latency, quote by quote",
        "How much of all quotes was answered within which time. The far right is where riders lose patience: one quote in a \
         thousand, and the slowest.",
        &figures,
    )
}

fn curve(report: &Report) -> Option<Chart> {
    let curves = &report.series.latency_curve;
    let traces: Vec<Trace> = curves
        .iter()
        .map(|(mode, curve)| Some(trace(*mode, curve, report.modes.get(mode)?.quotes)))
        .collect::<Option<_>>()?;
    let latencies = traces.iter().flat_map(|trace| &trace.points);
    let most = report.modes.values().map(|figures| figures.quotes).max()?;
    Some(Chart {
        caption: "Latency in ms by percentile, both axes logarithmic. Each line ends at the slowest quote.".to_owned(),
        in_words: in_words(report),
        x: Axis::nines("percentile", most as f64),
        y: Axis::log("ms", latencies.map(|point| point.y))?,
        rules: Vec::new(),
        traces,
    })
}

fn trace(mode: DataflowMode, curve: &[CurvePoint], quotes: u64) -> Trace {
    // Of so many quotes the slowest is the last of them, and not beyond every percentile.
    let slowest = 100.0 - 100.0 / (quotes.max(1) as f64);
    let point = |point: &CurvePoint| {
        let latency_ms = point.latency_us as f64 / 1000.0;
        let within = match point.percentile {
            100.0 => format!("all {quotes}"),
            percentile => format!("{} %", number(percentile)),
        };
        Point {
            x: point.percentile.min(slowest),
            y: latency_ms,
            hint: format!("{mode}: {within} within {latency_ms:.2} ms"),
        }
    };
    let certain = |point: &&CurvePoint| point.percentile == 100.0 || point.percentile <= slowest;
    Trace {
        name: mode.to_string(),
        ink: Ink::Mode(mode),
        mark: Mark::Line {
            width: 5,
            gap: f64::INFINITY,
        },
        points: curve.iter().filter(certain).map(point).collect(),
    }
}

fn in_words(report: &Report) -> String {
    let ms = |micros: Option<u64>| {
        micros.map_or("unknown".to_owned(), |us| {
            format!("{:.1} ms", us as f64 / 1000.0)
        })
    };
    let modes = report.modes.iter().map(|(mode, figures)| {
        let latency = &figures.latency_us;
        format!(
            "{mode}: half within {}, 99 % within {}, 99.9 % within {}, the slowest {}",
            ms(latency.p50),
            ms(latency.p99),
            ms(latency.p999),
            ms(latency.max)
        )
    });
    let modes: Vec<String> = modes.collect();
    format!("Latency by percentile. {}.", modes.join("; "))
}
