//! The command `city`: a city by itself, with a line that tells how it fares, until Ctrl-C.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use marketplace::{Bounds, DemandProfile};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{City, CityConfig, CityOutcome, CityProgress, DEFAULT_FLEET};
use crate::client::Client;
use crate::pickups;
use crate::target::{Target, TargetArgs};
use crate::wall_clock;

/// Options of the command `city`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Who lives in the city
    #[command(flatten)]
    replay: ReplayArgs,

    /// Stop after this many minutes of market time; without it the city lives until Ctrl-C
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    minutes: Option<u32>,

    /// Where the services are
    #[command(flatten)]
    target: TargetArgs,
}

/// Options that say who lives in a city: also those of a comparison.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    /// Seed of all rng in the city: the same seed makes the same drivers and riders
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Number of drivers; 210 are too few for the peak of the Friday evening, 320 are ample
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FLEET, value_parser = fleet)]
    pub fleet: usize,

    /// Recorded pickups to replay, CSV or gzipped CSV
    #[arg(
        long,
        value_name = "PATH",
        default_value = "data/uber-pickups-2014-04.csv.gz"
    )]
    pub pickups: PathBuf,

    /// The demand profile that ride-management forecasts with
    #[arg(
        long,
        env = "DEMAND_PROFILE",
        value_name = "PATH",
        default_value = "data/demand-profile.json"
    )]
    pub profile: PathBuf,

    /// The service area of the services: south,west,north,east in degrees
    #[arg(
        long,
        env = "SERVICE_AREA",
        value_name = "BOUNDS",
        default_value_t = Bounds::NEW_YORK,
        allow_hyphen_values = true
    )]
    pub service_area: Bounds,
}

impl ReplayArgs {
    /// The city that these options describe, with the files that they name read.
    ///
    /// # Errors
    /// If the pickups or the profile cannot be read; the message names the option.
    pub fn config(&self, target: Target) -> anyhow::Result<CityConfig> {
        Ok(CityConfig {
            target,
            seed: self.seed,
            fleet: self.fleet,
            profile: read_profile(&self.profile)?,
            pickups: pickups::read(&self.pickups).context("--pickups")?,
            service_area: self.service_area,
            crowds: Vec::new(),
        })
    }
}

fn fleet(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(fleet) if (1..=20_000).contains(&fleet) => Ok(fleet),
        _ => Err("must be a whole number from 1 to 20000".to_owned()),
    }
}

fn read_profile(path: &Path) -> anyhow::Result<DemandProfile> {
    let name = || format!("--profile {} (DEMAND_PROFILE)", path.display());
    let text = std::fs::read(path).with_context(name)?;
    serde_json::from_slice(&text).with_context(name)
}

/// Lets a city live until it is told to stop, and shows how it fares.
///
/// # Errors
/// If the city cannot be started.
pub async fn run(args: Args) -> anyhow::Result<CityOutcome> {
    let config = args.replay.config(args.target.resolve()?)?;
    let city = City::start(config, Client::new(CALL_DEADLINE)).await?;
    let line = ProgressLine::new();
    for warning in city.warnings() {
        line.say(&format!("warning: {warning}"));
    }
    watch(&city, &line, args.minutes).await;
    line.say("sending the drivers home");
    let outcome = city.stop().await;
    line.end(&outcome);
    Ok(outcome)
}

/// Longest wait of a rider's or driver's app for an answer.
const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// Shows progress until a signal, or until so many market minutes have passed.
async fn watch(city: &City, line: &ProgressLine, minutes: Option<u32>) {
    let mut ticks = interval(line.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let market = Duration::from_secs(60) * minutes.unwrap_or(0);
    let end = Instant::now() + city.clock().real(market);
    let stop = crate::interrupt::on_signal();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until(end), if minutes.is_some() => return,
            _ = ticks.tick() => line.show(&city.progress()),
        }
    }
}

/// One line on the terminal that is written over; elsewhere, such as in a log file, a line every few seconds.
struct ProgressLine {
    bar: Option<ProgressBar>,
    every: Duration,
}

impl ProgressLine {
    fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self {
                bar: None,
                every: Duration::from_secs(5),
            };
        }
        let style = ProgressStyle::with_template("{spinner} {wide_msg}")
            .expect("a constant template is valid");
        Self {
            bar: Some(ProgressBar::new_spinner().with_style(style)),
            every: Duration::from_millis(200),
        }
    }

    fn show(&self, progress: &CityProgress) {
        let text = describe(progress);
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.tick();
            }
            None => anstream::eprintln!("{text}"),
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => anstream::eprintln!("{text}"),
        }
    }

    fn end(&self, outcome: &CityOutcome) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        anstream::eprintln!("{}", describe(&outcome.progress));
        for (kind, count) in &outcome.progress.errors_by_kind {
            anstream::eprintln!("  {count} x {kind}");
        }
        if outcome.drivers_left_behind > 0 {
            anstream::eprintln!(
                "  {} drivers could not be taken offline",
                outcome.drivers_left_behind
            );
        }
    }
}

fn describe(progress: &CityProgress) -> String {
    let multiplier = progress
        .mean_multiplier
        .map_or_else(|| "-".to_owned(), |mean| format!("{mean:.2}"));
    format!(
        "{}  quotes {} (mean {multiplier}x, {} priced out)  requests {}  matched {}  unserved {}  completed {}  errors {}",
        wall_clock::show(progress.market_time, "%a %H:%M"),
        progress.quotes,
        progress.priced_out,
        progress.requests,
        progress.matched,
        progress.unserved,
        progress.completed,
        progress.errors()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use marketplace::MarketTime;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        replay: ReplayArgs,
    }

    #[test]
    fn progress_is_told_in_new_york_time() {
        let friday: MarketTime = "2014-04-04T17:42:10-04:00".parse().unwrap();
        let line = describe(&crate::Counters::default().progress(friday));
        assert!(line.starts_with("Fri 17:42  quotes 0 (mean -x"), "{line}");
    }

    #[test]
    fn a_city_may_lie_in_the_west_and_in_the_south() {
        let line = ["city", "--service-area", "-34.7,-58.6,-34.5,-58.3"];
        let city = Command::try_parse_from(line).unwrap();
        assert_eq!(
            city.replay.service_area.to_string(),
            "-34.7,-58.6,-34.5,-58.3"
        );
    }

    #[test]
    fn a_profile_that_is_missing_is_named_with_its_option() {
        let refused = format!(
            "{:#}",
            read_profile(Path::new("/nowhere.json")).unwrap_err()
        );
        assert!(refused.contains("--profile /nowhere.json"), "{refused}");
    }
}
