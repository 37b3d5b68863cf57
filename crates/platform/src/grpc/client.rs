//! Calls to another service: a channel that spreads them over its replicas, and the client span around each.
//!
//! # How this works
//!
//! HTTP/2 carries all calls on one connection, so a caller that connects to a name of many replicas stays with one of them,
//! and a proxy in between balances connections, not calls. A channel to a name therefore looks the name up itself
//! ([`discovery`](super::discovery)), keeps a connection to each address, and chooses a replica for each call:
//!
//! ```text
//!   call
//!     |  timeout       gives up after the deadline            -> DEADLINE_EXCEEDED, which quotes answer as 504
//!     |  traceparent   tells the callee which trace this is
//!     |  prepare       reads the request into memory, because it may have to be sent twice
//!     |  retry         sends it to another replica if the first never got it
//!     |  buffer        shares what follows between all callers
//!     |  load shed     no replica is ready                    -> UNAVAILABLE, which quotes answer as 503
//!     |  balance       the less busy of two random replicas (power of two choices)
//!     v
//!   replica  ...       ejected for a while after a failure ([`replica`](super::replica)), then a tonic channel
//! ```
//!
//! A channel to one IP address has nothing to choose from: there the list is timeout, traceparent, tonic's channel.

use std::{error::Error, iter, net::IpAddr, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tonic::{
    Code, ConnectError, Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{
    BoxError, ServiceBuilder, balance::p2c::Balance, retry::Policy, timeout::error::Elapsed,
    util::BoxCloneSyncService,
};
use tracing::{Instrument, field::Empty, info_span};

use super::{
    discovery::{Discovery, Host, Resolver},
    status::{code_of, name_of},
};
use crate::{metrics::clients, propagation};

/// Longest time to reach a host; less where the deadline of the calls is shorter.
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);

/// A callee that does not answer a ping within [`PING_DEADLINE`] is gone, or hangs. Without pings that would show only
/// when something is sent.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// Calls that may wait for the balancer, which takes microseconds for each.
const BUFFERED_CALLS: usize = 1_024;

/// How often a request is sent at most, if no replica received it before.
const MOST_ATTEMPTS: usize = 3;

/// A channel to another service that carries the trace along. Cheap to clone.
pub type TracedChannel = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

/// What repeating a call does, and so whether a call whose answer was lost is sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Repeating them changes nothing: the channel does it.
    Idempotent,
    /// Repeating them may do something twice: the caller decides.
    NonIdempotent,
}

/// How a channel finds and calls its callee.
#[derive(Clone, Debug)]
pub struct Settings {
    /// End of every call, however many replicas are tried.
    pub deadline: Duration,
    /// What the calls are.
    pub calls: Calls,
    /// What looks names up.
    pub resolver: Resolver,
    /// How often; give or take a fifth, so that callers that started together do not ask together.
    pub lookup_every: Duration,
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

/// Opens a channel to `urls`, one or several with commas between. It connects when the first call needs it, and each call
/// ends within `deadline`.
///
/// # Errors
/// When one of `urls` is no URL.
pub fn channel(urls: &str, deadline: Duration, calls: Calls) -> Result<TracedChannel, UrlError> {
    let settings = Settings {
        deadline,
        calls,
        resolver: Resolver::system(),
        lookup_every: Duration::from_secs(5),
    };
    channel_with(urls, settings)
}

/// [`channel`] with a resolver of one's own.
///
/// # Errors
/// When one of `urls` is no URL.
pub fn channel_with(urls: &str, settings: Settings) -> Result<TracedChannel, UrlError> {
    let targets = urls.split(',').map(str::trim).map(Target::parse);
    let targets = targets.collect::<Result<Vec<_>, _>>()?;
    Ok(match &targets[..] {
        [only] if only.host.name.parse::<IpAddr>().is_ok() => to_address(only, &settings),
        _ => to_replicas(targets, settings),
    })
}

fn to_address(target: &Target, settings: &Settings) -> TracedChannel {
    let host = target.host.clone();
    let service = ServiceBuilder::new()
        .map_err(status_of)
        .timeout(settings.deadline)
        .map_request(with_traceparent)
        .map_request(move |request| {
            host.record_as_server(&host.name);
            request
        })
        .service(open(target.url.clone(), &target.url, settings.deadline));
    BoxCloneSyncService::new(service)
}

fn to_replicas(targets: Vec<Target>, settings: Settings) -> TracedChannel {
    let retry = Retry {
        calls: settings.calls,
        attempts: 1,
    };
    let deadline = settings.deadline;
    let (replicas, known) = Discovery::start(targets, settings);
    let prepare = move |request: Request<Body>| {
        let known = known.clone();
        async move {
            known.wait(deadline / 2).await;
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, BoxError>(Request::from_parts(head, body))
        }
    };
    let service = ServiceBuilder::new()
        .map_err(status_of)
        .timeout(deadline)
        .map_request(with_traceparent)
        .filter_async(prepare)
        .retry(retry)
        .map_request(|request: Request<Bytes>| request.map(|body| Body::new(Full::new(body))))
        .buffer(BUFFERED_CALLS)
        .load_shed()
        .service(Balance::new(replicas));
    BoxCloneSyncService::new(service)
}

/// A tonic channel to one address. Calls know it by `origin`, the name under which the callee was configured.
pub(super) fn open(address: Uri, origin: &Uri, deadline: Duration) -> Channel {
    Endpoint::from(address)
        .origin(origin.clone())
        // Half of the deadline: an unreachable host fails as away, before the deadline makes it look slow.
        .connect_timeout(CONNECT_DEADLINE.min(deadline / 2))
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_DEADLINE)
        .connect_lazy()
}

fn with_traceparent<B>(mut request: Request<B>) -> Request<B> {
    propagation::inject_http(request.headers_mut());
    request
}

/// The error of a layer as the status that it means.
fn status_of(error: BoxError) -> Status {
    if error.is::<Elapsed>() {
        return Status::deadline_exceeded("no answer within the deadline of the call");
    }
    if error.is::<tower::load_shed::error::Overloaded>() {
        return Status::unavailable("none of its replicas can be called now");
    }
    if causes(&*error).any(is_unanswered_ping) {
        return Status::deadline_exceeded("the callee answers neither calls nor pings");
    }
    Status::from_error(error)
}

/// An error, its cause, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&cause| cause.source())
}

/// Whether a connection was closed because the callee hangs.
fn is_unanswered_ping(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref().is_some_and(hyper::Error::is_timeout)
}

/// Whether a call is sent once more, to another replica.
#[derive(Clone, Debug)]
struct Retry {
    calls: Calls,
    /// How often it was sent.
    attempts: usize,
}

impl Policy<Request<Bytes>, Response<Body>, BoxError> for Retry {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Bytes>,
        result: &mut Result<Response<Body>, BoxError>,
    ) -> Option<Self::Future> {
        let most = match Failure::of(result)? {
            Failure::NotSent => MOST_ATTEMPTS,
            Failure::ConnectionLost if self.calls == Calls::Idempotent => 2,
            Failure::ConnectionLost => 1,
        };
        let again = self.attempts < most;
        self.attempts += 1;
        again.then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<Bytes>) -> Option<Request<Bytes>> {
        Some(request.clone())
    }
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The replica never received the call: no connection could be made, or it was closing.
    NotSent,
    /// The connection broke, or the replica says that it cannot serve: it may have carried out the call.
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

/// One URL of a setting.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: Uri,
    pub(super) host: Host,
}

impl Target {
    fn parse(url: &str) -> Result<Self, UrlError> {
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

/// Whether a call failed because no answer came in time; otherwise the callee is away, or it answered.
pub fn is_overdue(status: &Status) -> bool {
    status.code() == Code::DeadlineExceeded
}

/// Makes an outgoing call under a client span of its own, and observes how it ended.
///
/// # Errors
/// Those of the call.
pub fn call<T>(
    method: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> impl Future<Output = Result<T, Status>> {
    let span = info_span!(
        "RPC",
        otel.name = method,
        otel.kind = "client",
        network.peer.address = Empty,
        otel.status_code = Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = Empty,
        error.type = Empty,
        server.address = Empty,
        server.port = Empty,
    );
    let started = Instant::now();
    // Not an async function: that would hold the call twice, as its argument and as what it awaits, and a call is large.
    call.instrument(span.clone()).map(move |answer| {
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        span.record("rpc.response.status_code", name_of(code));
        if code != Code::Ok {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", name_of(code));
        }
        clients::called(method, name_of(code), started.elapsed(), &span);
        answer.map(tonic::Response::into_inner)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refuses_what_is_no_url() {
        for wrong in [
            "",
            "not a url",
            "driver-management:7201",
            "https://a:1",
            "http://a:1,",
        ] {
            let refused = channel(wrong, Duration::from_secs(1), Calls::Idempotent);
            let refused = refused.unwrap_err().to_string();
            assert!(
                refused.contains("is no URL of a gRPC service"),
                "{wrong}: {refused}"
            );
        }
    }
}
