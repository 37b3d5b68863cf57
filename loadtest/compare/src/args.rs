//! The options of `compare`.

use std::path::PathBuf;
use std::time::Duration;

use city::clock::CityClock;
use city::{ReplayArgs, TargetArgs};
use engine::Transport;
use surge_proto::DataflowMode;

use crate::report::{Arrivals, RateStep, Workload};
use crate::scenario::{self, Scenario};

/// What to compare, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The market to compare on: friday-evening, concert, spike, soak, breakpoint, batch-cadence,
    /// pricing-outage, or the path of your own TOML file
    #[arg(long, value_parser = scenario::named_or_read, default_value = scenario::DEFAULT)]
    #[arg(value_name = "NAME|PATH")]
    pub scenario: Scenario,

    /// Quotes requested per second, all modes together
    #[arg(long, default_value_t = 300, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub rate: u32,

    /// How arrivals follow one another: evenly, or at random like those of independent riders
    #[arg(long, value_enum, default_value_t, value_name = "SHAPE")]
    pub arrivals: Arrivals,

    /// Protocol of the quotes; the minimal servers of the floors speak HTTP always
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    pub transport: Transport,

    /// Length of the measurement in real seconds [default: that of the scenario, or 60; with
    /// --quick 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: Option<u32>,

    /// The dataflows to compare
    #[arg(long, value_delimiter = ',', value_name = "MODE,...")]
    #[arg(default_value = "database,request,events")]
    pub modes: Vec<DataflowMode>,

    /// Searches for each capacity, of modes and of their floors in turn; 0 leaves capacity out
    /// [default: 3; with --quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=20))]
    pub rounds: Option<u32>,

    /// Evenings to simulate with each dataflow's data age, and with a few ages more, to see what
    /// age costs the market; 0 leaves that out [default: as many as a minute is enough for, at
    /// most 24; with --quick 3 s and at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub market_seeds: Option<u32>,

    /// Be done within a minute: a shorter warm-up, 10 seconds of measurement, short searches for
    /// capacity
    #[arg(long, conflicts_with_all = ["seconds", "warmup_minutes"])]
    pub quick: bool,

    /// Path of the figures
    #[arg(long, default_value = "report/compare.json", value_name = "PATH")]
    pub json: PathBuf,

    /// Path of the page
    #[arg(long, default_value = "report/compare.html", value_name = "PATH")]
    pub html: PathBuf,

    /// An older report, of the same settings on the same machine in the same hour of the market,
    /// to compare this run with
    #[arg(long, value_name = "PATH", conflicts_with = "from")]
    pub baseline: Option<PathBuf>,

    /// Compare with --baseline although the two runs are not comparable, and say so
    #[arg(long, requires = "baseline")]
    pub baseline_anyway: bool,

    /// Measure nothing: print the table and draw the page of the report in this file again
    #[arg(long, value_name = "PATH")]
    pub from: Option<PathBuf>,

    /// Market minutes before the measurement, in which drivers find their riders [default: 20, at
    /// most one real minute; with --quick 10, at most 6 real seconds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_440))]
    pub warmup_minutes: Option<u32>,

    /// Who lives in the city
    #[command(flatten)]
    pub replay: ReplayArgs,

    /// Where the services are
    #[command(flatten)]
    pub target: TargetArgs,
}

impl Args {
    /// Length of the measurement in real seconds.
    pub(crate) fn measured_seconds(&self) -> u32 {
        let usual = if self.quick {
            10
        } else {
            self.scenario.seconds().unwrap_or(60)
        };
        self.seconds.unwrap_or(usual)
    }

    pub(crate) fn measured_length(&self) -> Duration {
        Duration::from_secs(self.measured_seconds().into())
    }

    /// The warm-up in real time. By default nobody waits long for it, even on a slow market clock.
    pub(crate) fn warmup(&self, clock: &CityClock) -> Duration {
        let real = |minutes: u32| clock.real(Duration::from_secs(60) * minutes);
        match (self.warmup_minutes, self.quick) {
            (Some(minutes), _) => real(minutes),
            (None, true) => real(10).min(Duration::from_secs(6)),
            (None, false) => real(20).min(Duration::from_secs(60)),
        }
    }

    /// The settings that make two runs comparable, in a market of this speed.
    pub(crate) fn workload(&self, speed: f64) -> Workload {
        let steps = self.scenario.rate_steps(self.rate, self.measured_length());
        let steps = steps.into_iter().map(|(rate_per_s, length)| RateStep {
            rate_per_s,
            seconds: length.as_secs_f64(),
        });
        Workload {
            scenario: self.scenario.name().to_owned(),
            seed: self.replay.seed,
            speed,
            rate_per_s: self.rate,
            arrivals: self.arrivals,
            transport: self.transport,
            seconds: self.measured_seconds(),
            rate_steps: steps.collect(),
        }
    }

    /// How long to wait for services and modes that are not ready yet.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(if self.quick { 3 } else { 20 })
    }

    /// The modes to compare, each once.
    pub(crate) fn distinct_modes(&self) -> Vec<DataflowMode> {
        let mut modes = self.modes.clone();
        modes.sort_unstable();
        modes.dedup();
        modes
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use marketplace::MarketTime;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(options: &[&str]) -> Result<Args, String> {
        let command = std::iter::once("compare").chain(options.iter().copied());
        let parsed = Cli::try_parse_from(command);
        parsed
            .map(|cli| cli.args)
            .map_err(|refused| refused.to_string())
    }

    fn clock(speed: f64) -> CityClock {
        CityClock::new(MarketTime::from_millis(0), 0, speed)
    }

    #[test]
    fn default_is_a_minute_of_all_modes() {
        let args = args(&[]).unwrap();
        assert_eq!((args.rate, args.measured_seconds()), (300, 60));
        assert_eq!(args.distinct_modes(), DataflowMode::ALL);
        assert_eq!(args.warmup(&clock(60.0)), Duration::from_secs(20));
    }

    #[test]
    fn default_warmup_is_bounded_in_real_time() {
        let warmup = |options: &[&str]| args(options).unwrap().warmup(&clock(1.0)).as_secs();
        assert_eq!(warmup(&[]), 60);
        assert_eq!(warmup(&["--quick"]), 6);
        assert_eq!(warmup(&["--warmup-minutes", "5"]), 300);
    }

    #[test]
    fn arrivals_are_constant_by_default() {
        let shape = |options: &[&str]| args(options).unwrap().arrivals;
        assert_eq!(shape(&[]), Arrivals::Constant);
        assert_eq!(shape(&["--arrivals", "poisson"]), Arrivals::Poisson);
    }

    #[test]
    fn quick_refuses_to_be_longer() {
        assert_eq!(args(&["--quick"]).unwrap().measured_seconds(), 10);
        let refused = args(&["--quick", "--seconds", "90"]).unwrap_err();
        assert!(refused.contains("--seconds"), "{refused}");
    }

    #[test]
    fn repeated_mode_counts_once_unknown_is_refused() {
        let modes = args(&["--modes", "events,database,events"])
            .unwrap()
            .distinct_modes();
        assert_eq!(modes, [DataflowMode::Database, DataflowMode::Events]);
        let refused = args(&["--modes", "kafka"]).unwrap_err();
        assert!(refused.contains("database, request, events"), "{refused}");
    }

    #[test]
    fn unknown_scenario_is_answered_with_valid_ones() {
        let refused = args(&["--scenario", "moon"]).unwrap_err();
        assert!(refused.contains("friday-evening, concert"), "{refused}");
    }

    #[test]
    fn command_line_overrides_length_of_scenario() {
        let seconds = |options: &[&str]| args(options).unwrap().measured_seconds();
        assert_eq!(seconds(&["--scenario", "soak"]), 3_600);
        assert_eq!(seconds(&["--scenario", "soak", "--seconds", "90"]), 90);
        assert_eq!(seconds(&["--scenario", "soak", "--quick"]), 10);
    }
}
