//! The gRPC edges: a server layer that is the twin of the HTTP one, and a client channel that is bounded, traced and
//! reconnects by itself.

use std::{
    convert::Infallible,
    error::Error,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{extract::Request, response::Response};
use futures::{FutureExt, TryFutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tonic::{
    Code, Status,
    service::{Interceptor, Routes, interceptor::InterceptedService},
};
use tower::{Service, layer::layer_fn};
use tracing::{Instrument, Span, field::Empty, info_span};

pub use crate::balance::{Calls, UrlError};
use crate::{
    balance::{BalancedChannel, Settings},
    deadline::within,
    fault::Fault,
    http::REQUEST_DEADLINE,
    metrics::{EdgeMetrics, clients},
    propagation,
};

/// Wraps the gRPC services of a process: every call is traced, measured, and ended by a deadline; what cannot be
/// decoded is the caller's fault and says so, a panic is ours.
pub fn edge(services: Routes, metrics: EdgeMetrics) -> Routes {
    let around = move |service| Edged {
        service,
        metrics: metrics.clone(),
    };
    Routes::from(services.into_axum_router().layer(layer_fn(around)))
}

/// A service with the edge around it. axum's `middleware::from_fn` would box and clone the service once more for each call.
#[derive(Clone, Debug)]
struct Edged<S> {
    service: S,
    metrics: EdgeMetrics,
}

impl<S> Service<Request> for Edged<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let asked = Asked::by(&request);
        let answer = self.service.call(request);
        let answer = answer.unwrap_or_else(|never| match never {});
        asked.answer(answer, self.metrics.clone()).map(Ok).boxed()
    }
}

/// What is remembered of a call until it is answered.
struct Asked {
    at: Instant,
    method: Arc<str>,
    span: Span,
}

impl Asked {
    fn by(request: &Request) -> Self {
        let at = Instant::now();
        let method = Arc::from(request.uri().path().trim_start_matches('/'));
        let span = server_span(request, &method);
        Self { at, method, span }
    }

    async fn answer(
        self,
        answer: impl Future<Output = Response> + Send,
        metrics: EdgeMetrics,
    ) -> Response {
        let Self { at, method, span } = self;
        let mut response = bounded(answer, &method, &span).await;
        blame_the_caller_for_nonsense(response.headers_mut());
        let code = code_of(response.headers());
        tell(&span, code);
        // Whatever a stranger invents counts as one method, so that labels stay bounded.
        let known = if code == Code::Unimplemented {
            Arc::from("_OTHER")
        } else {
            method
        };
        metrics.rpc_answered(known, name_of(code), at.elapsed(), &span);
        response
    }
}

/// The answer, or a status where there is none in time or at all.
async fn bounded(
    answer: impl Future<Output = Response> + Send,
    method: &str,
    span: &Span,
) -> Response {
    let answer = AssertUnwindSafe(answer).catch_unwind();
    let answer = within(deadline_of(method), answer).instrument(span.clone());
    match answer.await {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => Status::from(Fault::internal("a handler panicked")).into_http(),
        Err(_passed) => overdue().into_http(),
    }
}

fn tell(span: &Span, code: Code) {
    span.record("rpc.response.status_code", name_of(code));
    if is_server_fault(code) {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", name_of(code));
    }
}

fn overdue() -> Status {
    Status::deadline_exceeded(format!("not done within {REQUEST_DEADLINE:?}"))
}

/// A client stream and a health watch live as long as their caller wants; everything else is a request. A caller that
/// is gone without a word ends them too: the server pings its connections.
fn deadline_of(method: &str) -> Duration {
    match method {
        "surge.v1.SupplyService/ReportPositions" | "grpc.health.v1.Health/Watch" => Duration::MAX,
        _ if method.starts_with("grpc.reflection.") => Duration::MAX,
        _ => REQUEST_DEADLINE,
    }
}

fn server_span(request: &Request, method: &str) -> Span {
    if method.starts_with("grpc.") {
        return Span::none();
    }
    propagation::continue_from_http(request.headers(), || {
        info_span!(
            "RPC",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = Empty,
            error.type = Empty,
        )
    })
}

static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A message that is no protobuf comes out of tonic as INTERNAL; nothing inside is broken, the caller's bytes are.
fn blame_the_caller_for_nonsense(headers: &mut HeaderMap) {
    let undecodable = headers.get(&GRPC_MESSAGE).is_some_and(|message| {
        message
            .as_bytes()
            .starts_with(b"failed%20to%20decode%20Protobuf")
    });
    if undecodable && code_of(headers) == Code::Internal {
        let invalid_argument = HeaderValue::from(Code::InvalidArgument as i32);
        headers.insert(GRPC_STATUS.clone(), invalid_argument);
    }
}

fn code_of(headers: &HeaderMap) -> Code {
    headers
        .get(&GRPC_STATUS)
        .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// The name of a code, as it stands in the specification of gRPC.
const fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn is_server_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// A channel to another service that carries the trace along.
pub type TracedChannel = InterceptedService<BalancedChannel, InjectTrace>;

/// Longest time to reach a host; less where the deadline of the calls is shorter.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_millis(500);

/// Opens a channel to `urls`, one or several with commas between, when the first call needs it. Calls are spread over all
/// addresses that these have (see [`crate::balance`]), and each ends within `deadline`.
///
/// # Errors
/// When one of `urls` is none.
pub fn channel(urls: &str, deadline: Duration, calls: Calls) -> Result<TracedChannel, UrlError> {
    let channel = BalancedChannel::open(urls, Settings::new(deadline, calls))?;
    Ok(InterceptedService::new(channel, InjectTrace::to(urls)))
}

/// Writes the current trace context into outgoing calls, and into the client span where they go.
#[derive(Clone, Debug)]
pub struct InjectTrace {
    server: Arc<str>,
    port: u16,
}

impl InjectTrace {
    /// Of several the first; which it really was, the channel tells.
    fn to(urls: &str) -> Self {
        let first = urls.split(',').next().unwrap_or_default();
        let url: http::Uri = first.trim().parse().unwrap_or_default();
        Self {
            server: Arc::from(url.host().unwrap_or_default()),
            port: url.port_u16().unwrap_or(80),
        }
    }
}

impl Interceptor for InjectTrace {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let span = Span::current();
        if !span.is_disabled() {
            span.record("server.address", &*self.server);
            span.record("server.port", i64::from(self.port));
        }
        propagation::inject_grpc(request.metadata_mut());
        Ok(request)
    }
}

/// Whether a call failed because its callee kept silent for too long, as one that hangs does; else it is away, or it
/// answered. tonic makes CANCELLED of our own deadline, so the code alone does not tell.
pub fn is_overdue(status: &Status) -> bool {
    let mut causes = std::iter::successors(status.source(), |&cause| cause.source());
    status.code() == Code::DeadlineExceeded || causes.any(is_silence)
}

pub(crate) fn is_silence(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<tonic::TimeoutExpired>()
}

/// Makes an outgoing call under a client span of its own, and records how it ended.
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
    // Not an async function: that would hold the call twice, as its argument and as what it awaits, and the call is large.
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
    use axum::body::Body;
    use prometheus_client::registry::Registry;
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn undecodable_bytes_are_the_callers_fault() {
        let status = Status::internal("failed to decode Protobuf message: invalid wire type");
        let mut headers = status.into_http::<axum::body::Body>().headers().clone();
        blame_the_caller_for_nonsense(&mut headers);
        assert_eq!(code_of(&headers), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn a_panic_is_our_own_fault() {
        async fn panics() -> String {
            panic!("a bug")
        }
        let service = axum::Router::new().route("/surge.v1.Any/Call", axum::routing::post(panics));
        let metrics = EdgeMetrics::register(&mut Registry::default());
        let edge = edge(Routes::from(service), metrics).into_axum_router();
        let call = Request::post("/surge.v1.Any/Call").body(Body::empty());
        let answer = edge.oneshot(call.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(code_of(answer.headers()), Code::Internal);
    }

    #[test]
    fn our_own_faults_stay_ours() {
        let mut headers = Status::internal("disk full")
            .into_http::<axum::body::Body>()
            .headers()
            .clone();
        blame_the_caller_for_nonsense(&mut headers);
        assert_eq!(code_of(&headers), Code::Internal);
    }
}
