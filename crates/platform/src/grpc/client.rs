//! Calls to another service: a channel that spreads them over its replicas, and the client span
//! around each.
//!
//! # How this works
//!
//! HTTP/2 carries all calls on one connection, so a caller that connects to a name of many replicas
//! stays with one of them, and a proxy in between balances connections, not calls. A channel to a
//! name therefore looks the name up itself ([`discovery`](super::discovery)), keeps a connection to
//! each address, and chooses a replica for each call:
//!
//! ```text
//!   call
//!     |  timeout       gives up after the deadline   -> DEADLINE_EXCEEDED (a quote: 504)
//!     |  traceparent   names the trace to the callee
//!     |  prepare       reads the request into memory, because it may have to be sent twice
//!     |  retry         sends it to another replica if the first never got it
//!     |  buffer        shares what follows between all callers
//!     |  load shed     no replica is ready           -> UNAVAILABLE (a quote: 503)
//!     |  balance       the one of two random replicas with fewer calls (p2c)
//!     v
//!   replica  ...       ejected for a while after a failure, then a tonic channel
//! ```
//!
//! A channel to one IP address has nothing to choose from: there the list is timeout, traceparent,
//! tonic's channel.

use std::{error::Error, net::IpAddr, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tonic::{Code, Status, body::Body};
use tower::{
    BoxError, ServiceBuilder, balance::p2c::Balance, retry::Policy, timeout::error::Elapsed,
    util::BoxCloneSyncService,
};
use tracing::{Instrument, field::Empty, info_span};

use super::{
    callee::{Callee, Calls, Failure, UrlError, causes, open},
    discovery::{Discovery, Resolver, Settings},
    status::name_of,
};
use crate::{
    metrics::{clients, report_end},
    propagation,
};

/// Calls that may wait for the balancer, which takes microseconds for each.
const BUFFERED_CALLS: usize = 1_024;

/// How often a request is sent at most, if no replica received it before.
const MOST_ATTEMPTS: usize = 3;

/// A channel to another service that carries the trace along. Cheap to clone.
pub type TracedChannel = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

/// Opens a channel to `urls`, one or several with commas between. It connects when the first call
/// needs it, and each call ends within `deadline`.
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
    let targets = urls.split(',').map(str::trim).map(Callee::parse);
    let targets = targets.collect::<Result<Vec<_>, _>>()?;
    Ok(match &targets[..] {
        [only] if only.host.name.parse::<IpAddr>().is_ok() => to_address(only, &settings),
        _ => to_replicas(targets, settings),
    })
}

fn to_address(target: &Callee, settings: &Settings) -> TracedChannel {
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

fn to_replicas(targets: Vec<Callee>, settings: Settings) -> TracedChannel {
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

/// Whether a call failed because no answer came in time; otherwise the callee is away, or it
/// answered.
pub fn is_overdue(status: &Status) -> bool {
    status.code() == Code::DeadlineExceeded
}

/// Makes an outgoing call under a client span of its own, and observes how it ended. A
/// call that we give up ourselves is CANCELLED.
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
    let call = call.instrument(span.clone());
    let ended = move |answer: Option<&Result<_, Status>>, took| {
        let code = answer.map_or(Code::Cancelled, |answer| {
            answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
        });
        span.record("rpc.response.status_code", name_of(code));
        if code != Code::Ok {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", name_of(code));
        }
        clients::called(method, name_of(code), took, &span);
    };
    report_end(call, ended).map(|answer| answer.map(tonic::Response::into_inner))
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
