//! The configuration of driver-management: one struct, read once. Its comments are the text of
//! `--help`.

use std::time::Duration;

use clap::Parser;
use marketplace::zone::Bounds;
use platform::{config::duration_within, service_config::ServiceConfig};

/// Supply: where the drivers are, what they do, and who of them is sent to a ride.
#[derive(Clone, Debug, Parser)]
#[command(name = "driver-management", version, about)]
#[command(mut_arg("http_addr", |addr| addr.required(false).default_value("127.0.0.1:7101")))]
#[command(mut_arg("grpc_addr", |addr| addr.required(false).default_value("127.0.0.1:7201")))]
pub struct Config {
    /// Addresses, servers and clock.
    #[command(flatten)]
    pub service: ServiceConfig,

    /// Where rides are served: south,west,north,east in degrees.
    #[arg(
        long,
        env = "SERVICE_AREA",
        default_value_t = Bounds::NEW_YORK,
        allow_hyphen_values = true
    )]
    pub service_area: Bounds,

    /// How far ahead supply is predicted, in market time: 1m to 1h.
    #[arg(
        long,
        env = "FORECAST_WINDOW",
        default_value = "5m",
        value_parser = duration_within(Duration::from_mins(1)..=Duration::from_hours(1))
    )]
    pub forecast_window: Duration,

    /// How often changed levels are published, in real time: 50ms to 60s.
    #[arg(
        long,
        env = "PUBLISH_EVERY",
        default_value = "250ms",
        value_parser = duration_within(Duration::from_millis(50)..=Duration::from_mins(1))
    )]
    pub publish_every: Duration,

    /// The longest way to a rider that a driver is sent on, in market time: 1m to 2h.
    #[arg(
        long,
        env = "DISPATCH_MAX_PICKUP",
        default_value = "20m",
        value_parser = duration_within(Duration::from_mins(1)..=Duration::from_hours(2))
    )]
    pub dispatch_max_pickup: Duration,

    /// Most drivers that the service keeps in memory.
    #[arg(
        long,
        env = "FLEET_LIMIT",
        default_value = "200000",
        value_parser = fleet_limit
    )]
    pub fleet_limit: usize,
}

fn fleet_limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| *limit > 0);
    limit.ok_or_else(|| "must be a number above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(arguments: &[&str]) -> Result<Config, clap::Error> {
        let required = [
            "driver-management",
            "--database-url",
            "postgres://somewhere",
        ];
        Config::try_parse_from(required.iter().chain(arguments))
    }

    #[test]
    fn defaults_are_those_of_the_local_stack() {
        let config = configured(&[]).unwrap();
        assert_eq!(config.service.http_addr.port(), 7101);
        assert_eq!(config.service.grpc_addr.port(), 7201);
        assert_eq!(config.forecast_window, Duration::from_secs(300));
        assert_eq!(config.publish_every, Duration::from_millis(250));
        assert_eq!(config.dispatch_max_pickup, Duration::from_secs(1_200));
        assert_eq!(config.service_area, Bounds::NEW_YORK);
    }

    #[test]
    fn refused_duration_names_its_bounds() {
        let refused = configured(&["--forecast-window", "2h"])
            .unwrap_err()
            .to_string();
        assert!(refused.contains("1m to 1h"), "{refused}");
        assert!(configured(&["--publish-every", "10ms"]).is_err());
        assert!(configured(&["--fleet-limit", "0"]).is_err());
        assert!(configured(&["--dispatch-max-pickup", "soon"]).is_err());
    }

    #[test]
    fn service_area_may_lie_in_the_west() {
        let config = configured(&["--service-area", "-34.7,-58.6,-34.5,-58.3"]).unwrap();
        assert_eq!(config.service_area.to_string(), "-34.7,-58.6,-34.5,-58.3");
    }
}
