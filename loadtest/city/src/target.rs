//! The addresses of the services.
//!
//! One address is enough: the services have neighbouring ports. `--target` names
//! price-optimization; driver-management is two ports below it, ride-management one port below, the
//! city two ports above. Behind an ingress or in containers, each has an option of its own.

use anyhow::{Context, bail, ensure};
use clap::Args;
use http::Uri;

/// The base URLs of the three services, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// driver-management.
    pub driver: String,
    /// ride-management.
    pub ride: String,
    /// price-optimization.
    pub price: String,
}

impl Target {
    /// The services whose price-optimization listens at `price`, the others one and two ports
    /// below.
    ///
    /// # Errors
    /// When `price` is not an `http://host:port` address, or its port leaves no room for the
    /// siblings.
    pub fn beside(price: &str) -> anyhow::Result<Self> {
        TargetArgs {
            target: Some(price.to_owned()),
            ..TargetArgs::default()
        }
        .resolve()
    }

    /// Each service by name with its base URL, in the order of the ports.
    pub fn services(&self) -> [(&'static str, &str); 3] {
        [
            ("driver-management", &self.driver),
            ("ride-management", &self.ride),
            ("price-optimization", &self.price),
        ]
    }
}

/// The command-line options that name the services.
#[derive(Debug, Clone, Default, Args)]
pub struct TargetArgs {
    /// Base URL of price-optimization; driver-management and ride-management are expected two ports
    /// and one port below
    #[arg(long, env = "SURGE_TARGET", value_name = "URL")]
    pub target: Option<String>,

    /// Base URL of driver-management, where it is not two ports below the target
    #[arg(long, env = "DRIVER_URL", value_name = "URL")]
    pub driver_url: Option<String>,

    /// Base URL of ride-management, where it is not one port below the target
    #[arg(long, env = "RIDE_URL", value_name = "URL")]
    pub ride_url: Option<String>,

    /// Base URL of price-optimization's gRPC, where it is not 100 ports above the target
    #[arg(long, env = "PRICE_GRPC_URL", value_name = "URL")]
    pub grpc_url: Option<String>,

    /// Base URL of the city that uses these services, where it is not two ports above the target
    #[arg(long, env = "CITY_URL", value_name = "URL")]
    pub city_url: Option<String>,
}

impl TargetArgs {
    /// The three base URLs.
    ///
    /// # Errors
    /// When an address is not an `http://host:port` address; the message names the option.
    pub fn resolve(&self) -> anyhow::Result<Target> {
        Ok(Target {
            driver: self.sibling("--driver-url", self.driver_url.as_deref(), 2)?,
            ride: self.sibling("--ride-url", self.ride_url.as_deref(), 1)?,
            price: self.price()?,
        })
    }

    /// The base URL under which price-optimization quotes over gRPC.
    ///
    /// # Errors
    /// As [`TargetArgs::resolve`].
    pub fn grpc(&self) -> anyhow::Result<String> {
        match &self.grpc_url {
            Some(url) => base_url("--grpc-url", url),
            None => {
                port_beside(&self.price()?, GRPC_ABOVE).context("name its gRPC with --grpc-url")
            }
        }
    }

    /// The base URL of the city that uses these services, if there is one.
    ///
    /// # Errors
    /// As [`TargetArgs::resolve`].
    pub fn city(&self) -> anyhow::Result<String> {
        match &self.city_url {
            Some(url) => base_url("--city-url", url),
            None => port_beside(&self.price()?, CITY_ABOVE)
                .context("name the address of the city with --city-url"),
        }
    }

    /// There is no default: another stack may listen on any port that could be one.
    fn price(&self) -> anyhow::Result<String> {
        let target = self.target.as_deref();
        base_url(
            "--target",
            target.context("name price-optimization with --target")?,
        )
    }

    fn sibling(
        &self,
        option: &str,
        given: Option<&str>,
        ports_below: i32,
    ) -> anyhow::Result<String> {
        match given {
            Some(url) => base_url(option, url),
            None => port_beside(&self.price()?, -ports_below)
                .with_context(|| format!("name the service with {option}")),
        }
    }
}

fn base_url(option: &str, url: &str) -> anyhow::Result<String> {
    let uri: Uri = url
        .parse()
        .with_context(|| format!("{option} {url} is not a URL such as http://127.0.0.1:7103"))?;
    ensure!(
        uri.scheme_str() == Some("http") && uri.host().is_some(),
        "{option} {url} must start with http:// and name a host"
    );
    ensure!(
        uri.query().is_none(),
        "{option} {url} must not carry a query"
    );
    Ok(url.trim_end_matches('/').to_owned())
}

/// The gRPC of every service is this number of ports above its REST.
const GRPC_ABOVE: i32 = 100;

/// The city is this number of ports above price-optimization.
const CITY_ABOVE: i32 = 2;

/// The same URL with a higher or lower port.
fn port_beside(url: &str, distance: i32) -> anyhow::Result<String> {
    let uri: Uri = url.parse()?;
    let port = uri
        .port_u16()
        .and_then(|port| u16::try_from(i32::from(port) + distance).ok());
    let (Some(port), Some(host)) = (port.filter(|&port| port > 0), uri.host()) else {
        bail!("{url} has no port to count from");
    };
    let path = uri.path().trim_end_matches('/');
    Ok(format!("http://{host}:{port}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_siblings_below_the_target() {
        let target = Target::beside("http://127.0.0.1:7103/").unwrap();
        assert_eq!(target.driver, "http://127.0.0.1:7101");
        assert_eq!(target.ride, "http://127.0.0.1:7102");
        assert_eq!(target.price, "http://127.0.0.1:7103");
    }

    #[test]
    fn finds_grpc_and_city_above_the_target() {
        let mut args = TargetArgs {
            target: Some("http://127.0.0.1:7103".to_owned()),
            ..TargetArgs::default()
        };
        assert_eq!(args.city().unwrap(), "http://127.0.0.1:7105");
        assert_eq!(args.grpc().unwrap(), "http://127.0.0.1:7203");
        args.grpc_url = Some("http://price:9000/".to_owned());
        assert_eq!(args.grpc().unwrap(), "http://price:9000");
    }

    #[test]
    fn each_service_may_have_its_own_url() {
        let target = TargetArgs {
            target: Some("http://price".to_owned()),
            driver_url: Some("http://driver".to_owned()),
            ride_url: Some("http://ride:8080".to_owned()),
            ..TargetArgs::default()
        }
        .resolve()
        .unwrap();
        assert_eq!(target.driver, "http://driver");
        assert_eq!(target.ride, "http://ride:8080");
    }

    #[test]
    fn error_names_the_option() {
        let error = Target::beside("https://127.0.0.1:7103").unwrap_err();
        assert!(error.to_string().contains("--target"), "{error}");
        let error = format!("{:#}", Target::beside("http://price").unwrap_err());
        assert!(error.contains("--driver-url"), "{error}");
    }
}
