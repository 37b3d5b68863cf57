//! Every setting of the service and of its batch job, with its default. The doc comments are the
//! help text.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use marketplace::{quote::PricingPolicy, surge::Multiplier, zone::Bounds};
use platform::{
    clock::ClockConfig, config::duration_within, schema::SchemaConfig,
    service_config::ServiceConfig,
};
use surge_proto::{DataflowMode, token::QuoteKey};

/// price-optimization: quotes a fare with a surge multiplier, from supply and demand that reach it
/// through one of three dataflow modes. `price-optimization batch` runs the batch job of the mode
/// `database` (see its --help).
#[derive(Clone, Debug, Parser)]
#[command(name = "price-optimization", version)]
#[command(mut_arg("http_addr", |addr| addr.required(false).default_value("127.0.0.1:7103")))]
#[command(mut_arg("grpc_addr", |addr| addr.required(false).default_value("127.0.0.1:7203")))]
pub struct Config {
    /// Addresses, servers and clock.
    #[command(flatten)]
    pub service: ServiceConfig,

    /// Connections to PostgreSQL that quotes read on, beside one for everything else: few, because
    /// a read takes well under a millisecond.
    #[arg(
        long,
        env = "DATABASE_CONNECTIONS",
        default_value_t = 6,
        value_parser = clap::value_parser!(u32).range(1..=1_000)
    )]
    pub database_connections: u32,

    /// gRPC of driver-management: one URL, or several with commas between; calls are spread over
    /// all addresses behind them.
    #[arg(long, env = "SUPPLY_URL", default_value = "http://127.0.0.1:7201")]
    pub supply_url: String,

    /// gRPC of ride-management, likewise.
    #[arg(long, env = "DEMAND_URL", default_value = "http://127.0.0.1:7202")]
    pub demand_url: String,

    /// Dataflow mode until somebody switches it: database, request or events.
    #[arg(long, env = "DATAFLOW_MODE", default_value = "database")]
    pub dataflow_mode: DataflowMode,

    /// How long a quote may wait for supply and demand, in real time.
    #[arg(
        long,
        env = "DATAFLOW_DEADLINE",
        default_value = "500ms",
        value_parser = duration_within(Duration::from_millis(1)..=Duration::from_secs(4))
    )]
    pub dataflow_deadline: Duration,

    /// Quotes of the modes database and request that come at the same time share one read: `off`,
    /// or how long the first quote waits for others before it reads (0us to 5ms, in real time).
    #[arg(long, env = "SHARED_READS", default_value = "off", value_parser = shared_reads)]
    pub shared_reads: SharedReadWindow,

    /// Number of latest quotes whose journeys are kept: about 1.7 kB each. 0 keeps none.
    #[arg(
        long,
        env = "JOURNEYS_KEPT",
        value_name = "N",
        default_value_t = 10_000,
        value_parser = journeys_kept
    )]
    pub journeys_kept: usize,

    /// Base URL of the Jaeger UI, as a browser reaches it: journeys then link to their traces.
    #[arg(long, env = "TRACES_URL", value_name = "URL", value_parser = traces_url)]
    pub traces_url: Option<String>,

    /// Secret that quotes are signed with, 16 bytes or more; ride-management has the same.
    #[arg(long, env = "QUOTE_KEY", hide_env_values = true)]
    pub quote_key: QuoteKey,

    /// Largest multiplier.
    #[arg(long, env = "SURGE_CAP", default_value = "3.0", value_parser = multiplier)]
    pub surge_cap: Multiplier,

    /// Largest multiplier during a declared emergency; unset in ordinary times.
    #[arg(long, env = "SURGE_EMERGENCY_CAP", value_parser = multiplier)]
    pub surge_emergency_cap: Option<Multiplier>,

    /// The area served, as "south,west,north,east" in degrees.
    #[arg(
        long,
        env = "SERVICE_AREA",
        default_value_t = Bounds::NEW_YORK,
        allow_hyphen_values = true
    )]
    pub service_area: Bounds,
}

/// Whether quotes that arrive at the same time share a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedReadWindow {
    /// Every quote reads for itself.
    Off,
    /// They share; the first quote waits this long for others before it reads.
    Of(Duration),
}

impl Config {
    /// The rules of pricing that these settings amount to.
    pub fn pricing(&self) -> PricingPolicy {
        let mut policy = PricingPolicy::default();
        policy.surge.cap = self.surge_cap;
        policy.surge.emergency_cap = self.surge_emergency_cap;
        policy
    }
}

/// price-optimization batch: aggregates the shared database for the mode `database`.
#[derive(Clone, Debug, Parser)]
#[command(name = "price-optimization batch", version)]
pub struct BatchConfig {
    /// Run once and end, as a cron job does, whatever BATCH_EVERY says.
    #[arg(long)]
    pub once: bool,

    /// Address of health and metrics. A job that runs once (`--once`) does not listen.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:7104")]
    pub http_addr: SocketAddr,

    /// Time between two runs, in market time.
    #[arg(
        long,
        env = "BATCH_EVERY",
        default_value = "5m",
        value_parser = duration_within(Duration::from_secs(1)..=Duration::from_hours(7 * 24))
    )]
    pub every: Duration,

    /// How far ahead supply is predicted, in market time: 1m to 1h. Must be the same as
    /// driver-management's. The window of demand comes with ride-management's rows.
    #[arg(
        long,
        env = "FORECAST_WINDOW",
        default_value = "5m",
        value_parser = duration_within(Duration::from_mins(1)..=Duration::from_hours(1))
    )]
    pub forecast_window: Duration,

    /// PostgreSQL, as role price_optimization.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// Demand profile, the artefact that `surge train` makes; without one, every hour of the week
    /// is alike.
    #[arg(long, env = "DEMAND_PROFILE")]
    pub demand_profile: Option<PathBuf>,

    /// The area served, as "south,west,north,east" in degrees.
    #[arg(
        long,
        env = "SERVICE_AREA",
        default_value_t = Bounds::NEW_YORK,
        allow_hyphen_values = true
    )]
    pub service_area: Bounds,

    /// The schema.
    #[command(flatten)]
    pub schema: SchemaConfig,

    /// The market clock.
    #[command(flatten)]
    pub clock: ClockConfig,
}

fn shared_reads(text: &str) -> Result<SharedReadWindow, String> {
    if text == "off" {
        return Ok(SharedReadWindow::Off);
    }
    let wait = duration_within(Duration::ZERO..=Duration::from_millis(5))(text)?;
    Ok(SharedReadWindow::Of(wait))
}

fn journeys_kept(text: &str) -> Result<usize, String> {
    let kept = text.parse().ok().filter(|kept| *kept <= 100_000);
    kept.ok_or_else(|| "must be a number from 0 to 100000".to_owned())
}

fn traces_url(text: &str) -> Result<String, String> {
    let is_url = ["http://", "https://"]
        .iter()
        .any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
    if is_url && !text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err("must be a URL such as http://127.0.0.1:7186".to_owned())
}

fn multiplier(text: &str) -> Result<Multiplier, String> {
    let value: f64 = text.parse().map_err(|_| "must be a number such as 2.8")?;
    Multiplier::try_from(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(arguments: &[&str]) -> Result<BatchConfig, clap::Error> {
        let required = ["batch", "--database-url=postgres://somewhere"];
        BatchConfig::try_parse_from(required.iter().chain(arguments))
    }

    #[test]
    fn once_overrides_period() {
        assert!(batch(&["--once", "--every=1h"]).unwrap().once);
        assert!(!batch(&["--every=1h"]).unwrap().once);
    }

    #[test]
    fn forecast_window_has_bounds() {
        let window = |arguments: &[&str]| batch(arguments).map(|config| config.forecast_window);
        assert_eq!(window(&[]).unwrap(), Duration::from_secs(300));
        assert_eq!(
            window(&["--forecast-window=10m"]).unwrap(),
            Duration::from_secs(600)
        );
        let refused = window(&["--forecast-window=2h"]).unwrap_err().to_string();
        assert!(refused.contains("1m to 1h"), "{refused}");
    }

    #[test]
    fn rejects_bad_journey_settings() {
        assert_eq!(journeys_kept("0"), Ok(0));
        for text in ["-1", "100001", "all"] {
            assert!(journeys_kept(text).is_err(), "{text}");
        }
        assert_eq!(traces_url("http://ui/").unwrap(), "http://ui");
        for text in [
            "",
            "http://",
            "ui:7186",
            "javascript:alert(1)",
            "http://a b",
        ] {
            assert!(traces_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn accepts_service_area_in_the_west() {
        let buenos_aires = ["--service-area", "-34.7,-58.6,-34.5,-58.3"];
        let area = batch(&buenos_aires).unwrap().service_area;
        assert_eq!(area.to_string(), buenos_aires[1]);

        let required = [
            "price-optimization",
            "--database-url=postgres://somewhere",
            "--quote-key=a key that only tests have",
        ];
        let config = Config::try_parse_from(required.iter().chain(&buenos_aires));
        assert_eq!(config.unwrap().service_area, area);
    }
}
