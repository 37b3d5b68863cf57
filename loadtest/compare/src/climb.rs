//! The search for the breaking point: the rate climbs, all dataflows together, until one of them fails.
//!
//! Unlike capacity, which drives one dataflow at a time, this is one market under more and more load: the services share
//! what they share. A rate holds when all are answered in time, and one that fails gets a second try at once.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use super::capacity::{LIMIT, is_in_time};
use super::measure::{Measured, RoundRobin};
use super::scenario::Climb;
use super::suite::QUOTE_DEADLINE;
use super::{GRACE, MAX_IN_FLIGHT};
use engine::{LoadPlan, Schedule};

/// Where the climb ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breakpoint {
    /// The rates that were tried, in order; the last is the one that failed, if any did.
    pub steps: Vec<ClimbStep>,
}

/// One rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClimbStep {
    /// Quotes asked a second, all dataflows together.
    pub rate_per_s: u32,
    /// Whether the load generator missed its own schedule: then the limit may be its own.
    pub generator_late: bool,
    /// How each dataflow did.
    pub modes: BTreeMap<DataflowMode, Footing>,
}

/// How a dataflow did at a rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Footing {
    /// Whether every quote was answered, rightly, and 99 of 100 within 50 ms.
    pub holds: bool,
    /// Quotes that brought no right answer.
    pub errors: u64,
    /// 99th percentile of latency, microseconds; `None` without an answer.
    pub latency_us_p99: Option<u64>,
}

impl ClimbStep {
    fn of(rate_per_s: u32, measured: &Measured) -> Self {
        let footing = |&mode: &DataflowMode| (mode, Footing::of(measured, mode));
        let delivery = measured.delivery.as_ref();
        Self {
            rate_per_s,
            generator_late: delivery.is_some_and(|delivery| !delivery.faults().is_empty()),
            modes: measured.tallies.keys().map(footing).collect(),
        }
    }

    fn holds(&self) -> bool {
        self.modes.values().all(|footing| footing.holds)
    }
}

impl Footing {
    fn of(measured: &Measured, mode: DataflowMode) -> Self {
        let tally = measured.tally(mode);
        let latency = &tally.latency;
        Self {
            holds: is_in_time(measured, mode),
            errors: tally.errors(),
            latency_us_p99: (!latency.is_empty()).then(|| latency.value_at_quantile(0.99)),
        }
    }
}

/// Climbs from `rate` on until a dataflow fails twice, the steps are done, or `stop`.
pub(super) async fn climb(
    quotes: &RoundRobin,
    plan: Climb,
    mut rate: u32,
    stop: &CancellationToken,
) -> Breakpoint {
    let mut steps = Vec::new();
    for _ in 0..plan.most_steps {
        let mut step = step(quotes, plan, rate, stop).await;
        if !step.holds() && !stop.is_cancelled() {
            step = self::step(quotes, plan, rate, stop).await;
        }
        if stop.is_cancelled() {
            break;
        }
        let holds = step.holds();
        steps.push(step);
        if !holds {
            break;
        }
        rate = (f64::from(rate) * plan.factor).ceil() as u32;
    }
    Breakpoint { steps }
}

async fn step(quotes: &RoundRobin, plan: Climb, rate: u32, stop: &CancellationToken) -> ClimbStep {
    let load = LoadPlan {
        schedule: Schedule::constant(rate, Duration::from_secs(plan.step_seconds.into())),
        max_in_flight: MAX_IN_FLIGHT,
        drain: QUOTE_DEADLINE + GRACE,
    };
    ClimbStep::of(rate, &quotes.run(load, stop.clone()).await)
}

/// About how long a climb takes at most.
pub(super) fn estimate(plan: Climb) -> Duration {
    Duration::from_secs(u64::from(plan.step_seconds) * u64::from(plan.most_steps))
}

/// Which dataflow failed and where, in a sentence or two.
pub(super) fn finding(breakpoint: &Breakpoint) -> Option<String> {
    let last = breakpoint.steps.last()?;
    let highest = breakpoint.steps.iter().rev().find(|step| step.holds());
    let held = highest.map_or_else(
        || "no lower rate was tried".to_owned(),
        |step| format!("{} held", step.rate_per_s),
    );
    if last.holds() {
        return Some(format!(
            "No dataflow failed up to {} quotes/s.",
            last.rate_per_s
        ));
    }
    let failed = last.modes.iter().filter(|(_, footing)| !footing.holds);
    let failed: Vec<String> = failed
        .map(|(mode, footing)| failure(*mode, footing))
        .collect();
    let generator = if last.generator_late {
        " The load generator missed its own schedule at this rate, so the limit may be its own."
    } else {
        ""
    };
    Some(format!(
        "The breaking point is at {} quotes/s of {} dataflows together ({held}): {}.{generator}",
        last.rate_per_s,
        last.modes.len(),
        failed.join("; ")
    ))
}

fn failure(mode: DataflowMode, footing: &Footing) -> String {
    let latency = footing.latency_us_p99.map_or_else(
        || "no answer".to_owned(),
        |micros| {
            format!(
                "p99 {:.0} ms, {} allowed",
                micros as f64 / 1_000.0,
                LIMIT.as_millis()
            )
        },
    );
    format!("{mode} fails ({latency}, {} errors)", footing.errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(rate_per_s: u32, database: (bool, u64), events: (bool, u64)) -> ClimbStep {
        let footing = |(holds, p99)| Footing {
            holds,
            errors: 0,
            latency_us_p99: Some(p99),
        };
        ClimbStep {
            rate_per_s,
            generator_late: false,
            modes: BTreeMap::from([
                (DataflowMode::Database, footing(database)),
                (DataflowMode::Events, footing(events)),
            ]),
        }
    }

    #[test]
    fn the_dataflow_that_fails_is_named_with_its_rate() {
        let mut climbed = Breakpoint {
            steps: vec![
                step(300, (true, 4_000), (true, 2_000)),
                step(450, (false, 81_000), (true, 3_000)),
            ],
        };
        let said = finding(&climbed).unwrap();
        assert_eq!(
            said,
            "The breaking point is at 450 quotes/s of 2 dataflows together (300 held): database fails (p99 81 ms, 50 \
             allowed, 0 errors)."
        );
        climbed.steps[1].generator_late = true;
        assert!(finding(&climbed).unwrap().ends_with("may be its own."));
    }

    #[test]
    fn a_climb_that_nobody_fails_says_how_far_it_went() {
        let climbed = Breakpoint {
            steps: vec![step(300, (true, 4_000), (true, 2_000))],
        };
        assert_eq!(
            finding(&climbed).unwrap(),
            "No dataflow failed up to 300 quotes/s."
        );
        assert_eq!(finding(&Breakpoint { steps: vec![] }), None);
    }
}
