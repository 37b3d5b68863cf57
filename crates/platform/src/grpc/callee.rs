//! Where a callee is, a tonic channel to one of its addresses, and how a call over it can fail.

use std::{error::Error, fmt, iter, time::Duration};

use http::{Response, Uri};
use tonic::{
    Code, ConnectError,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::BoxError;
use tracing::Span;

use super::status::code_of;

/// Longest time to reach a host; less where the deadline of the calls is shorter.
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);

/// A callee that does not answer a ping within [`PING_DEADLINE`] is gone, or hangs. Without pings
/// that would show only when something is sent.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// What repeating a call does, and so whether a call whose answer was lost is sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Repeating them changes nothing: the channel does it.
    Idempotent,
    /// Repeating them may do something twice: the caller decides.
    NonIdempotent,
}

/// One URL of a setting.
#[derive(Clone, Debug)]
pub(super) struct Callee {
    pub(super) url: Uri,
    pub(super) host: Host,
}

impl Callee {
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
}

/// A name, or an address, and where the replicas behind it listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name, or an address.
    pub name: String,
    /// The port of all replicas.
    pub port: u16,
}

impl Host {
    /// Writes into the current client span which server the call goes to.
    pub(super) fn record_as_server(&self, peer: &dyn fmt::Display) {
        let span = Span::current();
        if !span.is_disabled() {
            span.record("server.address", &*self.name);
            span.record("server.port", i64::from(self.port));
            span.record("network.peer.address", peer.to_string());
        }
    }
}

/// A setting that should name a gRPC service, and does not.
#[derive(Debug, thiserror::Error)]
#[error(
    "{url:?} is no URL of a gRPC service, such as http://driver-management:7201; \
     several are separated by commas"
)]
pub struct UrlError {
    url: String,
}

/// A tonic channel to one address. Calls know it by `origin`, the name under which the callee was
/// configured.
pub(super) fn open(address: Uri, origin: &Uri, deadline: Duration) -> Channel {
    Endpoint::from(address)
        .origin(origin.clone())
        // Half of the deadline: an unreachable host fails as away, before the deadline makes it
        // look slow.
        .connect_timeout(CONNECT_DEADLINE.min(deadline / 2))
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_DEADLINE)
        .connect_lazy()
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The replica never received the call: no connection could be made, or it was closing.
    NotSent,
    /// The connection broke, or the replica says that it cannot serve: it may have carried out the
    /// call.
    ConnectionLost,
}

impl Failure {
    /// `None` where the replica answered, whatever it said.
    pub(super) fn of(result: &Result<Response<Body>, BoxError>) -> Option<Self> {
        match result {
            Ok(response) if code_of(response.headers()) == Code::Unavailable => {
                Some(Self::ConnectionLost)
            }
            Ok(_) => None,
            Err(error) => Some(Self::of_error(&**error)),
        }
    }

    fn of_error(error: &(dyn Error + 'static)) -> Self {
        let not_sent = |cause: &(dyn Error + 'static)| {
            let cancelled = |error: &hyper::Error| error.is_canceled();
            cause.is::<ConnectError>() || cause.downcast_ref().is_some_and(cancelled)
        };
        match causes(error).any(not_sent) {
            true => Self::NotSent,
            false => Self::ConnectionLost,
        }
    }
}

/// An error, its cause, and so on.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&cause| cause.source())
}
