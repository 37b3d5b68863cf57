//! The HTTP edge: one list of tower layers around the routes of a service.
//!
//! # How this works
//!
//! A layer wraps the service below it: it sees each request on its way in and each answer on its
//! way out. [`edge`] lists the layers from the outermost to the innermost:
//!
//! ```text
//!              request in                             answer out
//!                  |                                      ^
//!   request id     |  takes x-request-id, or makes one    |  repeats it in the answer
//!   observe        |  opens the server span, the clock    |  status and duration, trace-id out
//!   catch panic    |                                      |  a panic becomes 500
//!   refuse         |                                      |  errors of the next three: 503, 504
//!   load shed      |  refuses while the limit is used up  |
//!   concurrency    |  counts the requests in progress     |
//!   timeout        |  starts the deadline                 |  gives up after REQUEST_DEADLINE
//!   body limit     |  sets how much the extractors read   |
//!                  v                                      |
//!              handler ------------------------------------
//! ```
//!
//! Answers of the layers have the same form as those of the handlers: `application/problem+json`
//! ([`Fault`]). Only a head that is no HTTP has hyper's own 400 or 431, without a body: no layer
//! sees it.
//!
//! A caller that hangs up has its request dropped. It is observed all the same, with the status
//! [`CALLER_GAVE_UP`].
//!
//! axum has matched the route before it runs the layers of [`Router::layer`], so that metrics and
//! spans name the route (`/v1/rides/{ride_id}`, [`MatchedPath`]) and not the path
//! (`/v1/rides/0197...`), of which there is no end.

mod json;

use std::{any::Any, sync::Arc};

use axum::{
    BoxError, Router,
    error_handling::HandleErrorLayer,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{
        HeaderName, HeaderValue,
        header::{HOST, USER_AGENT},
        uri::Authority,
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer};
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
};
use tracing::{Instrument, Span, field::Empty, info_span};
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

pub use self::json::StrictJson;
use crate::{
    fault::{Fault, Kind, REQUEST_DEADLINE},
    health::Health,
    metrics::{self, EdgeMetrics, known_method, report_end},
    propagation,
};

/// Largest request body that a handler reads.
pub const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// Requests that one process answers at the same time; those beyond are refused with 503. The bound
/// is generous: at one millisecond for a request it is reached at four million a second, so it is
/// reached only while requests are stuck. It bounds memory: 4,096 bodies of 64 KiB are 256 MiB, and
/// 4,096 quotes are some 40 MiB.
pub const CONCURRENT_REQUESTS: usize = 4_096;

/// Response header with the id under which the request's trace is found; absent where the trace was
/// not sampled.
pub const TRACE_ID: &str = "trace-id";

/// The status under which a request counts whose caller hung up before the answer. HTTP has none,
/// this one is nginx's.
const CALLER_GAVE_UP: u16 = 499;

/// Puts the layers around the routes of a service, which `api` describes, and around those that
/// every process has: `/openapi.json`, `/docs` (a page to try it), `/livez`, `/readyz` and
/// `/metrics`.
pub fn edge(
    (routes, api): (Router, OpenApi),
    health: Health,
    registry: Registry,
    metrics: EdgeMetrics,
) -> Router {
    routes
        .merge(SwaggerUi::new("/docs").url("/openapi.json", api))
        .route("/", get(async || Redirect::temporary("/docs/")))
        .merge(health.router())
        .merge(metrics::router(registry))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
                .layer(PropagateRequestIdLayer::x_request_id())
                .layer(from_fn_with_state(metrics, observe))
                .layer(CatchPanicLayer::custom(panicked))
                .layer(HandleErrorLayer::new(refuse))
                .load_shed()
                .layer(GlobalConcurrencyLimitLayer::new(CONCURRENT_REQUESTS))
                .timeout(REQUEST_DEADLINE)
                .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES)),
        )
}

async fn unknown_route() -> Fault {
    let detail = "no such route; /docs lists them all";
    Fault::new(Kind::NotFound, detail)
}

async fn unknown_method() -> Fault {
    let detail = "no such method here; /docs lists them all";
    Fault::new(Kind::MethodNotAllowed, detail)
}

/// Runs the request under a server span, writes the outcome into span and metrics, and the trace's
/// id into the answer.
async fn observe(State(metrics): State<EdgeMetrics>, request: Request, next: Next) -> Response {
    let span = server_span(&request);
    let method = known_method(request.method());
    let route = Arc::from(route_of(&request));
    let answer = next.run(request).instrument(span.clone());
    let ended = |response: Option<&Response>, took| {
        let status = response.map_or(CALLER_GAVE_UP, |response| response.status().as_u16());
        span.record("http.response.status_code", i64::from(status));
        if status >= 500 {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", status.to_string());
        }
        metrics.http_ended(method, route, status, took, &span);
    };
    let mut response = report_end(answer, ended).await;
    if let Some(id) = propagation::trace_id(&span).and_then(|id| HeaderValue::try_from(id).ok()) {
        response.headers_mut().insert(TRACE_ID, id);
    }
    response
}

/// The route as its service declared it; `unknown` where no route matched, so that labels stay few.
fn route_of(request: &Request) -> &str {
    let route = request.extensions().get::<MatchedPath>();
    route.map_or("unknown", MatchedPath::as_str)
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    Fault::internal("a handler panicked").into_response()
}

async fn refuse(error: BoxError) -> Fault {
    Fault::of_layer(&error)
}

/// A span by OpenTelemetry's semantic conventions for HTTP servers, as a child of the caller's.
/// Health checks and scrapes come every few seconds and are not worth a span.
fn server_span(request: &Request) -> Span {
    let route = route_of(request);
    if !route.starts_with("/v1/") {
        return Span::none();
    }
    propagation::continue_from_http(request.headers(), || {
        let method = known_method(request.method());
        let host: Option<Authority> = header(request, HOST).and_then(|host| host.parse().ok());
        let host = host.as_ref();
        info_span!(
            "HTTP",
            otel.name = format!("{method} {route}"),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method,
            http.route = route,
            url.path = request.uri().path(),
            url.scheme = "http",
            http.response.status_code = Empty,
            error.type = Empty,
            server.address = host.map(|host| host.host()),
            server.port = host.and_then(|host| host.port_u16()).map(i64::from),
            user_agent.original = header(request, USER_AGENT),
        )
    })
}

fn header(request: &Request, name: HeaderName) -> Option<&str> {
    request.headers().get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::StatusCode};
    use tower::ServiceExt as _;

    use std::time::Duration;

    use super::*;
    use crate::clock::MarketClock;

    fn edge_around(routes: Router) -> Router {
        edge(
            (routes, OpenApi::default()),
            Health::new(MarketClock::real_time()),
            Registry::default(),
            EdgeMetrics::register(&mut Registry::default()),
        )
    }

    async fn answer(edge: Router) -> Response {
        let request = Request::get("/v1/any").body(Body::empty()).unwrap();
        edge.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn page_to_try_the_document_is_served() {
        let edge = edge_around(Router::new());
        let get = async |path: &str| {
            let request = Request::get(path).body(Body::empty()).unwrap();
            edge.clone().oneshot(request).await.unwrap()
        };
        assert_eq!(get("/").await.headers()["location"], "/docs/");
        for path in ["/docs/", "/docs/swagger-ui-bundle.js", "/openapi.json"] {
            assert_eq!(get(path).await.status(), StatusCode::OK, "{path}");
        }
    }

    fn assert_problem(response: &Response, status: StatusCode) {
        assert_eq!(response.status(), status);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
    }

    #[tokio::test]
    async fn panic_becomes_problem_500() {
        async fn panics() -> String {
            panic!("a bug")
        }
        let response = answer(edge_around(Router::new().route("/v1/any", get(panics)))).await;
        assert_problem(&response, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().contains_key("x-request-id"));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_handler_becomes_problem_504() {
        let hangs = get(std::future::pending::<String>);
        let response = answer(edge_around(Router::new().route("/v1/any", hangs))).await;
        assert_problem(&response, StatusCode::GATEWAY_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_limit_become_problem_503() {
        let edge = edge_around(Router::new().route("/v1/any", get(std::future::pending::<String>)));
        let stuck: Vec<_> = (0..CONCURRENT_REQUESTS)
            .map(|_| tokio::spawn(answer(edge.clone())))
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_problem(&answer(edge.clone()).await, StatusCode::SERVICE_UNAVAILABLE);
        for request in stuck {
            assert_problem(&request.await.unwrap(), StatusCode::GATEWAY_TIMEOUT);
        }
        assert_problem(&answer(edge).await, StatusCode::GATEWAY_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn request_given_up_counts_as_499() {
        let mut registry = Registry::default();
        let metrics = EdgeMetrics::register(&mut registry);
        let hangs = Router::new().route("/v1/any", get(std::future::pending::<String>));
        let health = Health::new(MarketClock::real_time());
        let edge = edge((hangs, OpenApi::default()), health, registry, metrics);
        let given_up = tokio::time::timeout(Duration::from_millis(300), answer(edge.clone()));
        assert!(given_up.await.is_err());
        let scrape = Request::get("/metrics").body(Body::empty()).unwrap();
        let page = edge.oneshot(scrape).await.unwrap().into_body();
        let page = axum::body::to_bytes(page, 1 << 20).await.unwrap();
        let sum = "http_server_request_duration_seconds_sum{http_request_method=\"GET\",\
                   http_route=\"/v1/any\",http_response_status_code=\"499\"} 0.3\n";
        let page = String::from_utf8_lossy(&page);
        assert!(page.contains(sum), "{page}");
    }

    #[tokio::test]
    async fn unknown_routes_and_methods_are_problems() {
        let edge = edge_around(Router::new().route("/v1/any", axum::routing::post(|| async {})));
        assert_problem(&answer(edge).await, StatusCode::METHOD_NOT_ALLOWED);
        assert_problem(
            &answer(edge_around(Router::new())).await,
            StatusCode::NOT_FOUND,
        );
    }
}
