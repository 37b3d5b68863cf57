//! The options of a city: those of the command `city`, and those that a comparison shares with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use marketplace::{Bounds, DemandProfile, ServiceArea};
use strict_serde::Strict;

use crate::pickups;
use crate::state::{CityConfig, DEFAULT_FLEET};
use crate::target::{Target, TargetArgs};

/// Options of the command `city`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Who lives in the city
    #[command(flatten)]
    pub(crate) replay: ReplayArgs,

    /// Stop after this many minutes of market time; without it the city lives until Ctrl-C
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) minutes: Option<u32>,

    /// Address of health, metrics and ground truth, where it is not the port of --city-url on
    /// loopback
    #[arg(long, env = "CITY_ADDR", value_name = "ADDRESS")]
    pub(crate) addr: Option<SocketAddr>,

    /// Where the services are
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Options that say who lives in a city: also those of a comparison.
#[derive(Debug, Clone, clap::Args)]
pub struct ReplayArgs {
    /// Seed of all chance in the city: the same seed makes the same drivers and riders
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Number of drivers; 210 are too few for the peak of the Friday evening, 320 are ample
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FLEET, value_parser = fleet)]
    pub fleet: usize,

    /// Recorded pickups to replay, CSV or gzipped CSV
    #[arg(
        long,
        value_name = "PATH",
        default_value_os_t = of_project("data/uber-pickups-2014-04.csv.gz")
    )]
    pub pickups: PathBuf,

    /// The demand profile that ride-management forecasts with
    #[arg(
        long,
        env = "DEMAND_PROFILE",
        value_name = "PATH",
        default_value_os_t = of_project("data/demand-profile.json")
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
    /// The city of these options, with the content of their files.
    ///
    /// # Errors
    /// If the pickups or the profile cannot be read; the message names the option.
    pub fn config(&self, target: Target) -> anyhow::Result<CityConfig> {
        Ok(CityConfig {
            target,
            seed: self.seed,
            fleet: self.fleet,
            profile: read_profile(&self.profile)?.within(&ServiceArea::new(self.service_area))?,
            pickups: pickups::read(&self.pickups).context("--pickups")?,
            service_area: self.service_area,
            crowds: Vec::new(),
        })
    }

    /// The same options for the command line of another process.
    pub fn command_line(&self) -> Vec<String> {
        vec![
            format!("--seed={}", self.seed),
            format!("--fleet={}", self.fleet),
            format!("--pickups={}", self.pickups.display()),
            format!("--profile={}", self.profile.display()),
            format!("--service-area={}", self.service_area),
        ]
    }
}

/// A file of the project, as seen from here: the script `surge` says where the project is.
pub fn of_project(path: &str) -> PathBuf {
    let project = std::env::var_os("SURGE_PROJECT").map(PathBuf::from);
    let elsewhere =
        project.filter(|project| std::env::current_dir().ok().as_ref() != Some(project));
    elsewhere.unwrap_or_default().join(path)
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
    let Strict(value) = serde_json::from_slice(&text).with_context(name)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        replay: ReplayArgs,
    }

    #[test]
    fn city_may_be_west_and_south() {
        let line = ["city", "--service-area", "-34.7,-58.6,-34.5,-58.3"];
        let city = Command::try_parse_from(line).unwrap();
        assert_eq!(
            city.replay.service_area.to_string(),
            "-34.7,-58.6,-34.5,-58.3"
        );
    }

    #[test]
    fn options_survive_the_command_line() {
        let line = [
            "city",
            "--seed=7",
            "--fleet=60",
            "--service-area=-34.7,-58.6,-34.5,-58.3",
        ];
        let options = Command::try_parse_from(line).unwrap().replay.command_line();
        let again = Command::try_parse_from([vec!["city".to_owned()], options.clone()].concat());
        assert_eq!(again.unwrap().replay.command_line(), options);
    }

    #[test]
    fn error_names_a_missing_profile() {
        let refused = format!(
            "{:#}",
            read_profile(Path::new("/nowhere.json")).unwrap_err()
        );
        assert!(refused.contains("--profile /nowhere.json"), "{refused}");
    }
}
