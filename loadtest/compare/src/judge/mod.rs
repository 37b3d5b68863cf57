//! Judges: which figures may be believed, what they show, and what has changed since an older run.
//!
//! **Void, partial, untrusted.** Three things can be wrong with a run, and each has its own
//! consequence:
//!
//! * *Void*: its figures may be those of something else. The generator missed its schedule, answers
//!   were wrong or missing, a service died, somebody set the clock. Nothing of it is used: no
//!   finding is printed, and the exit code says so.
//! * *Partial*: it was interrupted after the measurement. The figures that it
//!   measured are valid; the others are missing.
//! * *Untrusted oracle*: latencies and ages are valid, but the right multiplier is unknown. Then
//!   the report prints no multiplier error, and says why.
//!
//! This module decides, and [`wording`](crate::wording) says it. It reads what was measured and the
//! report, and prints nothing.

pub(crate) mod baseline;
mod changes;
mod findings;
mod market;
mod oracle;
mod validity;

use chrono::SecondsFormat;
use engine::Transport;

pub(crate) use self::baseline::NotComparable;
pub(crate) use self::changes::machine_change;
pub(crate) use self::findings::findings;
pub(crate) use self::market::findings as market_findings;
pub(crate) use self::validity::void_reasons;
use crate::measure::{self, Run, machine};
use crate::report::{CompareReport, Generator, Market, SCHEMA};

/// The report of a run: the only place where one is made. `warnings` are those from before the run.
pub(crate) fn report(
    run: Run,
    warnings: Vec<String>,
    older: Option<baseline::Older>,
) -> CompareReport {
    let void_reasons = void_reasons(&run.load, &run.capacities, run.interrupted);
    let untrusted_oracle = oracle::distrust(&run);
    let facts = oracle::without_untrusted_errors(CompareReport {
        schema: SCHEMA.to_owned(),
        started_at: run.started_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        git: machine::git_commit(),
        machine: machine::this_machine(),
        steal: run.steal,
        valid: void_reasons.is_empty(),
        void_reasons,
        untrusted_oracle,
        coverage: Some(run.coverage),
        warnings: [warnings, run.capacities.warnings.clone()].concat(),
        modes: run.modes,
        floors: measure::floors(&run.capacities),
        generator: measure::generator(&run.capacities),
        city: Market {
            fleet: run.fleet,
            measured_from: run.load.market.map(|(from, _)| from.to_string()),
            measured_until: run.load.market.map(|(_, until)| until.to_string()),
            outcome: Some(run.city),
        },
        baseline: None,
        series: run.series,
        market_cost: run.market_cost,
        breakpoint: run.ramp,
        workload: run.workload,
    });
    let facts = without_floors_of_another_transport(facts);
    CompareReport {
        warnings: [facts.warnings.clone(), validity::warnings(&facts)].concat(),
        baseline: older.map(|older| older.changes_to(&facts)),
        ..facts
    }
}

/// Bare servers speak HTTP only. Quotes over another transport cannot be compared with them, and
/// the load generator's share of those was not measured.
fn without_floors_of_another_transport(mut report: CompareReport) -> CompareReport {
    if report.workload.transport != Transport::Http {
        report.generator = Generator::default();
        for mode in report.modes.values_mut() {
            mode.share_of_floor = None;
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use surge_proto::DataflowMode;

    use super::*;
    use crate::report::example;

    #[test]
    fn grpc_report_has_no_share_of_floor() {
        let mut report = example();
        report.workload.transport = Transport::Grpc;
        let figures = report.modes.get_mut(&DataflowMode::Events).unwrap();
        (figures.capacity_per_s, figures.share_of_floor) = (Some(4_808.0), Some(0.24));
        report.generator.cpu_us_per_quote = Some(29.0);
        let report = without_floors_of_another_transport(report);
        let findings = findings(&report).join(" ");
        assert!(findings.contains("4808 quotes per second."), "{findings}");
        assert!(!findings.contains("load generator"), "{findings}");
        assert!(validity::warnings(&report)[0].contains("speak HTTP only"));
    }
}
