//! Compares the three dataflows on the same market at the same moment.
//!
//! **How this works.** The city brings the market to life. When it has warmed up, every trip is
//! requested of each mode in turn at a fixed rate; each answer is checked, and its multiplier is
//! compared with the right one at that moment. Then each mode is driven to its limit, in turn with
//! minimal servers built on the same libraries.
//!
//! The work has three steps, and imports go one way, from right to left:
//!
//! ```text
//! measure  ->  judge  ->  render          what happened  ->  what it means  ->  table, page, files
//!                 \        /
//!                  wording                every sentence
//! report, statistics, scenario, args      plain data and calculations, below all of them
//! ```
//!
//! A run that cannot be trusted is *void*: the table, the report and the exit code say so. Start to
//! read at [`run_until`].

mod args;
pub mod ask;
mod judge;
mod measure;
mod render;
pub mod report;
mod scenario;
mod statistics;
pub mod whole_file;
mod wording;

use city::clock::CityClock;
use city::interrupt::INTERRUPTED;
use marketplace::ServiceArea;
use tokio_util::sync::CancellationToken;

pub use args::Args;
use judge::NotComparable;
use judge::baseline::{Circumstances, Older};
use measure::{Progress, TestedServices};
use report::CompareReport;
pub use scenario::Scenario;

/// Compares as the options say, prints the table and writes the reports. Ctrl-C gives the partial
/// result, marked as void.
///
/// # Errors
/// When there was nothing to measure: a service or a mode is missing, or the run was interrupted
/// before it began. Also when a report cannot be written, after the table was printed.
pub async fn run(args: Args) -> anyhow::Result<CompareOutcome> {
    run_until(args, city::interrupt::on_signal()).await
}

/// [`run`], but stopped by the caller.
///
/// # Errors
/// As [`run`].
pub async fn run_until(args: Args, stop: CancellationToken) -> anyhow::Result<CompareOutcome> {
    if let Some(path) = &args.from {
        let report = CompareReport::read(path)?;
        render::redraw(&report, &args.html)?;
        let interrupted = false;
        return Ok(CompareOutcome {
            report,
            interrupted,
        });
    }
    let area = ServiceArea::new(args.replay.service_area);
    let crowds = args.scenario.takes_place_in(&area);
    crowds.map_err(anyhow::Error::msg)?;
    let services = TestedServices::connect(&args)?;
    let ready = stop.run_until_cancelled(services.ready(&args)).await;
    let (clock, warnings) = ready.ok_or(Interrupted)??;
    let (scenario, purpose) = (args.scenario.name(), args.scenario.purpose());
    city::output::note(format_args!("Scenario {scenario}: {purpose}"));
    // Refused before a minute is spent on a run that could not be compared in the end.
    let older = older(&args, &clock)?;

    let run = measure::run(&args, &services, clock, Progress::on_stderr(), &stop).await?;
    let interrupted = run.interrupted;
    let report = judge::report(run, warnings, older);
    render::publish(&report, &args.json, &args.html)?;
    Ok(CompareOutcome {
        report,
        interrupted,
    })
}

/// The run to compare this one with, where the options name one.
fn older(args: &Args, clock: &CityClock) -> anyhow::Result<Option<Older>> {
    let Some(path) = &args.baseline else {
        return Ok(None);
    };
    let planned = Circumstances {
        machine: measure::machine::this_machine(),
        workload: args.workload(clock.speed()),
        fleet: args.replay.fleet,
        modes: args.distinct_modes(),
        market_time: clock.now() + clock.market(args.warmup(clock)),
    };
    Older::read(path, &planned, args.baseline_anyway).map(Some)
}

/// The end of a comparison.
#[derive(Debug, Clone)]
pub struct CompareOutcome {
    /// The figures, as in `compare.json`.
    pub report: CompareReport,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

impl CompareOutcome {
    /// The code to exit with: 0 for a valid run, 130 for an interrupted one, 1 for one that is
    /// void.
    pub const fn exit_code(&self) -> u8 {
        match (self.interrupted, self.report.valid) {
            (true, _) => INTERRUPTED,
            (false, true) => 0,
            (false, false) => 1,
        }
    }
}

/// The code to exit with after a failure: 130 when interrupted, 2 for a baseline that cannot be
/// one, 1 for anything else.
pub fn exit_code_of(error: &anyhow::Error) -> u8 {
    if error.is::<Interrupted>() {
        INTERRUPTED
    } else if error.is::<NotComparable>() {
        2
    } else {
        1
    }
}

/// The run was stopped before there was anything to report.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted before anything was measured")]
pub struct Interrupted;
