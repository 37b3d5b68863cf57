//! Every sentence that a comparison writes, the same on the terminal and on the page, and every way
//! to write a number.
//!
//! **How this works.** [`judge`](crate::judge) decides what is true and calls a function here to
//! say it; [`render`](crate::render) decides where it stands. A function here gets the figures and
//! returns text: it decides nothing. A reader should understand each sentence alone, without the
//! table above it: it names its subject, and it says how much.

pub(crate) mod changes;
pub(crate) mod columns;
pub(crate) mod findings;
pub(crate) mod market;
pub(crate) mod validity;

use engine::Transport;
use marketplace::{MarketTime, new_york};

use crate::report::{Arrivals, CompareReport};

pub(crate) const TITLE: &str = "One market, priced by each dataflow";

/// The name of the second table.
pub(crate) const CAPACITY_TITLE: &str =
    "Highest rate each mode sustains, and that of a minimal server built on the same libraries";

/// The cell of a figure that was not measured.
pub(crate) const UNKNOWN: &str = "-";

/// The market and the load, in a few short lines.
pub(crate) fn workload(report: &CompareReport) -> Vec<String> {
    let (workload, city) = (&report.workload, &report.city);
    let mut lines = Vec::new();
    if let (Some(from), Some(until)) = (&city.measured_from, &city.measured_until)
        && let Some(span) = market_span(from, until)
    {
        let speed = workload.speed;
        let pace = if speed == 1.0 {
            "The market runs in real time.".to_owned()
        } else {
            format!("The market clock runs {speed} times as fast as ours.")
        };
        lines.push(format!("Market: {span}. {pace}"));
    }
    let arrivals = match workload.arrivals {
        Arrivals::Constant => "",
        Arrivals::Poisson => " on average (Poisson arrivals)",
    };
    let transport = match workload.transport {
        Transport::Http => "",
        Transport::Grpc => " over gRPC",
    };
    let modes = match report.modes.len() {
        1 => "one mode only",
        2 => "both modes in turn",
        _ => "all three modes in turn",
    };
    lines.push(format!(
        "Load: {} quotes/s{arrivals}{transport} for {} s, each trip requested in {modes}; {} \
         drivers, scenario {}, seed {}.",
        workload.rate_per_s, workload.seconds, city.fleet, workload.scenario, workload.seed
    ));
    if !workload.rate_steps.is_empty() {
        let steps = workload.rate_steps.iter();
        let steps =
            steps.map(|step| format!("{} quotes/s for {:.0} s", step.rate_per_s, step.seconds));
        let steps: Vec<String> = steps.collect();
        lines.push(format!("The rate in steps: {}.", steps.join(", then ")));
    }
    lines
}

/// What the load generator takes for itself, where that was measured.
pub(crate) fn generator(report: &CompareReport) -> Option<String> {
    let generator = &report.generator;
    let (ceiling, micros) = generator.ceiling_per_s.zip(generator.cpu_us_per_quote)?;
    Some(format!(
        "The load generator takes {micros:.0} us of processor time per quote, from the same \
         processors. It can send at most {ceiling:.0} quotes/s, measured against the minimal HTTP \
         server."
    ))
}

/// Weekday, date and hours between two instants of market time, RFC 3339, in New York time.
pub(crate) fn market_span(from: &str, until: &str) -> Option<String> {
    let from = new_york::show(from.parse().ok()?, "%A %Y-%m-%d, %H:%M");
    let until = time_of_day(until.parse().ok()?);
    Some(format!("{from} to {until} in New York"))
}

pub(crate) fn time_of_day(at: MarketTime) -> String {
    new_york::show(at, "%H:%M")
}

/// The names with commas and an "and"; empty for none.
pub(crate) fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [others @ .., last] => format!("{} and {last}", others.join(", ")),
    }
}

pub(crate) fn decimals(value: Option<f64>, places: usize) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| format!("{value:.places$}"))
}

pub(crate) fn percent(share: Option<f64>, places: usize) -> String {
    decimals(share.map(|share| share * 100.0), places)
}

pub(crate) fn milliseconds(micros: Option<u64>) -> String {
    decimals(micros.map(|micros| micros as f64 / 1000.0), 1)
}
