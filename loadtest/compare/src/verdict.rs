//! Judges a run: why its figures may not be believed, what to be wary of, and what there is to see in them.
//!
//! Every sentence is computed from the figures; a figure that is missing says nothing.

use std::cmp::Ordering;
use std::time::Duration;

use surge_proto::DataflowMode;

use super::capacity::{Capacities, Capacity};
use super::climb;
use super::measure::Measured;
use super::report::{ModeFigures, Report};
use super::stolen::{DURING_THE_MEASUREMENT, Stolen};
use super::tally::{Failures, Tally};
use engine::Transport;

/// Why the run is void; empty when it is valid.
pub(crate) fn void_reasons(
    measured: &Measured,
    capacities: &Capacities,
    interrupted: bool,
) -> Vec<String> {
    let mut reasons = Vec::new();
    if interrupted {
        reasons.push("interrupted: the figures are those of the part that was done".to_owned());
    }
    let Some(delivery) = &measured.delivery else {
        reasons.push("stopped before the first measured quote".to_owned());
        return reasons;
    };
    let first = reasons.len();
    reasons.extend(delivery.faults());
    let outcomes: u64 = measured.tallies.values().map(Tally::outcomes).sum();
    let unchecked = delivery
        .sent
        .saturating_sub(outcomes + delivery.unanswered as u64);
    if unchecked > 0 {
        reasons.push(format!("{unchecked} answers were not checked"));
    }
    for (mode, tally) in &measured.tallies {
        reasons.extend(faults_of(*mode, tally));
    }
    let lasted = measured.answered_within.unwrap_or_default();
    reasons.extend(clock_was_set(measured.clock_set_by_s, lasted));
    if reasons.len() > first {
        reasons.splice(first..first, taken_away(measured));
    }
    let driven = capacities.modes.iter().chain(&capacities.floors);
    reasons.extend(driven.filter_map(|(mode, capacity)| {
        let wrong = capacity.wrong.as_ref()?;
        Some(format!(
            "{mode}, driven to its limit, answered wrongly: {wrong}"
        ))
    }));
    reasons.extend(capacities.modes.iter().filter_map(fruitless));
    reasons
}

/// What may have been behind all that went wrong in a measurement.
fn taken_away(measured: &Measured) -> Option<String> {
    let stolen = measured.stolen.filter(Stolen::is_noteworthy)?;
    let taken = stolen.in_words(DURING_THE_MEASUREMENT);
    Some(format!(
        "{taken}: what follows may be its doing, not that of a service"
    ))
}

/// A service that holds nothing at all has no capacity; its figure must not pass for that of the rounds in which it lived.
fn fruitless((mode, capacity): (&DataflowMode, &Capacity)) -> Option<String> {
    let reason = capacity.last_error.as_deref();
    (capacity.fruitless > 0).then(|| {
        format!(
            "{mode}: {} of {} searches for its capacity found no rate that holds, not even the lowest: {}",
            capacity.fruitless,
            capacity.fruitless as usize + capacity.rounds.len(),
            reason.unwrap_or("every answer took too long")
        )
    })
}

/// Latencies come from a clock that nobody sets; ages, prices and the oracle do not.
fn clock_was_set(by_s: f64, within: Duration) -> Option<String> {
    let most = MOST_SET_S + MOST_SLEWED * within.as_secs_f64();
    let way = if by_s < 0.0 { "back" } else { "forward" };
    (by_s.abs() > most).then(|| {
        format!(
            "the wall clock was set {way} by {:.1} s during the measurement, and market time with it: data ages and \
             multipliers are not those of one market",
            by_s.abs()
        )
    })
}

/// Seconds. Two readings are taken a moment apart from those of the other clock.
const MOST_SET_S: f64 = 0.5;

/// Of the time that passes: twice of what the kernel does to bring a clock right without setting it.
const MOST_SLEWED: f64 = 0.001;

fn faults_of(mode: DataflowMode, tally: &Tally) -> Vec<String> {
    let (wrong, missing): (Vec<_>, Vec<_>) = tally
        .failures()
        .partition(|failures| failures.wrong_answers);
    let mut faults: Vec<String> = wrong
        .into_iter()
        .map(|wrong| wrong_answers(mode, wrong))
        .collect();
    let failed: u64 = missing.iter().map(|failures| failures.count).sum();
    if failed as f64 > MOST_FAILED * tally.outcomes() as f64 {
        let examples: Vec<&str> = missing.iter().map(|kind| kind.example.as_str()).collect();
        faults.push(format!(
            "{mode}: {failed} of {} quotes failed, so that its p99 is unknown: {}",
            tally.outcomes(),
            examples.join("; ")
        ));
    } else if tally.quotes == 0 {
        faults.push(format!("{mode}: no quote was answered"));
    }
    faults
}

fn wrong_answers(mode: DataflowMode, wrong: &Failures) -> String {
    let (count, example) = (wrong.count, &wrong.example);
    format!("{mode}: {count} answers were wrong, the first: {example}")
}

/// The 99th percentile needs 99 answers in a hundred.
const MOST_FAILED: f64 = 0.01;

/// What a reader should be wary of although the run is valid.
pub(crate) fn warnings(report: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    for (mode, figures) in &report.modes {
        if figures.degraded > 0 {
            warnings.push(format!(
                "{mode}: {} of {} quotes were degraded, that is priced without surge for want of fresh data",
                figures.degraded, figures.quotes
            ));
        }
    }
    warnings.extend(report.stolen.warnings(report.valid));
    if report.workload.transport == Transport::Grpc && report.has_capacities() {
        warnings.push(
            "bare servers are asked over HTTP always: nothing is told of shares of a floor, or of what the load generator \
             takes, over gRPC"
                .to_owned(),
        );
    }
    if report.valid && !report.is_complete() {
        warnings.push(
            "the run did not come to its end: what is here was measured, and what is missing was not".to_owned(),
        );
    }
    let request = report.modes.get(&DataflowMode::Request);
    if let Some(off) = request.and_then(|request| request.multiplier_error.mean_abs)
        && off > ORACLE_TOLERANCE
    {
        warnings.push(format!(
            "request reads the market live and must agree with the city's books, yet it is off by {off:.3} on average \
             ({ORACLE_TOLERANCE} is allowed): something else uses these services, or one of the two is wrong"
        ));
    }
    warnings
}

/// Rounding to tenths turns a difference of milliseconds into 0.1 now and then, hence not zero.
const ORACLE_TOLERANCE: f64 = 0.02;

/// What to look at, in a few sentences; empty when there is too little to compare.
pub(crate) fn findings(report: &Report) -> Vec<String> {
    let fastest = least(report, |mode| Some(mode.latency_us.p50? as f64));
    let freshest = least(report, |mode| mode.data_age_ms.p50);
    let stalest = least(report, |mode| mode.data_age_ms.p50.map(|age| -age));
    let mut findings = Vec::new();
    if let (Some(fastest), Some(freshest)) = (fastest, freshest)
        && report.modes.len() > 1
    {
        findings.push(best(fastest, freshest));
        findings.extend(price_of_freshness(fastest, freshest));
    }
    findings.extend(stalest.and_then(|stalest| price_of_age(report, stalest)));
    findings.extend(stalest.and_then(|stalest| without_price_of_age(report, stalest.0)));
    findings.extend(report.breakpoint.as_ref().and_then(climb::finding));
    findings.extend(most_quotes(report));
    findings.extend(generator_share(report));
    findings
}

fn best(fastest: Named<'_>, freshest: Named<'_>) -> String {
    let latency = fastest
        .1
        .latency_us
        .p50
        .map_or(0.0, |us| us as f64 / 1000.0);
    let age = freshest.1.data_age_ms.p50.unwrap_or(0.0);
    if fastest.0 == freshest.0 {
        let mode = fastest.0;
        return format!(
            "{mode} is both the fastest (half of its quotes within {latency:.1} ms) and the freshest."
        );
    }
    format!(
        "{} is the fastest (half of its quotes within {latency:.1} ms), {} the freshest (data {} old).",
        fastest.0,
        freshest.0,
        real_age(age)
    )
}

/// What the oldest data costs: how many quotes missed the right multiplier.
fn price_of_age(report: &Report, (mode, figures): Named<'_>) -> Option<String> {
    let age = age_in_words(figures.data_age_ms.p50?, report.workload.speed);
    let off = figures.multiplier_error.share_off_by_0_2? * 100.0;
    Some(if off < 0.1 {
        format!(
            "Age costs little here: even {mode}, from data that is {age} old, has fewer than 1 quote in 1000 off by \
             0.2 or more."
        )
    } else {
        format!(
            "Age costs accuracy: {mode} prices from data that is {age} old, and {off:.1} % of its quotes are off by \
             0.2 or more."
        )
    })
}

/// What the freshest mode pays for it, beside the fastest.
fn price_of_freshness(fastest: Named<'_>, freshest: Named<'_>) -> Option<String> {
    let milliseconds = |named: Named<'_>| Some(named.1.latency_us.p50? as f64 / 1000.0);
    let (fast, fresh) = (milliseconds(fastest)?, milliseconds(freshest)?);
    let younger = fastest.1.data_age_ms.p50? - freshest.1.data_age_ms.p50?;
    (fastest.0 != freshest.0 && fast > 0.0).then(|| {
        format!(
            "Full freshness costs latency: data {} younger than that of {} takes {} {:.1} ms more, {:.1} times as long.",
            real_age(younger),
            fastest.0,
            freshest.0,
            fresh - fast,
            fresh / fast
        )
    })
}

/// The modes that age costs nothing, beside the one that it costs most.
fn without_price_of_age(report: &Report, stalest: DataflowMode) -> Option<String> {
    let costs_nothing = |(mode, figures): &(&DataflowMode, &ModeFigures)| {
        let off = figures.multiplier_error.share_off_by_0_2;
        **mode != stalest && off.is_some_and(|off| off < 0.001)
    };
    let spared: Vec<_> = report.modes.iter().filter(costs_nothing).collect();
    let names: Vec<&str> = spared.iter().map(|(mode, _)| mode.as_str()).collect();
    let ages = spared
        .iter()
        .filter_map(|(_, figures)| figures.data_age_ms.p50);
    let oldest = age_in_words(ages.reduce(f64::max)?, report.workload.speed);
    Some(format!(
        "No such cost for {}: at data up to {oldest} old, fewer than 1 quote in 1000 is off by 0.2 or more.",
        names.join(" and ")
    ))
}

/// Who holds the most, and how much of what is possible on the same ground.
fn most_quotes(report: &Report) -> Option<String> {
    let (mode, figures) = least(report, |mode| mode.capacity_per_s.map(|rate| -rate))?;
    let rate = figures.capacity_per_s?;
    let floor = figures.share_of_floor.map(|share| {
        let percent = share * 100.0;
        format!(": {percent:.0} % of what a bare server does that stands on the same")
    });
    let rivals = report.modes.len() > 1;
    let what = if rivals { "the most quotes, " } else { "" };
    Some(format!(
        "{mode} holds {what}{rate:.0} a second{}.",
        floor.unwrap_or_default()
    ))
}

/// How much of the machine was not there for the services, because the load came from it.
fn generator_share(report: &Report) -> Option<String> {
    let micros = report.generator.cpu_us_per_quote?;
    let cpus = report.machine.cpus?;
    let rate = report.workload.rate_per_s;
    let percent = f64::from(rate) * micros / 1e6 / cpus as f64 * 100.0;
    Some(format!(
        "To ask {rate} quotes/s the load generator itself takes {percent:.1} % of the machine's {cpus} processors."
    ))
}

type Named<'a> = (DataflowMode, &'a ModeFigures);

/// The mode with the smallest figure, of those that have one.
fn least(report: &Report, figure: impl Fn(&ModeFigures) -> Option<f64>) -> Option<Named<'_>> {
    let known = report.modes.iter().filter_map(|(mode, figures)| {
        let value = figure(figures)?;
        Some((value, (*mode, figures)))
    });
    known
        .min_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal))
        .map(|(_, named)| named)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;
    use engine::{SendReport, histogram};

    #[test]
    fn the_findings_name_the_fastest_the_freshest_and_what_age_costs() {
        assert_eq!(
            findings(&example()),
            [
                "events is the fastest (half of its quotes within 0.3 ms), request the freshest (data 1 ms old).",
                "Full freshness costs latency: data 140 ms younger than that of events takes request 0.8 ms more, 3.7 \
                 times as long.",
                "Age costs accuracy: database prices from data that is 2.5 s (2.5 min of this market) old, and 11.2 % \
                 of its quotes are off by 0.2 or more.",
                "No such cost for request and events: at data up to 141 ms (8 s of this market) old, fewer than 1 quote \
                 in 1000 is off by 0.2 or more.",
            ]
        );
    }

    #[test]
    fn a_mode_alone_is_not_compared_and_age_may_cost_little() {
        let mut report = example();
        report.modes.retain(|&mode, _| mode == DataflowMode::Events);
        assert_eq!(
            findings(&report),
            [
                "Age costs little here: even events, from data that is 141 ms (8 s of this market) old, has fewer \
                 than 1 quote in 1000 off by 0.2 or more."
            ]
        );
    }

    #[test]
    fn who_holds_the_most_is_named_with_its_share_and_what_the_load_takes_itself() {
        let mut report = example();
        for (mode, capacity, share) in [
            (DataflowMode::Request, 800.0, 0.4),
            (DataflowMode::Events, 2_731.0, 0.62),
        ] {
            let figures = report.modes.get_mut(&mode).unwrap();
            figures.capacity_per_s = Some(capacity);
            figures.share_of_floor = Some(share);
        }
        report.generator.cpu_us_per_quote = Some(100.0);
        let findings = findings(&report);
        assert_eq!(
            findings[4..],
            [
                "events holds the most quotes, 2731 a second: 62 % of what a bare server does that stands on the same.",
                // 300 quotes/s of 100 us are 0.03 of one processor of two.
                "To ask 300 quotes/s the load generator itself takes 1.5 % of the machine's 2 processors.",
            ]
        );
    }

    #[test]
    fn figures_that_are_missing_say_nothing() {
        let mut report = example();
        for figures in report.modes.values_mut() {
            figures.latency_us.p50 = None;
            figures.data_age_ms.p50 = None;
        }
        assert_eq!(findings(&report), [""; 0]);
    }

    #[test]
    fn a_live_mode_that_disagrees_with_the_books_and_degraded_quotes_are_pointed_out() {
        let mut report = example();
        assert_eq!(warnings(&report), [""; 0]);
        let request = report.modes.get_mut(&DataflowMode::Request).unwrap();
        request.multiplier_error.mean_abs = Some(0.05);
        request.degraded = 7;
        let warnings = warnings(&report);
        assert!(
            warnings[0].contains("7 of 6000 quotes were degraded"),
            "{warnings:?}"
        );
        assert!(warnings[1].contains("off by 0.050"), "{warnings:?}");
    }

    #[test]
    fn what_the_hypervisor_took_is_named_before_what_came_of_it_and_voids_nothing_by_itself() {
        let measured = |quotes, share| {
            let mut measured = Measured::nothing(&[DataflowMode::Events]);
            measured
                .tallies
                .values_mut()
                .for_each(|tally| tally.quotes = quotes);
            measured.stolen = Some(Stolen {
                stolen_share: share,
                worst_second_share: share,
            });
            measured.delivery = Some(SendReport {
                sent: quotes,
                dropped: 0,
                unanswered: 0,
                paced_for: Duration::from_secs(1),
                lasted: Duration::from_secs(1),
                lateness: histogram(),
            });
            void_reasons(&measured, &Capacities::default(), false)
        };
        assert_eq!(measured(9, 0.5), [""; 0]);
        let said = measured(0, 0.11);
        assert!(
            said[0].starts_with("the hypervisor took 11 % of the processors"),
            "{said:?}"
        );
        assert_eq!(said[1..], ["events: no quote was answered"]);
        assert_eq!(measured(0, 0.01), said[1..]);
    }

    #[test]
    fn a_clock_that_was_set_voids_the_run_and_one_that_is_disciplined_does_not() {
        let minute = Duration::from_secs(60);
        assert_eq!(clock_was_set(0.03, minute), None);
        assert_eq!(clock_was_set(1.8, minute * 60), None, "an hour of slewing");
        let back = clock_was_set(-20.0, minute).unwrap();
        assert!(back.contains("set back by 20.0 s"), "{back}");
        let forward = clock_was_set(3_600.0, minute).unwrap();
        assert!(forward.contains("set forward by 3600.0 s"), "{forward}");
    }

    #[test]
    fn over_grpc_nothing_is_held_against_servers_that_were_asked_over_http() {
        let mut report = example();
        report.workload.transport = Transport::Grpc;
        let figures = report.modes.get_mut(&DataflowMode::Events).unwrap();
        (figures.capacity_per_s, figures.share_of_floor) = (Some(4_808.0), Some(0.24));
        report.generator.cpu_us_per_quote = Some(29.0);
        let report = report.without_what_another_transport_told();
        let findings = findings(&report).join(" ");
        assert!(findings.contains("4808 a second."), "{findings}");
        assert!(!findings.contains("load generator"), "{findings}");
        assert!(warnings(&report)[0].contains("over HTTP always"));
    }

    #[test]
    fn a_mode_that_held_nothing_in_one_round_voids_the_run() {
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
    fn a_run_that_never_began_is_void() {
        let measured = Measured::nothing(&DataflowMode::ALL);
        let reasons = void_reasons(&measured, &Capacities::default(), true);
        assert_eq!(reasons.len(), 2);
    }
}
