//! The options of `compare`.

use std::path::PathBuf;
use std::time::Duration;

use surge_proto::DataflowMode;

use super::baseline::{Circumstances, Older};
use super::capacity::Effort;
use super::market_cost::Seeds;
use super::report::RateStep;
use super::scenario::{self, Scenario};
use super::workload::Arrivals;
use super::{Machine, Workload};
use city::ReplayArgs;
use city::TargetArgs;
use city::clock::MarketClock;
use engine::Transport;

/// What to compare, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The market to compare on: friday-evening, concert, spike, soak, breakpoint, batch-cadence, pricing-outage, or a
    /// TOML file of one's own
    #[arg(long, value_parser = scenario::named_or_read, default_value = scenario::DEFAULT, value_name = "NAME|PATH")]
    pub scenario: Scenario,

    /// Quotes asked a second, all modes together
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub rate: u32,

    /// How arrivals follow one another: evenly, or as those of people who do not know of each other
    #[arg(long, value_enum, default_value_t, value_name = "SHAPE")]
    pub arrivals: Arrivals,

    /// How quotes are asked; bare servers are asked over HTTP always
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    pub transport: Transport,

    /// Length of the measurement in real seconds [default: that of the scenario, or 60; with --quick 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: Option<u32>,

    /// The dataflows to compare
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "MODE,...",
        default_value = "database,request,events"
    )]
    pub modes: Vec<DataflowMode>,

    /// Searches of each capacity, of modes and of bare servers in turn; 0 leaves capacity out [default: 3; with --quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=20))]
    pub rounds: Option<u32>,

    /// Evenings to live with each dataflow's data age, and with a few ages more, to see what age costs the market; 0
    /// leaves that out [default: as many as a minute is enough for, at most 24; with --quick 3 s and at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub market_seeds: Option<u32>,

    /// Be done within a minute: a shorter warm-up, 10 seconds of measurement, short searches for capacity
    #[arg(long, conflicts_with_all = ["seconds", "warmup_minutes"])]
    pub quick: bool,

    /// Where the figures go
    #[arg(long, default_value = "report/compare.json", value_name = "PATH")]
    pub json: PathBuf,

    /// Where the page goes
    #[arg(long, default_value = "report/compare.html", value_name = "PATH")]
    pub html: PathBuf,

    /// An older receipt, of the same settings on the same machine, to tell the changes from
    #[arg(long, value_name = "PATH", conflicts_with = "from")]
    pub baseline: Option<PathBuf>,

    /// Compare with --baseline although the two runs are not comparable, and say so
    #[arg(long, requires = "baseline")]
    pub baseline_anyway: bool,

    /// Measure nothing: print the table and draw the page of the figures in this file again
    #[arg(long, value_name = "PATH")]
    pub from: Option<PathBuf>,

    /// Market minutes before the measurement, in which drivers find their riders [default: 20, at most one real minute;
    /// with --quick 10, at most 6 real seconds]
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
    pub(super) fn measured_seconds(&self) -> u32 {
        let usual = if self.quick {
            10
        } else {
            self.scenario.seconds().unwrap_or(60)
        };
        self.seconds.unwrap_or(usual)
    }

    /// The warm-up in real time. What nobody asked for does not keep anybody waiting, even on a slow market clock.
    pub(super) fn warmup(&self, clock: &MarketClock) -> Duration {
        let real = |minutes: u32| clock.real(Duration::from_secs(60) * minutes);
        match (self.warmup_minutes, self.quick) {
            (Some(minutes), _) => real(minutes),
            (None, true) => real(10).min(Duration::from_secs(6)),
            (None, false) => real(20).min(Duration::from_secs(60)),
        }
    }

    /// The settings that make two runs comparable.
    pub(super) fn workload(&self, clock: &MarketClock) -> Workload {
        Workload {
            scenario: self.scenario.name().to_owned(),
            seed: self.replay.seed,
            speed: clock.speed(),
            rate_per_s: self.rate,
            arrivals: self.arrivals,
            transport: self.transport,
            seconds: self.measured_seconds(),
            rate_steps: self.rate_steps(),
        }
    }

    fn rate_steps(&self) -> Vec<RateStep> {
        let length = Duration::from_secs(self.measured_seconds().into());
        let steps = self.scenario.rate_steps(self.rate, length);
        let step = |(rate_per_s, length): (u32, Duration)| RateStep {
            rate_per_s,
            seconds: length.as_secs_f64(),
        };
        steps.into_iter().map(step).collect()
    }

    /// The run to hold this one against, where one is named.
    pub(super) fn older(&self, clock: &MarketClock) -> anyhow::Result<Option<Older>> {
        let Some(path) = &self.baseline else {
            return Ok(None);
        };
        let planned = Circumstances {
            machine: Machine::here(),
            workload: self.workload(clock),
            fleet: self.replay.fleet,
            modes: self.distinct_modes(),
        };
        Older::of(path, &planned, self.baseline_anyway).map(Some)
    }

    /// How thoroughly to look for capacities.
    pub(super) fn effort(&self) -> Effort {
        let modes = u32::try_from(self.distinct_modes().len()).unwrap_or(1);
        let quiet_rate = (self.rate / modes.max(1)).max(1);
        let effort = if self.quick {
            Effort::quick(quiet_rate)
        } else {
            Effort::thorough(quiet_rate)
        };
        Effort {
            rounds: self.rounds.unwrap_or(effort.rounds),
            ..effort
        }
    }

    /// How many evenings to live with each pricing, and when to leave it at fewer.
    pub(super) fn seeds(&self) -> Seeds {
        let (most, seconds) = if self.quick { (8, 3) } else { (24, 60) };
        Seeds {
            first: self.replay.seed,
            most: self.market_seeds.unwrap_or(most),
            // Who asks for a number gets it.
            within: match self.market_seeds {
                Some(_) => Duration::MAX,
                None => Duration::from_secs(seconds),
            },
        }
    }

    /// How long to wait for services and modes that are not ready yet.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(if self.quick { 3 } else { 20 })
    }

    /// The modes to compare, each once.
    pub(super) fn distinct_modes(&self) -> Vec<DataflowMode> {
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
        Cli::try_parse_from(command)
            .map(|cli| cli.args)
            .map_err(|refused| refused.to_string())
    }

    fn clock(speed: f64) -> MarketClock {
        MarketClock::new(MarketTime::from_millis(0), 0, speed)
    }

    #[test]
    fn the_default_is_a_minute_of_all_modes_after_twenty_market_minutes() {
        let args = args(&[]).unwrap();
        assert_eq!((args.rate, args.measured_seconds()), (300, 60));
        assert_eq!(args.distinct_modes(), DataflowMode::ALL);
        assert_eq!(args.warmup(&clock(60.0)), Duration::from_secs(20));
    }

    #[test]
    fn nobody_waits_long_for_a_warm_up_that_nobody_asked_for() {
        let warmup = |options: &[&str]| args(options).unwrap().warmup(&clock(1.0)).as_secs();
        assert_eq!(warmup(&[]), 60);
        assert_eq!(warmup(&["--quick"]), 6);
        assert_eq!(warmup(&["--warmup-minutes", "5"]), 300);
    }

    #[test]
    fn arrivals_are_even_unless_asked_for_otherwise() {
        let shape = |options: &[&str]| args(options).unwrap().arrivals;
        assert_eq!(shape(&[]), Arrivals::Constant);
        assert_eq!(shape(&["--arrivals", "poisson"]), Arrivals::Poisson);
    }

    #[test]
    fn quick_measures_briefly_and_refuses_to_be_longer() {
        assert_eq!(args(&["--quick"]).unwrap().measured_seconds(), 10);
        let refused = args(&["--quick", "--seconds", "90"]).unwrap_err();
        assert!(refused.contains("--seconds"), "{refused}");
    }

    #[test]
    fn a_mode_named_twice_is_compared_once_and_an_unknown_one_is_told_the_three() {
        let modes = args(&["--modes", "events,database,events"]);
        assert_eq!(
            modes.unwrap().distinct_modes(),
            [DataflowMode::Database, DataflowMode::Events]
        );
        let refused = args(&["--modes", "kafka"]).unwrap_err();
        assert!(refused.contains("database, request, events"), "{refused}");
    }

    #[test]
    fn an_unknown_scenario_is_told_the_valid_ones() {
        let refused = args(&["--scenario", "moon"]).unwrap_err();
        assert!(refused.contains("friday-evening, concert"), "{refused}");
    }

    #[test]
    fn a_scenario_may_have_a_length_of_its_own_and_the_command_line_has_the_last_word() {
        let seconds = |options: &[&str]| args(options).unwrap().measured_seconds();
        assert_eq!(seconds(&["--scenario", "soak"]), 3_600);
        assert_eq!(seconds(&["--scenario", "soak", "--seconds", "90"]), 90);
        assert_eq!(seconds(&["--scenario", "soak", "--quick"]), 10);
    }
}
