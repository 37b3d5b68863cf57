//! The gRPC edge: one list of tower layers around the services of a process, the twin of
//! [`crate::http`]. Calls to other services leave by [`channel`].
//!
//! # How this works
//!
//! ```text
//!              call in                               answer out
//!                 |                                       ^
//!   observe       |  opens the server span, the clock     |  method, status and duration
//!   blame caller  |                                       |  no protobuf: INVALID_ARGUMENT
//!   catch panic   |                                       |  a panic becomes INTERNAL
//!   refuse        |                                       |  errors of the next two: UNAVAILABLE
//!   load shed     |  refuses while the limit is used up   |
//!   concurrency   |  counts the calls in progress         |
//!   deadline      |  starts our deadline or the caller's  |  gives up: DEADLINE_EXCEEDED
//!                 v                                       |
//!              service ------------------------------------
//! ```
//!
//! gRPC answers with HTTP status 200 whatever happened; the outcome is the header `grpc-status`. A
//! call whose caller cancels it or hangs up is dropped, and observed as CANCELLED.

mod callee;
mod client;
mod deadline;
mod discovery;
mod replica;
mod standard;
mod status;

use std::{any::Any, sync::Arc};

use axum::{
    BoxError,
    error_handling::HandleErrorLayer,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state, map_response},
    response::Response,
};
use tonic::{Code, Status, service::Routes};
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{Instrument, Span, field::Empty, info_span};

pub use self::{
    callee::{Calls, Host, UrlError},
    client::{TracedChannel, call, channel, channel_with, is_overdue},
    discovery::{Resolver, Settings},
    standard::{health_check, with_standard_services},
};
use self::{
    deadline::deadline,
    status::{blame_caller, code_of, is_server_fault, name_of},
};
use crate::{
    fault::Fault,
    http::CONCURRENT_REQUESTS,
    metrics::{EdgeMetrics, report_end},
    propagation,
};

/// Puts the layers around the gRPC services of a process.
pub fn edge(services: Routes, metrics: EdgeMetrics) -> Routes {
    let layers = ServiceBuilder::new()
        .layer(from_fn_with_state(metrics, observe))
        .layer(map_response(blame_caller))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(HandleErrorLayer::new(refuse))
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::new(CONCURRENT_REQUESTS))
        .layer(from_fn(deadline));
    Routes::from(services.into_axum_router().layer(layers))
}

/// Runs the call under a server span, and writes the outcome into span and metrics.
async fn observe(State(metrics): State<EdgeMetrics>, request: Request, next: Next) -> Response {
    let span = server_span(&request);
    let method = Arc::from(method_of(&request));
    let answer = next.run(request).instrument(span.clone());
    let ended = |response: Option<&Response>, took| {
        let code = response.map_or(Code::Cancelled, |response| code_of(response.headers()));
        span.record("rpc.response.status_code", name_of(code));
        if is_server_fault(code) {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", name_of(code));
        }
        // A method that does not exist has whatever name a stranger gave it: all of these are one
        // label.
        let known = match code {
            Code::Unimplemented => Arc::from("_OTHER"),
            _ => method,
        };
        metrics.rpc_ended(known, name_of(code), took, &span);
    };
    report_end(answer, ended).await
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    Status::from(Fault::internal("a handler panicked")).into_http()
}

async fn refuse(error: BoxError) -> Response {
    Status::from(Fault::of_layer(&error)).into_http()
}

/// Package, service and method, such as `surge.v1.SupplyService/GetSupply`.
fn method_of(request: &Request) -> &str {
    request.uri().path().trim_start_matches('/')
}

/// A span by OpenTelemetry's semantic conventions for RPC servers, as a child of the caller's.
/// Health checks and reflection have none.
fn server_span(request: &Request) -> Span {
    let method = method_of(request);
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

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, routing::post};
    use prometheus_client::registry::Registry;
    use tower::ServiceExt;

    use super::*;
    use crate::fault::REQUEST_DEADLINE;

    async fn answer(path: &str, handler: axum::routing::MethodRouter) -> Response {
        answer_within(None, path, handler).await
    }

    async fn answer_within(
        timeout: Option<&str>,
        path: &str,
        handler: axum::routing::MethodRouter,
    ) -> Response {
        let services = Routes::from(Router::new().route(path, handler));
        let metrics = EdgeMetrics::register(&mut Registry::default());
        let mut call = Request::post(path).body(Body::empty()).unwrap();
        if let Some(timeout) = timeout {
            let timeout = timeout.parse().unwrap();
            call.headers_mut().insert("grpc-timeout", timeout);
        }
        let edge = edge(services, metrics).into_axum_router();
        edge.oneshot(call).await.unwrap()
    }

    #[tokio::test]
    async fn panic_becomes_internal() {
        async fn panics() -> String {
            panic!("a bug")
        }
        let answer = answer("/surge.v1.Any/Call", post(panics)).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(code_of(answer.headers()), Code::Internal);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_call_becomes_deadline_exceeded() {
        let answer = answer("/surge.v1.Any/Call", post(std::future::pending::<String>)).await;
        assert_eq!(code_of(answer.headers()), Code::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_timeout_becomes_deadline_exceeded() {
        for path in [
            "/surge.v1.Any/Call",
            "/surge.v1.SupplyService/ReportPositions",
        ] {
            let begun = tokio::time::Instant::now();
            let hangs = post(std::future::pending::<String>);
            let answer = answer_within(Some("50m"), path, hangs).await;
            assert_eq!(code_of(answer.headers()), Code::DeadlineExceeded);
            assert_eq!(begun.elapsed().as_millis(), 50);
        }
        let answer = answer_within(Some("soon"), "/surge.v1.Any/Call", post(async || {})).await;
        assert_eq!(code_of(answer.headers()), Code::InvalidArgument);
    }

    #[tokio::test(start_paused = true)]
    async fn long_stream_has_no_deadline() {
        let slow = async || tokio::time::sleep(100 * REQUEST_DEADLINE).await;
        let answer = answer("/surge.v1.SupplyService/ReportPositions", post(slow)).await;
        assert_eq!(code_of(answer.headers()), Code::Ok);
    }
}
