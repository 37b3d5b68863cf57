//! Whether a run is void, and what to be wary of in one that is not.

use std::time::Duration;

use engine::Transport;
use surge_proto::DataflowMode;

use crate::measure::capacity::{Capacities, Capacity};
use crate::measure::mode_statistics::{Failures, ModeStatistics};
use crate::measure::round_robin::LoadResult;
use crate::report::{CompareReport, CpuSteal};
use crate::wording::validity as say;

pub(crate) fn void_reasons(
    load: &LoadResult,
    capacities: &Capacities,
    interrupted: bool,
) -> Vec<String> {
    let mut reasons = Vec::new();
    if interrupted {
        reasons.push(say::INTERRUPTED.to_owned());
    }
    let Some(sent) = &load.sent else {
        reasons.push(say::NEVER_BEGAN.to_owned());
        return reasons;
    };
    let mut faults = sent.faults();
    let outcomes: u64 = load.modes.values().map(ModeStatistics::outcomes).sum();
    let unchecked = sent.sent.saturating_sub(outcomes + sent.unanswered as u64);
    if unchecked > 0 {
        faults.push(say::unchecked(unchecked));
    }
    faults.extend(
        load.modes
            .iter()
            .flat_map(|(mode, statistics)| faults_of(*mode, statistics)),
    );
    faults.extend(clock_was_set(load.clock_set_by_s, load.lasted()));
    if !faults.is_empty() {
        // The likely cause comes before its effects.
        let steal = load.steal.filter(CpuSteal::is_noteworthy);
        reasons.extend(steal.as_ref().map(say::steal_explains));
    }
    reasons.extend(faults);
    let searched = capacities.modes.iter().chain(&capacities.floors);
    reasons.extend(searched.filter_map(|(mode, capacity)| {
        Some(say::wrong_in_search(*mode, capacity.wrong.as_deref()?))
    }));
    reasons.extend(capacities.modes.iter().filter_map(fruitless));
    reasons
}

/// A service that sustains nothing at all has no capacity; the figure of the rounds in which it
/// lived must not pass for it.
fn fruitless((mode, capacity): (&DataflowMode, &Capacity)) -> Option<String> {
    let searches = capacity.fruitless + capacity.rounds.len() as u32;
    let sentence = || {
        say::no_capacity(
            *mode,
            capacity.fruitless,
            searches,
            capacity.last_error.as_deref(),
        )
    };
    (capacity.fruitless > 0).then(sentence)
}

/// Latencies come from a clock that nobody can set; ages, prices and the oracle do not.
fn clock_was_set(by_seconds: f64, within: Duration) -> Option<String> {
    // Two readings are taken a moment apart from those of the other clock.
    const MOST_SET_SECONDS: f64 = 0.5;
    // Of the time that passes: twice of what the kernel does to discipline a clock without setting
    // it.
    const MOST_SLEWED: f64 = 0.001;
    let most = MOST_SET_SECONDS + MOST_SLEWED * within.as_secs_f64();
    (by_seconds.abs() > most).then(|| say::clock_was_set(by_seconds))
}

fn faults_of(mode: DataflowMode, statistics: &ModeStatistics) -> Vec<String> {
    // The 99th percentile needs 99 answers in a hundred.
    const MOST_FAILED: f64 = 0.01;
    let (wrong, missing): (Vec<&Failures>, Vec<&Failures>) = statistics
        .failures()
        .partition(|failures| failures.wrong_answers);
    let wrong = wrong
        .into_iter()
        .map(|wrong| say::wrong_answers(mode, wrong.count, &wrong.example));
    let mut faults: Vec<String> = wrong.collect();
    let failed: u64 = missing.iter().map(|failures| failures.count).sum();
    if failed as f64 > MOST_FAILED * statistics.outcomes() as f64 {
        let examples: Vec<&str> = missing.iter().map(|kind| kind.example.as_str()).collect();
        faults.push(say::failed(mode, failed, statistics.outcomes(), &examples));
    } else if statistics.quotes == 0 {
        faults.push(say::no_quote(mode));
    }
    faults
}

/// What a reader should be wary of although the run is valid.
pub(super) fn warnings(report: &CompareReport) -> Vec<String> {
    let modes = report
        .modes
        .iter()
        .filter(|(_, figures)| figures.degraded > 0);
    let mut warnings: Vec<String> = modes
        .map(|(mode, figures)| say::degraded(*mode, figures))
        .collect();
    let steal = &report.steal;
    // A void run has the steal of its measurement among its reasons.
    let slows = steal
        .measurement
        .filter(|steal| report.valid && steal.is_noteworthy());
    warnings.extend(slows.as_ref().map(say::steal_slows));
    let limits = steal.capacity.filter(CpuSteal::is_noteworthy);
    warnings.extend(limits.as_ref().map(say::steal_limits));
    if steal.probes_repeated > 0 {
        warnings.push(say::invalid_probes(steal, CpuSteal::INVALIDATES));
    }
    if report.workload.transport == Transport::Grpc && report.has_capacities() {
        warnings.push(say::FLOORS_SPEAK_HTTP.to_owned());
    }
    if report.valid && !report.is_complete() {
        warnings.push(say::INCOMPLETE.to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use engine::{NoAnswer, QuoteFailure, SendReport, histogram};

    use super::*;
    use crate::report::example;

    fn steal(share: f64) -> Option<CpuSteal> {
        Some(CpuSteal {
            share,
            worst_second_share: share,
        })
    }

    /// A load of `events` that kept its schedule, with these outcomes beside 90 quotes.
    fn load(quotes: u64, failures: Vec<QuoteFailure>) -> LoadResult {
        let mut load = LoadResult::nothing(&[DataflowMode::Events]);
        let statistics = load.modes.get_mut(&DataflowMode::Events).unwrap();
        statistics.quotes = quotes;
        let sent = quotes + failures.len() as u64;
        for failure in failures {
            statistics.add(Duration::ZERO, Duration::ZERO, &Err(failure), None);
        }
        load.sent = Some(SendReport {
            sent,
            dropped: 0,
            unanswered: 0,
            paced_for: Duration::from_secs(1),
            lasted: Duration::from_secs(1),
            lateness: histogram(),
        });
        load
    }

    fn reasons(load: &LoadResult) -> Vec<String> {
        void_reasons(load, &Capacities::default(), false)
    }

    #[test]
    fn wrong_answer_voids_the_run() {
        let wrong = QuoteFailure::Wrong("asked for database, answered by events".to_owned());
        assert_eq!(
            reasons(&load(90, vec![wrong])),
            ["events: 1 answers were wrong, the first: asked for database, answered by events"]
        );
        assert_eq!(reasons(&load(90, vec![])), [""; 0]);
    }

    #[test]
    fn more_than_one_failure_in_hundred_voids() {
        let timeout = || NoAnswer::Deadline(Duration::from_secs(2)).into();
        assert_eq!(reasons(&load(99, vec![timeout()])), [""; 0]);
        let reasons = reasons(&load(98, vec![timeout(), timeout()]));
        assert!(
            reasons[0].starts_with("events: 2 of 100 quotes failed"),
            "{reasons:?}"
        );
    }

    #[test]
    fn steal_comes_before_its_effects() {
        let measured = |quotes, share| {
            let steal = steal(share);
            reasons(&LoadResult {
                steal,
                ..load(quotes, vec![])
            })
        };
        assert_eq!(measured(9, 0.5), [""; 0], "it voids nothing by itself");
        let said = measured(0, 0.11);
        let took =
            "the hypervisor took 11 % of the processors during the measurement, 11 % in the worst";
        assert!(said[0].starts_with(took), "{said:?}");
        assert_eq!(said[1..], ["events: the service answered no quote"]);
        assert_eq!(measured(0, 0.01), said[1..]);
    }

    #[test]
    fn clock_that_was_set_voids_the_run() {
        let minute = Duration::from_secs(60);
        assert_eq!(clock_was_set(0.03, minute), None);
        assert_eq!(clock_was_set(1.8, minute * 60), None, "an hour of slewing");
        let back = clock_was_set(-20.0, minute).unwrap();
        assert!(back.contains("wall clock back by 20.0 s"), "{back}");
        let forward = clock_was_set(3_600.0, minute).unwrap();
        assert!(
            forward.contains("wall clock forward by 3600.0 s"),
            "{forward}"
        );
    }

    #[test]
    fn search_without_result_voids_the_run() {
        let mut capacity = Capacity::new();
        capacity.rounds = vec![900, 950];
        assert_eq!(fruitless((&DataflowMode::Events, &capacity)), None);
        (capacity.fruitless, capacity.last_error) = (1, Some("connection refused".to_owned()));
        let said = fruitless((&DataflowMode::Events, &capacity)).unwrap();
        assert!(
            said.contains("1 of 3") && said.ends_with("connection refused"),
            "{said}"
        );
    }

    #[test]
    fn run_that_never_began_is_void() {
        let load = LoadResult::nothing(&DataflowMode::ALL);
        let reasons = void_reasons(&load, &Capacities::default(), true);
        assert_eq!(reasons.len(), 2);
    }

    #[test]
    fn degraded_quotes_are_pointed_out() {
        let mut report = example();
        assert_eq!(warnings(&report), [""; 0]);
        report
            .modes
            .get_mut(&DataflowMode::Request)
            .unwrap()
            .degraded = 7;
        let warnings = warnings(&report);
        assert!(warnings[0].contains("7 of 6000 quotes"), "{warnings:?}");
    }

    #[test]
    fn much_steal_is_a_warning() {
        let mut report = example();
        (report.steal.measurement, report.steal.capacity) = (steal(0.019), steal(0.02));
        assert_eq!(warnings(&report), [""; 0]);
        (report.steal.measurement, report.steal.capacity) = (steal(0.11), steal(0.05));
        (report.steal.probes_repeated, report.steal.probes_spoiled) = (3, 1);
        let valid = warnings(&report);
        for (warning, figure) in valid.iter().zip(["took 11 %", "took 5 %", "3 probes"]) {
            assert!(warning.contains(figure), "{warning}");
        }
        report.valid = false;
        assert_eq!(warnings(&report), valid[1..]);
    }
}
