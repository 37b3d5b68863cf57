//! Where the suite under test listens.
//!
//! One address is enough: the three services keep neighbouring ports, so `--target` names price-optimization and the
//! other two are found two ports and one port below it. Behind an ingress or in containers each gets its own option.

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
    /// The suite whose price-optimization listens at `price`, its siblings one and two ports below.
    ///
    /// # Errors
    /// When `price` is not an `http://host:port` address, or its port leaves no room for the siblings.
    pub fn beside(price: &str) -> anyhow::Result<Self> {
        TargetArgs {
            target: price.to_owned(),
            driver_url: None,
            ride_url: None,
            grpc_url: None,
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

/// The command-line options that name the suite under test.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// Base URL of price-optimization; driver-management and ride-management are expected two ports and one port below
    #[arg(
        long,
        env = "SURGE_TARGET",
        value_name = "URL",
        default_value = "http://127.0.0.1:7103"
    )]
    pub target: String,

    /// Base URL of driver-management, where it is not two ports below the target
    #[arg(long, env = "DRIVER_URL", value_name = "URL")]
    pub driver_url: Option<String>,

    /// Base URL of ride-management, where it is not one port below the target
    #[arg(long, env = "RIDE_URL", value_name = "URL")]
    pub ride_url: Option<String>,

    /// Base URL of price-optimization's gRPC, where it is not 100 ports above the target
    #[arg(long, env = "PRICE_GRPC_URL", value_name = "URL")]
    pub grpc_url: Option<String>,
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
            price: base_url("--target", &self.target)?,
        })
    }

    /// The base URL under which price-optimization quotes over gRPC.
    ///
    /// # Errors
    /// As [`TargetArgs::resolve`].
    pub fn grpc(&self) -> anyhow::Result<String> {
        match &self.grpc_url {
            Some(url) => base_url("--grpc-url", url),
            None => port_beside(&base_url("--target", &self.target)?, GRPC_ABOVE)
                .context("name its gRPC with --grpc-url"),
        }
    }

    fn sibling(
        &self,
        option: &str,
        given: Option<&str>,
        ports_below: i32,
    ) -> anyhow::Result<String> {
        match given {
            Some(url) => base_url(option, url),
            None => port_beside(&base_url("--target", &self.target)?, -ports_below)
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

/// Every service has its gRPC as many ports above its REST.
const GRPC_ABOVE: i32 = 100;

/// The same URL with a port so many higher, or lower.
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
    fn the_siblings_are_found_below_the_target() {
        let target = Target::beside("http://127.0.0.1:7103/").unwrap();
        assert_eq!(target.driver, "http://127.0.0.1:7101");
        assert_eq!(target.ride, "http://127.0.0.1:7102");
        assert_eq!(target.price, "http://127.0.0.1:7103");
    }

    #[test]
    fn grpc_is_found_above_the_target_or_named() {
        let mut args = TargetArgs {
            target: "http://127.0.0.1:7103".to_owned(),
            driver_url: None,
            ride_url: None,
            grpc_url: None,
        };
        assert_eq!(args.grpc().unwrap(), "http://127.0.0.1:7203");
        args.grpc_url = Some("http://price:9000/".to_owned());
        assert_eq!(args.grpc().unwrap(), "http://price:9000");
    }

    #[test]
    fn each_service_can_be_named_by_itself() {
        let target = TargetArgs {
            target: "http://price".to_owned(),
            driver_url: Some("http://driver".to_owned()),
            ride_url: Some("http://ride:8080".to_owned()),
            grpc_url: None,
        }
        .resolve()
        .unwrap();
        assert_eq!(target.driver, "http://driver");
        assert_eq!(target.ride, "http://ride:8080");
    }

    #[test]
    fn a_bad_address_names_the_option() {
        let error = Target::beside("https://127.0.0.1:7103").unwrap_err();
        assert!(error.to_string().contains("--target"), "{error}");
        let error = format!("{:#}", Target::beside("http://price").unwrap_err());
        assert!(error.contains("--driver-url"), "{error}");
    }
}
