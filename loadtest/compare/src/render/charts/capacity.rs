//! Latency under more and more load: every rate that was tried, of each mode and of its floor.

use maud::Markup;
use surge_proto::DataflowMode;

use super::axis::{Axis, number};
use super::chart::{Chart, ChartPoint, ChartRule, ChartSeries, Mark};
use super::palette::Palette;
use crate::report::{CapacityProbe, CompareReport, LATENCY_LIMIT};

pub(super) fn section(report: &CompareReport) -> Markup {
    let charts = report.modes.keys().filter_map(|mode| chart(report, *mode));
    let figures: Vec<Markup> = charts.map(|chart| chart.figure()).collect();
    super::section(
        "Latency under load",
        "Each point is a rate that was tried in the search for a capacity. A dot was sustained, a \
         cross was not; a cross below the limit means that quotes took longer and longer. The \
         upright line is the capacity. The grey ones belong to the minimal server built on the \
         same libraries.",
        &figures,
    )
}

fn chart(report: &CompareReport, mode: DataflowMode) -> Option<Chart> {
    let probes = report
        .series
        .probes
        .iter()
        .filter(|probe| probe.mode == mode && !probe.repeated);
    let probes: Vec<&CapacityProbe> = probes.collect();
    let has_latency = |probe: &&CapacityProbe| !probe.floor && probe.latency_us.p99.is_some();
    probes.iter().find(|probe| has_latency(probe))?;
    let traces: Vec<ChartSeries> = [(true, true), (true, false), (false, true), (false, false)]
        .map(|(floor, held)| {
            let kind = probes
                .iter()
                .filter(|probe| (probe.floor, probe.held) == (floor, held));
            trace(mode, floor, held, kind.copied())
        })
        .into();
    let points = || traces.iter().flat_map(|trace| &trace.points);
    let limit_ms = LATENCY_LIMIT.as_secs_f64() * 1000.0;
    let (own, floor) = (
        report.modes[&mode].capacity_per_s,
        report.floors.under(mode).capacity_per_s,
    );
    let limit = ChartRule::Across(limit_ms, Palette::Reference);
    let capacities = [(floor, Palette::Floor), (own, Palette::Mode(mode))];
    let capacities = capacities
        .into_iter()
        .filter_map(|(rate, colour)| Some(ChartRule::Upright(rate?, colour)));
    Some(Chart {
        caption: format!(
            "{mode}: time within which 99 of 100 quotes were answered, in ms, by quotes requested \
             per second; both axes logarithmic. The line across is the limit of {limit_ms:.0} ms."
        ),
        alternative: alternative(mode, own, floor),
        x: Axis::log("quotes/s", points().map(|point| point.x).collect())?,
        y: Axis::log(
            "ms",
            points().map(|point| point.y).chain([limit_ms]).collect(),
        )?,
        rules: std::iter::once(limit).chain(capacities).collect(),
        traces,
    })
}

fn trace<'a>(
    mode: DataflowMode,
    floor: bool,
    held: bool,
    probes: impl Iterator<Item = &'a CapacityProbe>,
) -> ChartSeries {
    let (name, colour) = match floor {
        true => ("its floor", Palette::Floor),
        false => (mode.as_str(), Palette::Mode(mode)),
    };
    let verdict = if held { "sustained" } else { "not sustained" };
    let point = |probe: &CapacityProbe| {
        let ms = |micros: u64| micros as f64 / 1000.0;
        let (p50, p99) = (ms(probe.latency_us.p50?), ms(probe.latency_us.p99?));
        let rate = f64::from(probe.rate_per_s);
        let at = number(rate);
        Some(ChartPoint {
            x: rate,
            y: p99,
            hint: format!("{name} at {at} quotes/s, {verdict}: p50 {p50:.1} ms, p99 {p99:.1} ms"),
        })
    };
    ChartSeries {
        name: name.to_owned(),
        colour,
        mark: if held { Mark::Dots } else { Mark::Crosses },
        points: probes.filter_map(point).collect(),
    }
}

fn alternative(mode: DataflowMode, own: Option<f64>, floor: Option<f64>) -> String {
    let [own, floor] = [own, floor].map(|capacity| match capacity {
        Some(rate) => format!("sustains {} quotes per second", number(rate.round())),
        None => "has no known capacity".to_owned(),
    });
    format!("Latency of {mode} by quotes requested per second. {mode} {own}; its floor {floor}.")
}
