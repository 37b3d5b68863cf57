//! The routes of the Jaeger query API that the Jaeger UI calls, and the pages. Each handler takes a
//! snapshot from the store and answers in Jaeger's envelope, errors included. Metrics and the
//! archive answer 501, which the UI shows as a feature that is switched off.

use std::time::{Duration, SystemTime};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http::{StatusCode, header};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

use crate::{
    Error,
    calls::count_calls,
    ids::TraceId,
    jaeger::{Envelope, ErrorJson, TracesJson},
    query::{BadParameter, Parameters},
    store::{SharedStore, Trace},
    ui,
};

/// The largest answer takes a tenth of a second; a client that reads for 10 s is stuck.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Serves the API and the pages until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    store: SharedStore,
    stop: CancellationToken,
) -> Result<(), Error> {
    axum::serve(listener, router(store))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .map_err(Error::Ui)
}

fn router(store: SharedStore) -> Router {
    Router::new()
        .route("/api/services", get(services))
        .route("/api/services/{service}/operations", get(operation_names))
        .route("/api/operations", get(operations))
        .route("/api/traces", get(traces))
        .route("/api/traces/{id}", get(trace))
        .route("/api/dependencies", get(dependencies))
        .route("/api/archive/{id}", any(no_archive))
        .route("/api/metrics/{*query}", any(no_metrics))
        .route("/api/{*path}", any(no_such_path))
        .with_state(store)
        .fallback_service(ui::pages())
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            ANSWER_DEADLINE,
        ))
}

type ApiResult = Result<Response, Refusal>;

/// Why a request fails.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    BadParameter(#[from] BadParameter),
    #[error("trace not found")]
    TraceNotFound,
    #[error("no such path in the query API")]
    NoSuchPath,
    #[error("this collector has no {0}")]
    NotOffered(&'static str),
}

async fn services(State(store): State<SharedStore>) -> ApiResult {
    Ok(answer(&store.lock().catalog().services()))
}

async fn operation_names(
    State(store): State<SharedStore>,
    Path(service): Path<String>,
) -> ApiResult {
    let store = store.lock();
    let operations = store.catalog().operations(&service, None);
    // Sorted by name, then by kind, so that an operation with two kinds has its names side by side.
    let mut names: Vec<_> = operations.iter().map(|operation| operation.name).collect();
    names.dedup();
    Ok(answer(&names))
}

async fn operations(
    State(store): State<SharedStore>,
    Query(asked): Query<Parameters>,
) -> ApiResult {
    let (service, kind) = (asked.service()?, asked.span_kind()?);
    Ok(answer(&store.lock().catalog().operations(service, kind)))
}

async fn traces(State(store): State<SharedStore>, Query(asked): Query<Parameters>) -> ApiResult {
    let ids = asked.trace_ids()?;
    if !ids.is_empty() {
        return Ok(traces_by_id(&store, &ids, asked.pretty()));
    }
    let query = asked.trace_query(SystemTime::now())?;
    let found = store
        .lock()
        .search(query.limit, |trace| query.matches(trace));
    Ok(show(&found, asked.pretty(), None))
}

fn traces_by_id(store: &SharedStore, ids: &[TraceId], pretty: bool) -> Response {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for id in ids {
        match store.lock().trace(*id) {
            Some(trace) => found.push(trace),
            None => missing.push(Refusal::TraceNotFound.json(Some(*id))),
        }
    }
    show(
        &found,
        pretty,
        Some(missing).filter(|missing| !missing.is_empty()),
    )
}

async fn trace(
    State(store): State<SharedStore>,
    Path(id): Path<String>,
    Query(asked): Query<Parameters>,
) -> ApiResult {
    let id = id.parse().map_err(BadParameter::trace_id)?;
    let trace = store.lock().trace(id).ok_or(Refusal::TraceNotFound)?;
    Ok(show(&[trace], asked.pretty(), None))
}

async fn dependencies(
    State(store): State<SharedStore>,
    Query(asked): Query<Parameters>,
) -> ApiResult {
    let query = asked.dependency_query(SystemTime::now())?;
    let traces: Vec<Trace> = store
        .lock()
        .newest_first()
        .filter(|trace| query.matches(trace))
        .cloned()
        .collect();
    Ok(answer(&count_calls(&traces)))
}

async fn no_archive() -> ApiResult {
    Err(Refusal::NotOffered("archive"))
}

async fn no_metrics() -> ApiResult {
    Err(Refusal::NotOffered("metrics"))
}

async fn no_such_path() -> ApiResult {
    Err(Refusal::NoSuchPath)
}

/// The envelope around everything that was found.
fn answer<T: Serialize>(found: &[T]) -> Response {
    Json(Envelope::found(found.len(), found)).into_response()
}

fn show(traces: &[Trace], pretty: bool, errors: Option<Vec<ErrorJson>>) -> Response {
    let envelope = Envelope {
        errors,
        ..Envelope::found(traces.len(), TracesJson(traces))
    };
    if !pretty {
        return Json(envelope).into_response();
    }
    let text = serde_json::to_string_pretty(&envelope)
        .expect("all keys are texts and no number is infinite");
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::BadParameter(_) => StatusCode::BAD_REQUEST,
            Self::TraceNotFound | Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::NotOffered(_) => StatusCode::NOT_IMPLEMENTED,
        }
    }

    fn json(&self, trace: Option<TraceId>) -> ErrorJson {
        ErrorJson {
            code: self.status().as_u16(),
            msg: self.to_string(),
            trace_id: trace.map(|id| id.to_string()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status(), Json(Envelope::error(self.json(None)))).into_response()
    }
}
