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

    fn sibling(
        &self,
        option: &str,
        given: Option<&str>,
        ports_below: u16,
    ) -> anyhow::Result<String> {
        match given {
            Some(url) => base_url(option, url),
            None => port_below(&base_url("--target", &self.target)?, ports_below)
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

/// The same URL with a port that is `ports_below` lower.
fn port_below(url: &str, ports_below: u16) -> anyhow::Result<String> {
    let uri: Uri = url.parse()?;
    let port = uri
        .port_u16()
        .and_then(|port| port.checked_sub(ports_below));
    let (Some(port), Some(host)) = (port.filter(|&port| port > 0), uri.host()) else {
        bail!("{url} has no port to count down from");
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
    fn each_service_can_be_named_by_itself() {
        let target = TargetArgs {
            target: "http://price".to_owned(),
            driver_url: Some("http://driver".to_owned()),
            ride_url: Some("http://ride:8080".to_owned()),
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
