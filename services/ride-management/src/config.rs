//! The configuration of ride-management: read once from the environment, or from flags of the same
//! names. The doc comments are what `--help` prints. Secrets never show, neither there nor in an
//! error.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use marketplace::zone::Bounds;
use platform::{clock::ClockConfig, schema::SchemaConfig};

/// Ride-management: takes ride requests, matches them with drivers, and forecasts demand.
#[derive(Clone, Parser)]
#[command(name = "ride-management", version, about)]
pub struct Config {
    /// Where REST, health and metrics are served.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:7102")]
    pub http_addr: SocketAddr,

    /// Where gRPC is served.
    #[arg(long, env = "GRPC_ADDR", default_value = "127.0.0.1:7202")]
    pub grpc_addr: SocketAddr,

    /// PostgreSQL, as role ride_management: postgres://ride_management:PASSWORD@HOST:PORT/DATABASE.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// NATS with JetStream; of a cluster the URLs of all nodes, with commas between.
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true
    )]
    pub nats_url: String,

    /// On how many nodes of a NATS cluster each stream is kept: 1, 3 or 5.
    #[arg(long, env = "STREAM_REPLICAS", default_value = "1", value_parser = platform::nats::stream_replicas)]
    pub stream_replicas: usize,

    /// The gRPC edge of driver-management, which sends drivers to rides: one URL, or several with
    /// commas between; calls are spread over all addresses behind them.
    #[arg(long, env = "SUPPLY_URL", default_value = "http://127.0.0.1:7201")]
    pub supply_url: String,

    /// The secret, at least 16 bytes, that price-optimization signs its quotes with.
    #[arg(long, env = "QUOTE_KEY", hide_env_values = true)]
    pub quote_key: String,

    /// What is served: south,west,north,east in degrees.
    #[arg(long, env = "SERVICE_AREA", default_value_t = Bounds::NEW_YORK, allow_hyphen_values = true)]
    pub service_area: Bounds,

    /// Demand profile (JSON, schema surge.demand_profile/1) to forecast from. Unset: one request an
    /// hour per zone.
    #[arg(long, env = "DEMAND_PROFILE", value_name = "PATH")]
    pub demand_profile: Option<PathBuf>,

    /// How far demand is forecast, in market time: 1m to 1h, dividing an hour.
    #[arg(long, env = "FORECAST_WINDOW", default_value = "5m", value_parser = forecast_window)]
    pub forecast_window: Duration,

    /// How often levels and watermarks are published, in real time: 50ms to 60s.
    #[arg(long, env = "PUBLISH_EVERY", default_value = "250ms", value_parser = publish_every)]
    pub publish_every: Duration,

    /// How long a rider waits for a driver while driver-management is away, in market time: 1s to
    /// 1h.
    #[arg(long, env = "MATCH_PATIENCE", default_value = "10m", value_parser = match_patience)]
    pub match_patience: Duration,

    /// The schema.
    #[command(flatten)]
    pub schema: SchemaConfig,

    /// The market clock.
    #[command(flatten)]
    pub clock: ClockConfig,
}

fn forecast_window(text: &str) -> Result<Duration, String> {
    const HOUR: Duration = Duration::from_secs(3_600);
    let window = duration_between(text, Duration::from_secs(60), HOUR)?;
    // The calendar grid of windows must fit the week that a profile describes.
    if HOUR.as_millis().is_multiple_of(window.as_millis()) && window.subsec_nanos() == 0 {
        Ok(window)
    } else {
        Err("must divide an hour, in whole seconds".to_owned())
    }
}

fn publish_every(text: &str) -> Result<Duration, String> {
    duration_between(text, Duration::from_millis(50), Duration::from_secs(60))
}

fn match_patience(text: &str) -> Result<Duration, String> {
    duration_between(text, Duration::from_secs(1), Duration::from_secs(3_600))
}

fn duration_between(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if (least..=most).contains(&duration) => Ok(duration),
        _ => Err(format!(
            "must be a duration from {} to {}, such as {}",
            humantime::format_duration(least),
            humantime::format_duration(most),
            humantime::format_duration(least * 2),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Config, clap::Error> {
        let needed = ["ride-management", "--database-url", "x", "--quote-key", "y"];
        Config::try_parse_from(needed.iter().chain(more))
    }

    #[test]
    fn a_window_must_divide_an_hour() {
        for window in ["1m", "5m", "90s", "15m", "1h"] {
            assert!(parse(&["--forecast-window", window]).is_ok(), "{window}");
        }
        for window in ["7m", "30s", "2h", "soon", "60001ms"] {
            assert!(parse(&["--forecast-window", window]).is_err(), "{window}");
        }
    }

    #[test]
    fn bounds_west_of_greenwich_are_no_flags() {
        let config = parse(&["--service-area", "-34.7,-58.6,-34.5,-58.3"]);
        assert!(config.is_ok());
    }

    #[test]
    fn refused_duration_names_its_bounds() {
        let refused = parse(&["--publish-every", "1ms"]).err().unwrap();
        assert!(refused.to_string().contains("from 50ms to 1m"), "{refused}");
    }
}
