//! The HTTP edge: it traces, measures, bounds and words every answer the same way, and has the routes that every process has;
//! and an extractor that reads JSON strictly. All other routes, and the bodies, belong to the services.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{FromRequest, Request},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, HOST, USER_AGENT},
        uri::Authority,
    },
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{FutureExt, TryFutureExt};
use http_body_util::LengthLimitError;
use prometheus_client::registry::Registry;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tower::Service;
use tracing::{Instrument, Span, field::Empty, info_span};
use utoipa::openapi::OpenApi;

use crate::{
    deadline::within,
    fault::{Fault, Kind},
    health::Health,
    metrics::{self, EdgeMetrics, known_method},
    propagation,
};

/// Largest request body that is read.
pub const BODY_LIMIT_BYTES: usize = 64 * 1024;

/// Longest time any request may take. Routes that wait on others have shorter deadlines of their own.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// Longest time a body may take to come: well before [`REQUEST_DEADLINE`], so that a caller who dawdles does not look like a
/// slow service.
const BODY_DEADLINE: Duration = Duration::from_secs(3);

/// Response header with the id under which the request's trace is found; absent where the trace was not sampled.
pub const TRACE_ID: &str = "trace-id";

/// Where what describes the routes is.
const DESCRIPTION: &str = "/openapi.json";

/// The routes that every process has.
const EVERYONES: [&str; 4] = [DESCRIPTION, "/livez", "/readyz", "/metrics"];

/// The HTTP edge of a process, ready to be served. Cheap to clone.
///
/// It stands around the router and not, as a layer of axum's, around each route, which would box and clone each of them once
/// more for each request: a fifteenth of a quote's instructions. The price is that it has to look up itself which route a request
/// is for.
#[derive(Clone, Debug)]
pub struct HttpEdge(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    router: Router,
    /// The routes as they were declared, so that names of spans and labels stay few.
    routes: matchit::Router<Arc<str>>,
    unknown_route: Arc<str>,
    metrics: EdgeMetrics,
}

/// Puts an edge together from the routes of a service, which `api` describes, and those that every process has. Unknown routes
/// answer as problems, panics as faults, and every request is traced and measured.
pub fn edge(
    (router, api): (Router, OpenApi),
    health: Health,
    registry: Registry,
    metrics: EdgeMetrics,
) -> HttpEdge {
    let routes = routes_of(&api);
    let router = router
        .route(DESCRIPTION, get(async move || Json(api)))
        .merge(health.router())
        .merge(metrics::router(registry))
        .fallback(|| async {
            Fault::new(
                Kind::NotFound,
                "no such route; /openapi.json lists them all",
            )
        })
        .method_not_allowed_fallback(|| async {
            Fault::new(
                Kind::MethodNotAllowed,
                "no such method here; /openapi.json lists them all",
            )
        });
    HttpEdge(Arc::new(Inner {
        router,
        routes,
        unknown_route: Arc::from("unknown"),
        metrics,
    }))
}

fn routes_of(api: &OpenApi) -> matchit::Router<Arc<str>> {
    let mut routes = matchit::Router::new();
    let described = api.paths.paths.keys().map(String::as_str);
    for route in described.chain(EVERYONES) {
        // Two that collide, axum would not have taken either.
        let _ = routes.insert(route, Arc::from(route));
    }
    routes
}

/// What is remembered of a request until it is answered.
struct Asked {
    at: Instant,
    method: &'static str,
    route: Arc<str>,
    span: Span,
}

impl HttpEdge {
    /// The answer to a request.
    pub(crate) fn answer(&self, request: Request) -> impl Future<Output = Response> + Send + use<> {
        let edge = Arc::clone(&self.0);
        let asked = edge.asked(&request);
        let answer = edge.router.clone().call(request);
        let answer = answer.unwrap_or_else(|never| match never {});
        async move {
            let mut response = bounded(answer, &asked.span).await;
            tell(&asked.span, &mut response);
            edge.count(asked, response.status());
            response
        }
    }
}

impl Inner {
    fn asked(&self, request: &Request) -> Asked {
        let at = Instant::now();
        let method = known_method(request.method());
        let route = self.routes.at(request.uri().path());
        let route = route.map_or(&self.unknown_route, |found| found.value);
        Asked {
            at,
            method,
            route: Arc::clone(route),
            span: server_span(request, method, route),
        }
    }

    fn count(&self, asked: Asked, status: StatusCode) {
        let took = asked.at.elapsed();
        self.metrics.http_answered(
            asked.method,
            asked.route,
            status.as_u16(),
            took,
            &asked.span,
        );
    }
}

/// The answer, or a fault where there is none in time or at all.
async fn bounded(answer: impl Future<Output = Response> + Send, span: &Span) -> Response {
    // A layer of its own for panics would cost every request a boxed service more.
    let answer = AssertUnwindSafe(answer).catch_unwind();
    let answer = within(REQUEST_DEADLINE, answer).instrument(span.clone());
    match answer.await {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => Fault::internal("a handler panicked").into_response(),
        Err(_passed) => overdue().into_response(),
    }
}

/// Tells the span of the answer, and the caller of the span.
fn tell(span: &Span, response: &mut Response) {
    let status = response.status();
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status.as_str());
    }
    if let Some(id) = propagation::trace_id(span).and_then(|id| HeaderValue::try_from(id).ok()) {
        response.headers_mut().insert(TRACE_ID, id);
    }
}

fn overdue() -> Fault {
    Fault::new(
        Kind::DeadlineExceeded,
        format!("not done within {REQUEST_DEADLINE:?}"),
    )
}

fn server_span(request: &Request, method: &'static str, route: &str) -> Span {
    // Probes and scrapes come every few seconds and tell nothing: they leave no spans.
    if !route.starts_with("/v1/") {
        return Span::none();
    }
    propagation::continue_from_http(request.headers(), || {
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

/// A JSON body, read strictly: content type, size, syntax, types and unknown fields are all checked, and a refusal
/// names the field.
#[derive(Clone, Copy, Debug)]
pub struct StrictJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for StrictJson<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        require_json(request.headers())?;
        let body = read_body(request.into_body()).await?;
        parse(&body).map(Self)
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), Fault> {
    let content_type = headers.get(CONTENT_TYPE);
    if content_type.is_some_and(|value| value == "application/json") {
        return Ok(());
    }
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let essence = content_type
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    if essence.trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "send a JSON body under content-type: application/json";
    Err(Fault::new(Kind::UnsupportedMediaType, detail))
}

async fn read_body(body: Body) -> Result<axum::body::Bytes, Fault> {
    let read = within(BODY_DEADLINE, to_bytes(body, BODY_LIMIT_BYTES)).await;
    let overdue = |_| {
        let detail = format!("the body was not complete within {BODY_DEADLINE:?}");
        Fault::invalid(".", detail)
    };
    read.map_err(overdue)?.map_err(unreadable)
}

fn unreadable(error: axum::Error) -> Fault {
    if error.into_inner().is::<LengthLimitError>() {
        let detail = format!("the body is larger than {BODY_LIMIT_BYTES} bytes");
        return Fault::new(Kind::PayloadTooLarge, detail);
    }
    Fault::invalid(".", "the body was cut off, or its chunks are ill-formed")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    // Most bodies are right; only for one that is not does it pay to keep track of where in it the parser is.
    serde_json::from_slice(body).or_else(|_| parse_with_path(body))
}

fn parse_with_path<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        Fault::invalid(field, error.into_inner())
    })?;
    json.end().map_err(|error| Fault::invalid(".", error))?;
    Ok(value)
}

/// A JSON answer of about so many bytes. What is known to be that long is not written to a buffer that has to grow to it.
#[derive(Clone, Copy, Debug)]
pub struct SizedJson<T, const BYTES: usize>(pub T);

impl<T: Serialize, const BYTES: usize> IntoResponse for SizedJson<T, BYTES> {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(BYTES);
        if let Err(error) = serde_json::to_writer(&mut body, &self.0) {
            return Fault::internal(error.to_string()).into_response();
        }
        let mut response = Response::new(Body::from(body));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures::stream;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Trip {
        #[allow(dead_code, reason = "only its parsing is under test")]
        miles: f64,
    }

    fn refusal(body: &str) -> String {
        let fault = parse::<Trip>(body.as_bytes()).unwrap_err();
        assert_eq!(fault.kind(), Kind::InvalidArgument);
        tonic::Status::from(fault).message().to_owned()
    }

    #[test]
    fn a_refusal_names_the_field() {
        assert!(refusal(r#"{"miles":"far"}"#).starts_with("miles: "));
        assert!(refusal(r#"{"miles":1,"mood":2}"#).contains("unknown field `mood`"));
        assert!(refusal(r#"{"miles":1e999}"#).contains("out of range"));
        assert!(refusal(r#"{"miles":1} {}"#).contains("trailing"));
        assert!(refusal("{}").contains("missing field `miles`"));
    }

    #[test]
    fn only_json_is_read() {
        let mut headers = HeaderMap::new();
        assert!(require_json(&headers).is_err());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert!(require_json(&headers).is_err());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/json; charset=utf-8"),
        );
        assert!(require_json(&headers).is_ok());
    }

    #[tokio::test]
    async fn an_oversized_body_is_refused() {
        let fault = read_body(Body::from(vec![b'x'; BODY_LIMIT_BYTES + 1]))
            .await
            .unwrap_err();
        assert_eq!(fault.kind(), Kind::PayloadTooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_or_breaks_off_is_its_senders_fault() {
        let never = Body::from_stream(stream::pending::<Result<Vec<u8>, io::Error>>());
        let broken = Body::from_stream(stream::iter([
            Ok(vec![b'{']),
            Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        ]));
        for (body, said) in [(never, "not complete within 3s"), (broken, "cut off")] {
            let fault = read_body(body).await.unwrap_err();
            assert_eq!(fault.kind(), Kind::InvalidArgument);
            let words = tonic::Status::from(fault).message().to_owned();
            assert!(words.contains(said), "{words}");
        }
    }

    #[tokio::test]
    async fn an_oversized_body_in_parts_is_refused_too() {
        let parts = (0..17).map(|_| Ok::<_, io::Error>(vec![b' '; 4_096]));
        let fault = read_body(Body::from_stream(stream::iter(parts))).await;
        assert_eq!(fault.unwrap_err().kind(), Kind::PayloadTooLarge);
    }
}
