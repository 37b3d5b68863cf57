//! The command line of `surge`: every subcommand and option. The doc comments are the help text.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use city::{of_project, output::leave};
use clap::{
    ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    parser::ValueSource,
};
use marketplace::{MarketTime, Position, new_york};
use platform::config::duration_within;
use private_servers::present;
use surge_proto::DataflowMode;
use uuid::Uuid;

use crate::stack::{
    DEMAND_PROFILE, FRIDAY_EVENING, Member, PASSED_ON, Ports, STATE_DIR, StackSettings,
};

/// Surge: one exchange, three dataflows, one price. A ride-sharing marketplace that computes the
/// same surge price from a shared database, by requests, and from events.
#[derive(Debug, Parser)]
#[command(name = "surge", bin_name = "./surge", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// Folder of the local stack: state, logs and private servers.
    #[arg(
        long,
        env = "SURGE_STATE_DIR",
        value_name = "FOLDER",
        default_value_os_t = of_project(STATE_DIR),
        global = true,
        hide = true
    )]
    pub(crate) state_dir: PathBuf,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "  \
  ./surge test   all tests, formatting and lints; options go to cargo test
  ./surge test --compose   the suite in containers, which needs Docker
  ./surge test --k8s   the manifests of Kubernetes, which needs kubectl

SURGE_PORT_BASE moves all ports (7100: REST on 7101 to 7103, gRPC on 7201 to 7203, Jaeger UI
on 7186; second replicas on 7141 to 7143 and 7241 to 7243, third ones ten further). Commands
speak to the stack on these ports; without it, to the one that runs from this folder.
SURGE_NO_INSTALL=1 forbids ./surge to install missing programs. SURGE_STATE_DIR is the folder
of the local stack, for a checkout that several people share.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Starts the stack, replays a Friday evening, prints the comparison, cleans up
    Demo(Box<DemoArgs>),
    /// Starts the stack and keeps it running until Ctrl-C
    Up(UpArgs),
    /// Shows each process, whether it is healthy, and the dataflow mode
    Status,
    /// Shows the dataflow mode, or switches to another
    Mode(ModeArgs),
    /// Shows how supply and demand reached a quote, hop by hop
    Journey(JourneyArgs),
    /// Compares the three dataflows on the running services
    Compare(Box<compare::Args>),
    /// Lets the city live on whatever runs: drivers and riders of a recorded evening
    City(city::Args),
    /// Scores demand forecasts on recorded pickups
    Backtest(BacktestArgs),
    /// Makes the demand profile that the services start with
    Train(TrainArgs),
    /// Measures what a position, a quote and a ride cost each process of the stack that runs here
    Costs(CostsArgs),
    /// Computes the processors and bytes of a larger market from measured costs
    Plan(PlanArgs),
    /// Shows what is missing on this machine and how to get it
    Doctor,
    /// Asks a service whether it is ready: the health check of its container
    Ready(ReadyArgs),
    /// Runs one service in this process: how the stack starts its parts
    #[command(hide = true, disable_help_flag = true)]
    Service(ServiceArgs),
    /// Runs one of the bare servers that the modes are compared with
    #[command(subcommand, hide = true)]
    Floor(bare_servers::Floor),
}

#[derive(Debug, Args)]
pub(crate) struct StackArgs {
    /// What the market clock shows at the start: New York time, 2014-12-05T17:00, or RFC 3339
    #[arg(
        long,
        env = "MARKET_CLOCK_START",
        value_name = "TIME",
        default_value_t = FRIDAY_EVENING,
        value_parser = new_york::read_any
    )]
    pub(crate) start: MarketTime,

    /// Market seconds per real second
    #[arg(
        long,
        env = "MARKET_CLOCK_SPEED",
        value_name = "FACTOR",
        default_value_t = 60.0,
        value_parser = speed
    )]
    pub(crate) speed: f64,

    /// Dataflow mode of quotes that name none
    #[arg(
        long,
        env = "DATAFLOW_MODE",
        value_name = "MODE",
        default_value = "database"
    )]
    pub(crate) mode: DataflowMode,

    /// Period of the batch job behind the mode `database`, in market time
    #[arg(
        long,
        env = "BATCH_EVERY",
        value_name = "PERIOD",
        default_value = "5m",
        value_parser = duration_within(Duration::from_secs(1)..=Duration::from_hours(7 * 24))
    )]
    pub(crate) batch_every: Duration,

    /// How many processes of each service run side by side, 1 to 5
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=i64::from(Member::MOST))
    )]
    pub(crate) replicas: u8,

    /// How many nodes NATS has, each with a copy of every stream: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = nats_nodes)]
    pub(crate) nats_nodes: u8,

    /// The variables of the shell that the stack obeys.
    #[arg(skip)]
    pub(crate) obeyed: BTreeSet<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) stack: StackArgs,

    /// Also let the city live on it, so that supply, demand and prices move
    #[arg(long)]
    pub(crate) city: bool,

    #[command(flatten)]
    pub(crate) replay: city::ReplayArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) stack: StackArgs,

    /// Keep the stack running after the comparison, until Ctrl-C
    #[arg(long)]
    pub(crate) stay: bool,

    #[command(flatten)]
    pub(crate) compare: compare::Args,
}

#[derive(Debug, Args)]
pub(crate) struct ModeArgs {
    /// The mode to switch to; none to show the one in force
    pub(crate) mode: Option<DataflowMode>,

    /// Base URL of price-optimization, where it is not of the stack that runs here
    #[arg(long, env = "SURGE_TARGET", value_name = "URL")]
    pub(crate) target: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct JourneyArgs {
    /// The quote; without one, the command quotes the same trip in each mode and shows the three
    /// journeys side by side
    pub(crate) quote_id: Option<Uuid>,

    /// Quote the trip in this mode alone, and show that journey
    #[arg(long, conflicts_with = "quote_id")]
    pub(crate) mode: Option<DataflowMode>,

    /// Where the trip begins, in degrees; Grand Central Terminal
    #[arg(
        long,
        value_name = "LAT,LON",
        default_value = "40.7527,-73.9772",
        value_parser = position,
        allow_hyphen_values = true
    )]
    pub(crate) pickup: Position,

    /// Where the trip ends, in degrees; Wall Street
    #[arg(
        long,
        value_name = "LAT,LON",
        default_value = "40.7074,-74.0113",
        value_parser = position,
        allow_hyphen_values = true
    )]
    pub(crate) dropoff: Position,

    /// Base URL of price-optimization, or of all its replicas: each knows only its own quotes
    #[arg(long, env = "SURGE_TARGET", value_name = "URL", value_delimiter = ',')]
    pub(crate) target: Vec<String>,

    /// Print the journey as JSON; a list of three if neither a quote nor a mode is named
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BacktestArgs {
    /// Pickup files to learn from, CSV or gzipped CSV
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) train: Vec<PathBuf>,

    /// Pickup files to forecast, all later than those to learn from
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) test: Vec<PathBuf>,

    /// H3 resolution of the zones
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(0..=15))]
    pub(crate) resolution: u8,

    /// Length of a forecast window; divides an hour
    #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
    pub(crate) window: Duration,

    /// Code of the base whose pickups count
    #[arg(long, default_value = "B02512")]
    pub(crate) base: String,

    /// Also write the scores here, as JSON of schema surge.backtest/1
    #[arg(long, value_name = "PATH")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Pickup files to learn from, CSV or gzipped CSV
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub(crate) pickups: Vec<PathBuf>,

    /// Learn from pickups before this time: New York time such as 2014-04-04T17:00
    #[arg(long, value_name = "TIME", value_parser = new_york::read_any)]
    pub(crate) until: MarketTime,

    /// Where to write the profile
    #[arg(long, value_name = "PATH", default_value_os_t = of_project(DEMAND_PROFILE))]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ReadyArgs {
    /// Base URL of the service
    pub(crate) url: String,
}

#[derive(Debug, Args)]
pub(crate) struct CostsArgs {
    /// How long each kind of work is done
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        value_parser = clap::value_parser!(u64).range(1..=600)
    )]
    pub(crate) seconds: u64,
}

/// The defaults are the market and the costs of docs/scaling.md.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Drivers online
    #[arg(long, default_value_t = 1e6, value_parser = positive)]
    pub(crate) drivers: f64,

    /// Seconds between two reports of a driver's position
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    pub(crate) report_every_s: f64,

    /// Quotes a second
    #[arg(long, default_value_t = 1e5, value_parser = positive)]
    pub(crate) quotes: f64,

    /// Rides that a driver drives in an hour
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    pub(crate) rides_per_driver_hour: f64,

    /// Replicas of driver-management that know all drivers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) replicas: u32,

    /// Processor time for taking a position in, microseconds
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    pub(crate) position_us: f64,

    /// Processor time for writing a position to PostgreSQL, microseconds
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
    pub(crate) position_write_us: f64,

    /// Processor time for following a position in each other replica, microseconds
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    pub(crate) position_follow_us: f64,

    /// Processor time for a ride from quote to drop-off, microseconds
    #[arg(long, default_value_t = 7_000.0, value_parser = positive)]
    pub(crate) ride_us: f64,

    /// Processor time for a quote, microseconds
    #[arg(long, default_value_t = 52.0, value_parser = positive)]
    pub(crate) quote_us: f64,

    /// Share of its processors that a part may use before latency suffers, such as 0.6 or 60%
    #[arg(long, value_name = "SHARE", default_value = "0.6", value_parser = share)]
    pub(crate) utilisation: f64,
}

#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    pub(crate) name: ServiceName,

    /// The service's own arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ServiceName {
    DriverManagement,
    RideManagement,
    PriceOptimization,
    TraceView,
}

impl StackArgs {
    /// The settings of a stack in this folder.
    ///
    /// # Errors
    /// When `SURGE_PORT_BASE` is no port.
    pub(crate) fn settings(&self, state_dir: PathBuf) -> anyhow::Result<StackSettings> {
        Ok(StackSettings {
            state_dir,
            ports: Ports::from_environment()?,
            start: self.start,
            speed: self.speed,
            mode: self.mode,
            batch_every: self.batch_every,
            replicas: self.replicas,
            nats_nodes: self.nats_nodes,
            ..StackSettings::default()
        })
    }
}

/// Reads the process's command line; a mistake in it ends the process with exit code 2 and says
/// what is allowed.
pub(crate) fn parse() -> Cli {
    let command = command();
    let matches = command
        .clone()
        .try_get_matches()
        .unwrap_or_else(|refused| leave(&refused));
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let stack = match &mut cli.command {
        Command::Up(up) => &mut up.stack,
        Command::Demo(demo) => &mut demo.stack,
        _ => return cli,
    };
    stack.obeyed = obeyed(&command, &matches);
    cli
}

/// The variables of the shell that set an option of the subcommand, or that every part gets.
fn obeyed(command: &clap::Command, matches: &ArgMatches) -> BTreeSet<String> {
    let sets_option = |(name, matches): (&str, &ArgMatches)| -> Vec<String> {
        let options = command.find_subcommand(name).into_iter();
        options
            .flat_map(clap::Command::get_arguments)
            .filter(|option| !option.is_hide_set())
            .filter(|option| {
                matches.value_source(option.get_id().as_str()) == Some(ValueSource::EnvVariable)
            })
            .filter_map(|option| Some(option.get_env()?.to_str()?.to_owned()))
            .collect()
    };
    let of_options = matches.subcommand().map(sets_option).unwrap_or_default();
    let passed_on = present(&PASSED_ON).map(|(name, _)| name.to_owned());
    of_options.into_iter().chain(passed_on).collect()
}

fn command() -> clap::Command {
    Cli::command().mut_subcommand("demo", for_newcomers)
}

/// The demo compares the stack that it starts, and leaves out the long search for capacities.
fn for_newcomers(demo: clap::Command) -> clap::Command {
    let demo = demo.mut_arg("rounds", |rounds| rounds.default_value("0"));
    ["target", "driver_url", "ride_url", "from"]
        .into_iter()
        .fold(demo, |demo, option| {
            demo.mut_arg(option, |argument| argument.hide(true))
        })
}

fn position(text: &str) -> Result<Position, String> {
    let degrees = text.split_once(',').and_then(|(lat, lon)| {
        let degrees = |text: &str| text.trim().parse::<f64>().ok();
        degrees(lat).zip(degrees(lon))
    });
    let (lat, lon) = degrees.ok_or("must be LAT,LON in degrees, such as 40.7527,-73.9772")?;
    Position::new(lat, lon).map_err(|error| error.to_string())
}

fn share(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse().map(|percent: f64| percent / 100.0),
        None => text.parse(),
    };
    let share = number.ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "must be above 0 and at most 1, such as 0.6 or 60%".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("must be a number above 0".to_owned()),
    }
}

fn nats_nodes(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(nodes @ (1 | 3 | 5)) => Ok(nodes),
        _ => Err("must be 1, 3 or 5: an even number survives no more failures".to_owned()),
    }
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.001..=3_600.0).contains(&speed) => Ok(speed),
        _ => Err("must be a number from 0.001 to 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn service_gets_its_arguments_unchanged() {
        let line = [
            "surge",
            "service",
            "price-optimization",
            "batch",
            "--every",
            "5m",
            "--help",
        ];
        let Command::Service(service) = Cli::try_parse_from(line).unwrap().command else {
            panic!("another subcommand");
        };
        assert_eq!(service.arguments, ["batch", "--every", "5m", "--help"]);
    }

    #[test]
    fn position_is_two_numbers_on_globe() {
        assert_eq!(
            position("40.7527, -73.9772"),
            Position::new(40.7527, -73.9772).map_err(|_| String::new())
        );
        for text in ["", "40.7", "north,west", "91,0", "nan,0", "40.7,-73.9,1"] {
            assert!(position(text).is_err(), "{text}");
        }
    }

    #[test]
    fn share_is_part_of_whole() {
        assert_eq!(share("0.6"), Ok(0.6));
        assert_eq!(share("60%"), Ok(0.6));
        for text in ["7", "0", "-0.5", "nan", "101%", "0%", "half"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn refuses_impossible_speeds() {
        for text in ["0", "-1", "nan", "inf", "fast", "1e9", "1e-300"] {
            assert!(speed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn winter_start_is_new_york_time() {
        for start in [
            "2014-12-05T17:00:00-05:00",
            "2014-12-05T17:00",
            "2014-12-05T22:00:00Z",
        ] {
            let Command::Up(up) = Cli::try_parse_from(["surge", "up", "--start", start])
                .unwrap()
                .command
            else {
                panic!("`up` is not the command `up`");
            };
            let shown = crate::terminal::new_york(up.stack.start);
            assert_eq!(shown, "Friday 2014-12-05 17:00");
        }
        let lost = ["surge", "up", "--start", "2015-03-08T02:30"];
        let refused = Cli::try_parse_from(lost).unwrap_err().to_string();
        assert!(refused.contains("never showed"), "{refused}");
    }
}
