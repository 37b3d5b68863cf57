//! What there is to see in the figures of a valid run. A figure that is missing gives no finding.

use std::cmp::Ordering;

use crate::report::{CompareReport, ModeFigures};
use crate::wording::findings as say;
use crate::wording::findings::Named;

/// The findings of a report, a sentence each; empty when there is too little to compare.
pub(crate) fn findings(report: &CompareReport) -> Vec<String> {
    let fastest = least(report, |mode| Some(mode.latency_us.p50? as f64));
    let freshest = least(report, |mode| mode.data_age_ms.p50);
    let mut findings = Vec::new();
    if let (Some(fastest), Some(freshest)) = (fastest, freshest)
        && report.modes.len() > 1
    {
        findings.push(say::fastest_and_freshest(fastest, freshest));
        findings.extend(price_of_freshness(fastest, freshest));
    }
    findings.extend(price_of_age(report));
    if let Some(ramp) = &report.breakpoint
        && let Some(last) = ramp.steps.last()
    {
        findings.push(say::stress_ramp(ramp, last));
    }
    findings.extend(highest_capacity(report));
    findings.extend(generator_share(report));
    findings
}

/// What the freshest mode pays for it, beside the fastest.
fn price_of_freshness(fastest: Named<'_>, freshest: Named<'_>) -> Option<String> {
    let milliseconds = |named: Named<'_>| Some(named.1.latency_us.p50? as f64 / 1000.0);
    let (fresh, fast) = (milliseconds(freshest)?, milliseconds(fastest)?);
    let fresher_by = fastest.1.data_age_ms.p50? - freshest.1.data_age_ms.p50?;
    let sentence = || say::price_of_freshness(freshest.0, fastest.0, fresher_by, (fresh, fast));
    (fastest.0 != freshest.0 && fast > 0.0).then(sentence)
}

/// How many quotes of the mode with the oldest data are wrong, and which modes are right.
fn price_of_age(report: &CompareReport) -> Vec<String> {
    const ACCURATE: f64 = 0.001;
    let share = |figures: &ModeFigures| figures.multiplier_error.share_off_by_0_2;
    let stalest = least(report, |mode| mode.data_age_ms.p50.map(|age| -age));
    let wrong = stalest.and_then(|(mode, figures)| {
        let (share, age) = (share(figures)?, figures.data_age_ms.p50?);
        (share >= ACCURATE).then(|| say::price_of_age(mode, share, age, report.workload.speed))
    });
    let known = report
        .modes
        .iter()
        .filter(|(_, figures)| figures.data_age_ms.p50.is_some());
    let accurate =
        known.filter(|(_, figures)| share(figures).is_some_and(|share| share < ACCURATE));
    let accurate: Vec<&str> = accurate.map(|(mode, _)| mode.as_str()).collect();
    let accurate = (!accurate.is_empty()).then(|| say::accurate(&accurate));
    wrong.into_iter().chain(accurate).collect()
}

fn highest_capacity(report: &CompareReport) -> Option<String> {
    let (mode, figures) = least(report, |mode| mode.capacity_per_s.map(|rate| -rate))?;
    let alone = report.modes.len() == 1;
    Some(say::highest_capacity(
        mode,
        figures.capacity_per_s?,
        figures.share_of_floor,
        alone,
    ))
}

fn generator_share(report: &CompareReport) -> Option<String> {
    let (micros, cpus) = (report.generator.cpu_us_per_quote?, report.machine.cpus?);
    let rate = report.workload.rate_per_s;
    let share = f64::from(rate) * micros / 1e6 / cpus as f64;
    Some(say::generator_share(rate, share, cpus))
}

/// The mode with the smallest figure, of those that have one.
fn least(
    report: &CompareReport,
    figure: impl Fn(&ModeFigures) -> Option<f64>,
) -> Option<Named<'_>> {
    let known = report
        .modes
        .iter()
        .filter_map(|(mode, figures)| Some((figure(figures)?, (*mode, figures))));
    let least = known.min_by(|a, b| a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal));
    least.map(|(_, named)| named)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use surge_proto::DataflowMode;

    use super::*;
    use crate::report::{Breakpoint, RampStep, StepResult, example};

    #[test]
    fn findings_name_fastest_freshest_and_price() {
        assert_eq!(
            findings(&example()),
            [
                "events is the fastest mode (half of its quotes within 0.3 ms). request uses the \
                 freshest data (1 ms old).",
                "request uses data 140 ms fresher than events and takes 0.8 ms longer (3.7x).",
                "database: 11.2 % of quotes are wrong by 0.2 or more; its data is 2.5 s (2.5 min \
                 of this market) old.",
                "request and events: fewer than 1 in 1000 quotes is wrong by 0.2 or more.",
            ]
        );
    }

    #[test]
    fn single_mode_is_not_compared() {
        let mut report = example();
        report.modes.retain(|&mode, _| mode == DataflowMode::Events);
        assert_eq!(
            findings(&report),
            ["events: fewer than 1 in 1000 quotes is wrong by 0.2 or more."]
        );
    }

    #[test]
    fn highest_capacity_has_its_share_of_floor() {
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
        assert_eq!(
            findings(&report)[4..],
            [
                "events sustains the highest rate, 2731 quotes per second: 62 % of the rate of \
                 a minimal server built on the same libraries.",
                // 300 quotes/s of 100 us are 0.03 of one processor of two.
                "At 300 quotes/s the load generator itself takes 1.5 % of the machine's 2 \
                 processors.",
            ]
        );
    }

    #[test]
    fn missing_figures_give_no_finding() {
        let mut report = example();
        for figures in report.modes.values_mut() {
            figures.latency_us.p50 = None;
            figures.data_age_ms.p50 = None;
        }
        assert_eq!(findings(&report), [""; 0]);
    }

    #[test]
    fn unknown_error_gives_no_finding_about_age() {
        let mut report = example();
        for figures in report.modes.values_mut() {
            figures.multiplier_error.share_off_by_0_2 = None;
        }
        assert_eq!(findings(&report).len(), 2);
    }

    fn step(rate_per_s: u32, database: (bool, u64), events: (bool, u64)) -> RampStep {
        let result = |(holds, p99)| StepResult {
            holds,
            errors: 0,
            latency_us_p99: Some(p99),
        };
        RampStep {
            rate_per_s,
            generator_late: false,
            modes: BTreeMap::from([
                (DataflowMode::Database, result(database)),
                (DataflowMode::Events, result(events)),
            ]),
        }
    }

    fn ramp_finding(steps: Vec<RampStep>) -> Option<String> {
        let mut report = example();
        report.modes.clear();
        report.breakpoint = Some(Breakpoint { steps });
        findings(&report).pop()
    }

    #[test]
    fn failing_dataflow_is_named_with_rate() {
        let mut steps = vec![
            step(300, (true, 4_000), (true, 2_000)),
            step(450, (false, 81_000), (true, 3_000)),
        ];
        assert_eq!(
            ramp_finding(steps.clone()).unwrap(),
            "The services break at 450 quotes/s, 2 dataflows together (they sustained 300): \
             database failed (p99 81 ms, 50 ms allowed, 0 errors)."
        );
        steps[1].generator_late = true;
        assert!(ramp_finding(steps).unwrap().ends_with("may be its own."));
    }

    #[test]
    fn ramp_without_failure_names_last_rate() {
        let steps = vec![step(300, (true, 4_000), (true, 2_000))];
        assert_eq!(
            ramp_finding(steps).unwrap(),
            "No dataflow failed up to 300 quotes/s."
        );
        assert_eq!(ramp_finding(vec![]), None);
    }
}
