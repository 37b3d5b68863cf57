//! The configuration of driver-management: one struct, read once. Its comments are the text of
//! `--help`.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use clap::Parser;
use marketplace::zone::Bounds;
use platform::{clock::ClockConfig, schema::SchemaConfig};

/// Supply: where the drivers are, what they do, and who of them is sent to a ride.
#[derive(Clone, Debug, Parser)]
#[command(name = "driver-management", version, about)]
pub struct Config {
    /// Address of REST, health and metrics.
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:7101")]
    pub http_addr: SocketAddr,

    /// Address of gRPC.
    #[arg(long, env = "GRPC_ADDR", default_value = "127.0.0.1:7201")]
    pub grpc_addr: SocketAddr,

    /// PostgreSQL, as the role that owns the schema `driver`:
    /// postgres://role:password@host:port/database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,

    /// NATS with JetStream; of a cluster the URLs of all nodes, with commas between. The service
    /// also works while it is away.
    #[arg(
        long,
        env = "NATS_URL",
        hide_env_values = true,
        default_value = "nats://127.0.0.1:4222"
    )]
    pub nats_url: String,

    /// On how many nodes of a NATS cluster each stream is kept: 1, 3 or 5.
    #[arg(long, env = "STREAM_REPLICAS", default_value = "1", value_parser = platform::nats::stream_replicas)]
    pub stream_replicas: usize,

    /// Where rides are served: south,west,north,east in degrees.
    #[arg(long, env = "SERVICE_AREA", default_value_t = Bounds::NEW_YORK, allow_hyphen_values = true)]
    pub service_area: Bounds,

    /// How far ahead supply is predicted, in market time: 1m to 1h.
    #[arg(long, env = "FORECAST_WINDOW", default_value = "5m", value_parser = forecast_window)]
    pub forecast_window: Duration,

    /// How often changed levels are published, in real time: 50ms to 60s.
    #[arg(long, env = "PUBLISH_EVERY", default_value = "250ms", value_parser = publish_every)]
    pub publish_every: Duration,

    /// The longest way to a rider that a driver is sent on, in market time: 1m to 2h.
    #[arg(long, env = "DISPATCH_MAX_PICKUP", default_value = "20m", value_parser = max_pickup)]
    pub dispatch_max_pickup: Duration,

    /// Most drivers that the service keeps in memory.
    #[arg(long, env = "FLEET_LIMIT", default_value_t = 200_000)]
    pub fleet_limit: usize,

    /// The schema.
    #[command(flatten)]
    pub schema: SchemaConfig,

    /// The market clock.
    #[command(flatten)]
    pub clock: ClockConfig,
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

fn forecast_window(text: &str) -> Result<Duration, String> {
    duration_within(text, MINUTE..=HOUR)
}

fn publish_every(text: &str) -> Result<Duration, String> {
    duration_within(text, Duration::from_millis(50)..=MINUTE)
}

fn max_pickup(text: &str) -> Result<Duration, String> {
    duration_within(text, MINUTE..=2 * HOUR)
}

fn duration_within(text: &str, allowed: RangeInclusive<Duration>) -> Result<Duration, String> {
    let [least, most] =
        [allowed.start(), allowed.end()].map(|end| humantime::format_duration(*end));
    match humantime::parse_duration(text) {
        Ok(duration) if allowed.contains(&duration) => Ok(duration),
        _ => Err(format!(
            "must be a duration from {least} to {most}, such as {least}"
        )),
    }
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
        assert_eq!(config.http_addr.port(), 7101);
        assert_eq!(config.grpc_addr.port(), 7201);
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
        assert!(configured(&["--dispatch-max-pickup", "soon"]).is_err());
    }

    #[test]
    fn service_area_may_lie_in_the_west() {
        let config = configured(&["--service-area", "-34.7,-58.6,-34.5,-58.3"]).unwrap();
        assert_eq!(config.service_area.to_string(), "-34.7,-58.6,-34.5,-58.3");
    }
}
