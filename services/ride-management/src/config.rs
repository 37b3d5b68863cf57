//! The configuration of ride-management: one struct, read once. Its comments are the text of
//! `--help`.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use marketplace::zone::Bounds;
use platform::{config::duration_within, service_config::ServiceConfig};
use surge_proto::token::QuoteKey;

/// Ride-management: takes ride requests, matches them with drivers, and forecasts demand.
#[derive(Clone, Debug, Parser)]
#[command(name = "ride-management", version, about)]
#[command(mut_arg("http_addr", |addr| addr.required(false).default_value("127.0.0.1:7102")))]
#[command(mut_arg("grpc_addr", |addr| addr.required(false).default_value("127.0.0.1:7202")))]
pub struct Config {
    /// Addresses, servers and clock.
    #[command(flatten)]
    pub service: ServiceConfig,

    /// The gRPC edge of driver-management, which sends drivers to rides: one URL, or several with
    /// commas between; calls are spread over all addresses behind them.
    #[arg(long, env = "SUPPLY_URL", default_value = "http://127.0.0.1:7201")]
    pub supply_url: String,

    /// The secret, at least 16 bytes, that price-optimization signs its quotes with.
    #[arg(long, env = "QUOTE_KEY", hide_env_values = true)]
    pub quote_key: QuoteKey,

    /// What is served: south,west,north,east in degrees.
    #[arg(
        long,
        env = "SERVICE_AREA",
        default_value_t = Bounds::NEW_YORK,
        allow_hyphen_values = true
    )]
    pub service_area: Bounds,

    /// Demand profile (JSON, schema surge.demand_profile/1) to forecast from. Unset: one request an
    /// hour per zone.
    #[arg(long, env = "DEMAND_PROFILE", value_name = "PATH")]
    pub demand_profile: Option<PathBuf>,

    /// How far demand is forecast, in market time: 1m to 1h, dividing an hour.
    #[arg(long, env = "FORECAST_WINDOW", default_value = "5m", value_parser = forecast_window)]
    pub forecast_window: Duration,

    /// How often levels and watermarks are published, in real time: 50ms to 60s.
    #[arg(
        long,
        env = "PUBLISH_EVERY",
        default_value = "250ms",
        value_parser = duration_within(Duration::from_millis(50)..=Duration::from_mins(1))
    )]
    pub publish_every: Duration,

    /// How long a rider waits for a driver while driver-management is away, in market time: 1s to
    /// 1h.
    #[arg(
        long,
        env = "MATCH_PATIENCE",
        default_value = "10m",
        value_parser = duration_within(Duration::from_secs(1)..=Duration::from_hours(1))
    )]
    pub match_patience: Duration,
}

fn forecast_window(text: &str) -> Result<Duration, String> {
    let hour = Duration::from_hours(1);
    let window = duration_within(Duration::from_mins(1)..=hour)(text)?;
    // The calendar grid of windows must fit the week that a profile describes.
    if hour.as_millis().is_multiple_of(window.as_millis()) && window.subsec_nanos() == 0 {
        Ok(window)
    } else {
        Err("must divide an hour, in whole seconds".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Config, clap::Error> {
        let needed = [
            "ride-management",
            "--database-url",
            "x",
            "--quote-key",
            "a key for tests alone",
        ];
        Config::try_parse_from(needed.iter().chain(more))
    }

    #[test]
    fn forecast_window_must_divide_hour() {
        for window in ["1m", "5m", "90s", "15m", "1h"] {
            assert!(parse(&["--forecast-window", window]).is_ok(), "{window}");
        }
        for window in ["7m", "30s", "2h", "soon", "60001ms"] {
            assert!(parse(&["--forecast-window", window]).is_err(), "{window}");
        }
    }

    #[test]
    fn accepts_service_area_in_the_west() {
        let config = parse(&["--service-area", "-34.7,-58.6,-34.5,-58.3"]);
        assert!(config.is_ok());
    }

    #[test]
    fn refused_duration_names_its_bounds() {
        let refused = parse(&["--publish-every", "1ms"]).err().unwrap();
        assert!(refused.to_string().contains("from 50ms to 1m"), "{refused}");
    }
}
