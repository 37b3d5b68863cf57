//! The stress ramp: the rate rises, all dataflows together, until one of them fails.
//!
//! The search for capacities drives one dataflow at a time. This is one market under more and more
//! load: the services share what they share. A rate is sustained when all dataflows answer in time;
//! a rate that fails gets a second try at once.

use std::time::Duration;

use engine::Schedule;
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use super::capacity::is_in_time;
use super::mode_statistics::{ModeStatistics, value_at};
use super::round_robin::{LoadResult, MOST_IN_FLIGHT, RoundRobin};
use crate::report::{Breakpoint, RampStep, StepResult};
use crate::scenario::StressRamp;

/// Raises the rate from `rate` on until a dataflow fails twice, the steps are done, or `stop`.
pub(super) async fn run(
    quotes: &RoundRobin,
    ramp: StressRamp,
    mut rate: u32,
    stop: &CancellationToken,
) -> Breakpoint {
    let mut steps = Vec::new();
    for _ in 0..ramp.most_steps {
        let mut result = step(quotes, ramp, rate, stop).await;
        if !result.holds() && !stop.is_cancelled() {
            result = step(quotes, ramp, rate, stop).await;
        }
        if stop.is_cancelled() {
            break;
        }
        let holds = result.holds();
        steps.push(result);
        if !holds {
            break;
        }
        rate = (f64::from(rate) * ramp.factor).ceil() as u32;
    }
    Breakpoint { steps }
}

async fn step(
    quotes: &RoundRobin,
    ramp: StressRamp,
    rate: u32,
    stop: &CancellationToken,
) -> RampStep {
    let schedule = Schedule::constant(rate, Duration::from_secs(ramp.step_seconds.into()));
    let load = quotes.run(schedule, MOST_IN_FLIGHT, stop).await;
    let result = |(&mode, statistics): (&DataflowMode, &ModeStatistics)| {
        let result = StepResult {
            holds: is_in_time(&load, mode),
            errors: statistics.errors(),
            latency_us_p99: value_at(&statistics.latency, 0.99),
        };
        (mode, result)
    };
    RampStep {
        rate_per_s: rate,
        generator_late: is_late(&load),
        modes: load.modes.iter().map(result).collect(),
    }
}

fn is_late(load: &LoadResult) -> bool {
    load.sent
        .as_ref()
        .is_some_and(|sent| !sent.faults().is_empty())
}

/// About how long a ramp takes at most.
pub(super) fn longest(ramp: StressRamp) -> Duration {
    Duration::from_secs(u64::from(ramp.step_seconds) * u64::from(ramp.most_steps))
}
