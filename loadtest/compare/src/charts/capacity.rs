//! What becomes of latency as more is asked: every rate that was tried, of each mode and of the floor under it.

use maud::Markup;
use surge_proto::DataflowMode;

use super::axis::{Axis, number};
use super::chart::{Chart, Mark, Point, Rule, Trace};
use super::ink::Ink;
use crate::capacity::LIMIT;
use crate::report::Report;
use crate::series::Probe;

pub(super) fn section(report: &Report) -> Markup {
    let charts = report.modes.keys().filter_map(|mode| chart(report, *mode));
    let figures: Vec<Markup> = charts.map(|chart| chart.figure()).collect();
    super::section(
        "Latency against what is asked",
        "Each point is a rate that was tried while the capacities were looked for: a dot held, a cross did not; where it is \
         below the limit, quotes took longer and longer. The upright line is the capacity, the grey ones belong to the bare \
         server that stands on the same.",
        &figures,
    )
}

fn chart(report: &Report, mode: DataflowMode) -> Option<Chart> {
    let probes: Vec<&Probe> = report
        .series
        .probes
        .iter()
        .filter(|probe| probe.mode == mode && !probe.repeated)
        .collect();
    if !probes
        .iter()
        .any(|probe| !probe.floor && probe.latency_us.p99.is_some())
    {
        return None;
    }
    let mode_ink = Ink::Mode(mode);
    let name = mode.as_str();
    let traces: Vec<Trace> = [
        (true, true, Ink::Floor, "its floor"),
        (true, false, Ink::Floor, "its floor"),
        (false, true, mode_ink, name),
        (false, false, mode_ink, name),
    ]
    .map(|(floor, held, ink, name)| {
        let kind = probes
            .iter()
            .filter(|probe| probe.floor == floor && probe.held == held);
        trace(name, ink, held, kind.copied())
    })
    .into();
    let points = || traces.iter().flat_map(|trace| &trace.points);
    let limit_ms = LIMIT.as_secs_f64() * 1000.0;
    Some(Chart {
        caption: format!(
            "{name}: 99 of 100 quotes within so many ms, by quotes asked a second; both axes logarithmic. \
                          The line across is the limit of {limit_ms:.0} ms."
        ),
        in_words: in_words(report, mode),
        x: Axis::log("quotes/s", points().map(|point| point.x))?,
        y: Axis::log("ms", points().map(|point| point.y).chain([limit_ms]))?,
        rules: rules(report, mode, limit_ms),
        traces,
    })
}

fn trace<'a>(name: &str, ink: Ink, held: bool, probes: impl Iterator<Item = &'a Probe>) -> Trace {
    let point = |probe: &Probe| {
        let ms = |micros: u64| micros as f64 / 1000.0;
        let (p50, p99) = (ms(probe.latency_us.p50?), ms(probe.latency_us.p99?));
        let rate = f64::from(probe.rate_per_s);
        let verdict = if held { "held" } else { "did not hold" };
        Some(Point {
            x: rate,
            y: p99,
            hint: format!(
                "{name} at {} quotes/s {verdict}: p50 {p50:.1} ms, p99 {p99:.1} ms",
                number(rate)
            ),
        })
    };
    Trace {
        name: name.to_owned(),
        ink,
        mark: if held { Mark::Dots } else { Mark::Crosses },
        points: probes.filter_map(point).collect(),
    }
}

fn rules(report: &Report, mode: DataflowMode, limit_ms: f64) -> Vec<Rule> {
    let floor = report.floors.under(mode).capacity_per_s;
    let own = report.modes[&mode].capacity_per_s;
    let upright = |capacity: Option<f64>, ink| capacity.map(|rate| Rule::Upright(rate, ink));
    [
        Some(Rule::Across(limit_ms, Ink::Reference)),
        upright(floor, Ink::Floor),
        upright(own, Ink::Mode(mode)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn in_words(report: &Report, mode: DataflowMode) -> String {
    let words = |capacity: Option<f64>| {
        capacity.map_or("has no capacity that was found".to_owned(), |rate| {
            format!("holds {} quotes a second", number(rate.round()))
        })
    };
    format!(
        "Latency of {mode} by quotes asked a second. {mode} {}; its floor {}.",
        words(report.modes[&mode].capacity_per_s),
        words(report.floors.under(mode).capacity_per_s)
    )
}
