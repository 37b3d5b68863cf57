//! The arguments and the environment of each part. `--help` of a service explains the variables, so
//! this file is also an example of a complete configuration.

use std::{
    env,
    path::PathBuf,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use marketplace::{DemandProfile, MarketTime, ServiceArea};
use platform::config::read_json;
use private_servers::{NatsCluster, Password, Postgres, with_known_environment};

use super::{
    Member, Part, PortMap, StackSettings,
    database::Logins,
    ports::{address, url},
};

/// The variables of the shell that every part gets: those of docs/settings.md that the stack does
/// not set itself.
pub const PASSED_ON: [&str; 17] = [
    "DATABASE_CONNECTIONS",
    "DATAFLOW_DEADLINE",
    "DISPATCH_MAX_PICKUP",
    "FLEET_LIMIT",
    "FORECAST_WINDOW",
    "JOURNEYS_KEPT",
    "MATCH_PATIENCE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "PUBLISH_EVERY",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "SERVICE_AREA",
    "SHARED_READS",
    "SURGE_CAP",
    "SURGE_EMERGENCY_CAP",
];

/// The settings that stay the same while the stack lives, so that a part can be restarted with
/// them.
#[derive(Debug)]
pub(super) struct Launch {
    executable: PathBuf,
    settings: StackSettings,
    ports: PortMap,
    quote_key: Password,
    /// Real time at which the market clock showed its start; every process gets the same, also one
    /// that starts later.
    anchor: MarketTime,
    urls: Option<ServerUrls>,
}

#[derive(Debug)]
struct ServerUrls {
    databases: Vec<(Part, String)>,
    nats: String,
}

impl Launch {
    pub(super) fn prepare(settings: &StackSettings, ports: PortMap) -> anyhow::Result<Self> {
        let executable = match &settings.executable {
            Some(executable) => executable.clone(),
            None => env::current_exe().context("cannot find the own executable")?,
        };
        let demand_profile = settings.demand_profile.canonicalize().with_context(|| {
            format!(
                "there is no demand profile {}: name one with --profile",
                settings.demand_profile.display()
            )
        })?;
        let profile: DemandProfile = read_json("DEMAND_PROFILE", &demand_profile)?;
        profile.within(&ServiceArea::new(settings.service_area))?;
        Ok(Self {
            executable,
            settings: StackSettings {
                demand_profile,
                ..settings.clone()
            },
            ports,
            quote_key: Password::generate(),
            anchor: real_now(),
            urls: None,
        })
    }

    /// Takes the addresses of the servers once they run.
    pub(super) fn connect(&mut self, postgres: &Postgres, logins: &Logins, nats: &NatsCluster) {
        let database = |part| logins.url(postgres, part).map(|url| (part, url));
        self.urls = Some(ServerUrls {
            databases: Part::ALL.into_iter().filter_map(database).collect(),
            nats: nats.url(),
        });
    }

    /// Whether a city uses the stack.
    pub(super) const fn has_city(&self) -> bool {
        self.settings.city.is_some()
    }

    /// The command that starts this process.
    pub(super) fn command(&self, member: Member) -> Command {
        let part = member.part;
        let mut command = Command::new(&self.executable);
        with_known_environment(&mut command, &PASSED_ON);
        if part == Part::City {
            self.use_services(&mut command);
            return command;
        }
        command.arg("service");
        match part {
            Part::Batch => command
                .args([Part::PriceOptimization.name(), "batch", "--every"])
                .arg(humantime::format_duration(self.settings.batch_every).to_string()),
            other => command.arg(other.name()),
        };
        match part {
            Part::TraceView => self.collect_traces(&mut command),
            _ => self.serve(member, &mut command),
        }
        command
    }

    /// A city uses the first replicas, as every client does.
    fn use_services(&self, command: &mut Command) {
        let [driver, ride, price] = &self.ports.http;
        command
            .arg("city")
            .args(self.settings.city.iter().flatten())
            .env("DRIVER_URL", url(driver[0]))
            .env("RIDE_URL", url(ride[0]))
            .env("SURGE_TARGET", url(price[0]))
            .env("CITY_URL", url(self.ports.city))
            .env("CITY_ADDR", address(self.ports.city).to_string());
    }

    fn collect_traces(&self, command: &mut Command) {
        command
            .env("TRACE_UI_ADDR", address(self.ports.traces).to_string())
            .env("OTLP_ADDR", address(self.ports.otlp).to_string());
    }

    fn serve(&self, member: Member, command: &mut Command) {
        let [supply, demand, _] = &self.ports.grpc;
        // Each replica calls the replicas with its own number.
        let own = member.index();
        command
            .env("SUPPLY_URL", url(supply[own]))
            .env("DEMAND_URL", url(demand[own]));
        self.listen(member, command);
        self.reach_servers(member.part, command);
        self.share_market(command);
        self.export_traces(command);
    }

    fn listen(&self, member: Member, command: &mut Command) {
        let addresses = ["HTTP_ADDR", "GRPC_ADDR"].iter().zip(self.ports.of(member));
        for (variable, port) in addresses {
            command.env(variable, address(port).to_string());
        }
    }

    fn reach_servers(&self, part: Part, command: &mut Command) {
        let Some(urls) = &self.urls else { return };
        command
            .env("NATS_URL", &urls.nats)
            .env("STREAM_REPLICAS", self.settings.nats_nodes.to_string());
        if let Some((_, url)) = urls.databases.iter().find(|(owner, _)| *owner == part) {
            command.env("DATABASE_URL", url);
        }
    }

    fn share_market(&self, command: &mut Command) {
        let settings = &self.settings;
        command
            .env("MARKET_CLOCK_START", settings.start.to_string())
            .env("MARKET_CLOCK_SPEED", settings.speed.to_string())
            .env("MARKET_CLOCK_ANCHOR", self.anchor.to_string())
            .env("DATAFLOW_MODE", settings.mode.as_str())
            .env("SERVICE_AREA", settings.service_area.to_string())
            .env("DEMAND_PROFILE", &settings.demand_profile)
            .env("QUOTE_KEY", self.quote_key.reveal());
    }

    /// The delay is short because a person wants to see the trace of a quote at once.
    fn export_traces(&self, command: &mut Command) {
        command
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", url(self.ports.otlp))
            .env("TRACES_URL", url(self.ports.traces))
            .env("OTEL_BSP_SCHEDULE_DELAY", "500");
    }
}

/// The time of the operating system, as a service reads it.
fn real_now() -> MarketTime {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    MarketTime::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
