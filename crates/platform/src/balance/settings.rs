//! What a channel is told: how its callee is found, and what may be done about a call that failed.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::Uri;

use super::names::{Host, LookUp, system};

/// How often names are looked up.
const LOOK_UP_EVERY: Duration = Duration::from_secs(5);

/// What a channel is used for, which decides what may be done about a call whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// They change nothing: such a call is made once more, at another replica.
    Read,
    /// They change something: the caller has to decide.
    Act,
}

/// How a callee is found and called.
#[derive(Clone)]
pub struct Settings {
    /// End of every call, however many replicas are tried.
    pub deadline: Duration,
    /// What the calls are.
    pub calls: Calls,
    /// How names are looked up.
    pub look_up: LookUp,
    /// How often; give or take a fifth, so that callers that were started together do not ask together.
    pub look_up_every: Duration,
}

impl Settings {
    /// The usual: names are looked up every few seconds, by the system.
    pub fn new(deadline: Duration, calls: Calls) -> Self {
        Self {
            deadline,
            calls,
            look_up: system(),
            look_up_every: LOOK_UP_EVERY,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("deadline", &self.deadline)
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

/// A setting that should name a gRPC service, and does not.
#[derive(Debug, thiserror::Error)]
#[error(
    "{url:?} is no URL of a gRPC service, such as http://driver-management:7201; several are separated by commas"
)]
pub struct UrlError {
    url: String,
}

/// One URL of a setting.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: Uri,
    pub(super) host: Host,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, UrlError> {
        let wrong = || UrlError {
            url: url.to_owned(),
        };
        let url: Uri = url.parse().map_err(|_| wrong())?;
        let name = url.host().filter(|_| url.scheme_str() == Some("http"));
        let host = Host {
            // Addresses of IPv6 stand in brackets.
            name: name.ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned(),
            port: url.port_u16().unwrap_or(80),
        };
        Ok(Self { url, host })
    }

    /// Where its host is one that needs no looking up.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let address = self.host.name.parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(address, self.host.port))
    }
}
