//! The findings of a valid run.

use surge_proto::DataflowMode;

use crate::report::{Breakpoint, ModeFigures, RampStep, StepResult};

pub(crate) type Named<'a> = (DataflowMode, &'a ModeFigures);

pub(crate) fn fastest_and_freshest(fastest: Named<'_>, freshest: Named<'_>) -> String {
    let milliseconds = fastest.1.latency_us.p50.unwrap_or_default() as f64 / 1000.0;
    let age = real_age(freshest.1.data_age_ms.p50.unwrap_or_default());
    let (fast, fresh) = (fastest.0, freshest.0);
    if fast == fresh {
        format!(
            "{fast} is the fastest mode (half of its quotes within {milliseconds:.1} ms) and uses \
             the freshest data ({age} old)."
        )
    } else {
        format!(
            "{fast} is the fastest mode (half of its quotes within {milliseconds:.1} ms). {fresh} \
             uses the freshest data ({age} old)."
        )
    }
}

/// What fresher data costs in latency; `milliseconds` are the two medians.
pub(crate) fn price_of_freshness(
    freshest: DataflowMode,
    fastest: DataflowMode,
    fresher_by_ms: f64,
    (fresh_ms, fast_ms): (f64, f64),
) -> String {
    format!(
        "{freshest} uses data {} fresher than {fastest} and takes {:.1} ms longer ({:.1}x).",
        real_age(fresher_by_ms),
        fresh_ms - fast_ms,
        fresh_ms / fast_ms
    )
}

/// What old data costs in accuracy.
pub(crate) fn price_of_age(mode: DataflowMode, share: f64, age_ms: f64, speed: f64) -> String {
    format!(
        "{mode}: {:.1} % of quotes are wrong by 0.2 or more; its data is {} old.",
        share * 100.0,
        age_in_words(age_ms, speed)
    )
}

pub(crate) fn accurate(modes: &[&str]) -> String {
    format!(
        "{}: fewer than 1 in 1000 quotes is wrong by 0.2 or more.",
        super::list(modes)
    )
}

/// The mode with the highest capacity; `share` of its floor.
pub(crate) fn highest_capacity(
    mode: DataflowMode,
    rate: f64,
    share: Option<f64>,
    alone: bool,
) -> String {
    let rank = if alone { "" } else { "the highest rate, " };
    let share = share.map(|share| {
        let percent = share * 100.0;
        format!(": {percent:.0} % of the rate of a minimal server built on the same libraries")
    });
    format!(
        "{mode} sustains {rank}{rate:.0} quotes per second{}.",
        share.unwrap_or_default()
    )
}

/// The part of the machine that the load generator takes from the services.
pub(crate) fn generator_share(rate: u32, share: f64, cpus: usize) -> String {
    let percent = share * 100.0;
    format!(
        "At {rate} quotes/s the load generator itself takes {percent:.1} % of the machine's \
         {cpus} processors."
    )
}

/// The end of the stress ramp; `last` is its last step.
pub(crate) fn stress_ramp(ramp: &Breakpoint, last: &RampStep) -> String {
    let rate = last.rate_per_s;
    if last.holds() {
        return format!("No dataflow failed up to {rate} quotes/s.");
    }
    let highest = ramp.steps.iter().rev().find(|step| step.holds());
    let held = highest.map_or_else(
        || "no lower rate was tried".to_owned(),
        |step| format!("they sustained {}", step.rate_per_s),
    );
    let failed = last.modes.iter().filter(|(_, result)| !result.holds);
    let failed: Vec<String> = failed
        .map(|(mode, result)| failure(*mode, result))
        .collect();
    let generator = if last.generator_late {
        " The load generator missed its own schedule at this rate, so the limit may be its own."
    } else {
        ""
    };
    format!(
        "The services break at {rate} quotes/s, {} dataflows together ({held}): {}.{generator}",
        last.modes.len(),
        failed.join("; ")
    )
}

fn failure(mode: DataflowMode, result: &StepResult) -> String {
    let latency = result.latency_us_p99.map_or_else(
        || "no answer".to_owned(),
        |micros| format!("p99 {:.0} ms, 50 ms allowed", micros as f64 / 1_000.0),
    );
    format!("{mode} failed ({latency}, {} errors)", result.errors)
}

/// An age in real time, with its market time where the two differ and it matters.
fn age_in_words(milliseconds: f64, speed: f64) -> String {
    let real = real_age(milliseconds);
    let market_seconds = milliseconds * speed / 1000.0;
    if speed == 1.0 || market_seconds < 1.0 {
        real
    } else if market_seconds < 60.0 {
        format!("{real} ({market_seconds:.0} s of this market)")
    } else {
        format!("{real} ({:.1} min of this market)", market_seconds / 60.0)
    }
}

fn real_age(milliseconds: f64) -> String {
    if milliseconds < 1000.0 {
        format!("{milliseconds:.0} ms")
    } else {
        format!("{:.1} s", milliseconds / 1000.0)
    }
}
