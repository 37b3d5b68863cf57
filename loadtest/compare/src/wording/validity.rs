//! Why a run is void, how far it came, and what to be wary of.

use surge_proto::DataflowMode;

use super::UNKNOWN;
use crate::report::{Coverage, CpuSteal, ModeFigures, StealByPhase};

pub(crate) const INTERRUPTED: &str = "interrupted: the figures are those of the part that was done";

pub(crate) const NEVER_BEGAN: &str = "the run stopped before its first measured quote";

pub(crate) fn unchecked(count: u64) -> String {
    format!("the load generator did not check {count} answers")
}

pub(crate) fn wrong_answers(mode: DataflowMode, count: u64, example: &str) -> String {
    format!("{mode}: {count} answers were wrong, the first: {example}")
}

pub(crate) fn failed(mode: DataflowMode, failed: u64, of: u64, examples: &[&str]) -> String {
    let examples = examples.join("; ");
    format!("{mode}: {failed} of {of} quotes failed, so its p99 is unknown: {examples}")
}

pub(crate) fn no_quote(mode: DataflowMode) -> String {
    format!("{mode}: the service answered no quote")
}

pub(crate) fn wrong_in_search(mode: DataflowMode, example: &str) -> String {
    format!("{mode}: an answer was wrong during the search for its capacity: {example}")
}

/// `fruitless` of `searches` found no rate.
pub(crate) fn no_capacity(
    mode: DataflowMode,
    fruitless: u32,
    searches: u32,
    last_error: Option<&str>,
) -> String {
    format!(
        "{mode}: {fruitless} of {searches} searches for its capacity found no rate that it \
         sustains, not even the lowest: {}",
        last_error.unwrap_or("every answer took too long")
    )
}

pub(crate) fn clock_was_set(by_seconds: f64) -> String {
    let direction = if by_seconds < 0.0 { "back" } else { "forward" };
    format!(
        "somebody set the wall clock {direction} by {:.1} s during the measurement, and market \
         time with it: data ages and multipliers are not those of one market",
        by_seconds.abs()
    )
}

/// CPU steal during the measurement of a void run, before the faults that it may explain.
pub(crate) fn steal_explains(steal: &CpuSteal) -> String {
    format!(
        "{}: this may be the cause of what follows, not a service",
        steal_during("the measurement", steal)
    )
}

pub(crate) fn steal_slows(steal: &CpuSteal) -> String {
    format!(
        "{}: latencies may be too high",
        steal_during("the measurement", steal)
    )
}

pub(crate) fn steal_limits(steal: &CpuSteal) -> String {
    format!(
        "{}: capacities may be too low",
        steal_during("the search for capacities", steal)
    )
}

fn steal_during(phase: &str, steal: &CpuSteal) -> String {
    // A little is not called nothing.
    let percent = |share: f64| match share {
        share if share > 0.0 && share < 0.005 => "less than 1 %".to_owned(),
        share => format!("{:.0} %", share * 100.0),
    };
    let (mean, worst) = (percent(steal.share), percent(steal.worst_second_share));
    format!(
        "the hypervisor took {mean} of the processors during {phase}, {worst} in the worst second"
    )
}

pub(crate) fn invalid_probes(steal: &StealByPhase, limit: f64) -> String {
    format!(
        "{} probes for a capacity failed while the hypervisor had more than {:.0} % of the \
         processors, and were repeated; {} failed for the last allowed time, and count",
        steal.probes_repeated,
        limit * 100.0,
        steal.probes_spoiled
    )
}

/// CPU steal of each phase, for the facts at the end of the page.
pub(crate) fn steal_by_phase(steal: &StealByPhase) -> String {
    let phases = [
        ("warm-up", steal.warm_up),
        ("measurement", steal.measurement),
        ("stress ramp", steal.stress_ramp),
        ("capacities", steal.capacity),
        ("simulated evenings", steal.market),
    ];
    let known = phases.into_iter().filter_map(|(phase, steal)| {
        let (mean, worst) = (steal?.share * 100.0, steal?.worst_second_share * 100.0);
        Some(format!(
            "{mean:.1} % during {phase} (worst second {worst:.0} %)"
        ))
    });
    let known: Vec<String> = known.collect();
    if known.is_empty() {
        UNKNOWN.to_owned()
    } else {
        known.join(", ")
    }
}

pub(crate) fn degraded(mode: DataflowMode, figures: &ModeFigures) -> String {
    let (degraded, quotes) = (figures.degraded, figures.quotes);
    format!(
        "{mode}: the service priced {degraded} of {quotes} quotes without surge, for want of \
         fresh data (degraded)"
    )
}

pub(crate) const FLOORS_SPEAK_HTTP: &str = "minimal servers speak HTTP only: over gRPC the report \
    has no share of a floor, and no figure for the load generator";

pub(crate) const INCOMPLETE: &str =
    "the run did not come to its end: the figures here were measured, missing ones were not";

pub(crate) fn no_live_data(mode: DataflowMode) -> String {
    format!("{mode} had no live data when the city started")
}

pub(crate) fn no_floor(mode: DataflowMode, reason: &anyhow::Error) -> String {
    format!("the floor of {mode} could not be measured: {reason:#}")
}

pub(crate) fn request_disagrees(mean_error: f64) -> String {
    format!(
        "request reads the market live and must agree with the city, yet it is wrong by \
         {mean_error:.3} on average: something else uses these services"
    )
}

/// The oracle says 1.0 nearly everywhere.
pub(crate) fn quiet_market(surging_share: f64) -> String {
    format!(
        "the market was too calm: only {:.0} % of the quotes should have had surge, so old data \
         could hardly be wrong",
        surging_share * 100.0
    )
}

/// In the place of the multiplier error, and of everything that is derived from it.
pub(crate) fn error_not_shown(reasons: &[String]) -> String {
    format!(
        "The multiplier error is not shown, because {}.",
        reasons.join("; and because ")
    )
}

/// How much of each planned part was done.
pub(crate) fn coverage(coverage: &Coverage) -> String {
    let mut parts = vec![match (coverage.measured_s, coverage.planned_s) {
        (0.0, planned) => format!("none of {planned:.0} s of quotes"),
        (done, planned) if done < planned => format!("{done:.1} of {planned:.0} s of quotes"),
        (_, planned) => format!("all {planned:.0} s of quotes"),
    }];
    if coverage.planned_searches > 0 {
        let done = match (coverage.searches, coverage.planned_searches) {
            (0, planned) => format!("none of {planned}"),
            (done, planned) if done < planned => format!("{done} of {planned}"),
            (_, planned) => format!("all {planned}"),
        };
        parts.push(format!("{done} searches for a capacity"));
    }
    if coverage.most_market_seeds > 0 {
        parts.push(match coverage.market_seeds {
            0 => "no simulated evening".to_owned(),
            seeds => format!("{seeds} simulated evenings with each pricing"),
        });
    }
    format!("Done: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_names_each_planned_part() {
        let mut done = Coverage {
            planned_s: 60.0,
            measured_s: 23.14,
            planned_searches: 18,
            most_market_seeds: 24,
            ..Coverage::default()
        };
        assert_eq!(
            coverage(&done),
            "Done: 23.1 of 60 s of quotes, none of 18 searches for a capacity, no simulated \
             evening."
        );
        done.measured_s = 60.0;
        (done.searches, done.market_seeds) = (18, 7);
        assert_eq!(
            coverage(&done),
            "Done: all 60 s of quotes, all 18 searches for a capacity, 7 simulated evenings with \
             each pricing."
        );
    }

    #[test]
    fn coverage_omits_unplanned_parts() {
        let done = Coverage {
            planned_s: 12.0,
            ..Coverage::default()
        };
        assert_eq!(coverage(&done), "Done: none of 12 s of quotes.");
    }

    #[test]
    fn steal_is_named_with_its_worst_second() {
        let steal = CpuSteal {
            share: 0.004,
            worst_second_share: 0.6,
        };
        assert_eq!(
            steal_slows(&steal),
            "the hypervisor took less than 1 % of the processors during the measurement, 60 % in \
             the worst second: latencies may be too high"
        );
    }
}
