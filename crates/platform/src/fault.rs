//! What can go wrong at an edge, in one table: each kind of fault has one HTTP status, one gRPC
//! code and one title. A service maps its own error type to a [`Fault`] in one `match`; both edges
//! follow from it.

use std::time::Duration;

use axum::{
    BoxError, Json,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tonic::{Code, Status};
use tracing::{debug, error};

use crate::postgres::Outage;

/// Longest time that both edges give a request or a call. Routes that wait for other services have
/// shorter deadlines of their own.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// The kinds of fault that a caller can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request can never succeed as it is.
    InvalidArgument,
    /// The body is not what the route reads.
    UnsupportedMediaType,
    /// The body is larger than allowed.
    PayloadTooLarge,
    /// No such thing.
    NotFound,
    /// No such verb on this route.
    MethodNotAllowed,
    /// The thing exists, but its state forbids this now.
    FailedPrecondition,
    /// A dependency is away; trying again later can succeed.
    Unavailable,
    /// The deadline passed before the work was done.
    DeadlineExceeded,
    /// Our own fault.
    Internal,
}

struct FaultRow {
    http: StatusCode,
    grpc: Code,
    title: &'static str,
}

impl Kind {
    const fn row(self) -> FaultRow {
        let (http, grpc, title) = match self {
            Self::InvalidArgument => (
                StatusCode::BAD_REQUEST,
                Code::InvalidArgument,
                "Invalid argument",
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Code::InvalidArgument,
                "Unsupported media type",
            ),
            Self::PayloadTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                Code::InvalidArgument,
                "Payload too large",
            ),
            Self::NotFound => (StatusCode::NOT_FOUND, Code::NotFound, "Not found"),
            Self::MethodNotAllowed => (
                StatusCode::METHOD_NOT_ALLOWED,
                Code::Unimplemented,
                "Method not allowed",
            ),
            Self::FailedPrecondition => (
                StatusCode::CONFLICT,
                Code::FailedPrecondition,
                "Failed precondition",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                Code::Unavailable,
                "Unavailable",
            ),
            Self::DeadlineExceeded => (
                StatusCode::GATEWAY_TIMEOUT,
                Code::DeadlineExceeded,
                "Deadline exceeded",
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                Code::Internal,
                "Internal error",
            ),
        };
        FaultRow { http, grpc, title }
    }

    /// The HTTP status of this kind.
    pub const fn http_status(self) -> StatusCode {
        self.row().http
    }
}

/// One thing that went wrong, as the caller learns of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: Kind,
    detail: String,
    field: Option<String>,
}

/// The body of an error answer, `application/problem+json` (RFC 9457).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status says which kind it is.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The kind in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What failed and what to do.
    pub detail: String,
    /// The offending field of the request, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Fault {
    /// A fault of `kind`; `detail` says what failed and what to do.
    pub fn new(kind: Kind, detail: impl ToString) -> Self {
        Self {
            kind,
            detail: bounded(detail.to_string()),
            field: None,
        }
    }

    /// The request's `field` is wrong.
    pub fn invalid(field: impl ToString, detail: impl ToString) -> Self {
        Self {
            field: Some(bounded(field.to_string())),
            ..Self::new(Kind::InvalidArgument, detail)
        }
    }

    /// What the caller learns when a layer of an edge gave up: [`tower::timeout`] or
    /// [`tower::load_shed`].
    pub(crate) fn of_layer(error: &BoxError) -> Self {
        if error.is::<tower::timeout::error::Elapsed>() {
            let detail = format!("not done within {REQUEST_DEADLINE:?}");
            return Self::new(Kind::DeadlineExceeded, detail);
        }
        if error.is::<tower::load_shed::error::Overloaded>() {
            return Self::new(
                Kind::Unavailable,
                "too many requests at once; repeat it later",
            );
        }
        Self::internal(error)
    }

    /// Our own fault. The cause is logged here, once; the caller learns only that there was one.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        error!(error.message = %cause, "a request failed: {cause}");
        Self::new(Kind::Internal, "the service failed; its log has the cause")
    }

    /// What the caller learns of a failure of PostgreSQL. The workers log an outage once; a line
    /// for each request would be a flood.
    pub fn of_database(cause: &sqlx::Error) -> Self {
        match Outage::of(cause) {
            Some(outage) => {
                debug!(error.message = %cause, "an outage of PostgreSQL: {cause}");
                Self::new(Kind::Unavailable, outage.advice())
            }
            None => Self::internal(format_args!("PostgreSQL: {cause}")),
        }
    }

    /// The kind.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What failed, in words.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

/// Words may quote what the caller sent. Over gRPC they travel in a header, and one that is too
/// long ends the whole connection, with the calls of everybody else on it.
fn bounded(mut words: String) -> String {
    if let Some((end, _)) = words.char_indices().nth(MOST_CHARACTERS) {
        words.truncate(end);
        words.push('…');
    }
    words
}

/// A character takes up to twelve bytes in a header; 16 KiB are what HTTP/2 allows for all of them.
const MOST_CHARACTERS: usize = 400;

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let row = self.kind.row();
        let problem = Problem {
            kind: "about:blank",
            title: row.title,
            status: row.http.as_u16(),
            detail: self.detail,
            field: self.field,
        };
        let mut response = (row.http, Json(problem)).into_response();
        let problem_json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, problem_json);
        response
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let message = match fault.field {
            Some(field) if !fault.detail.starts_with(&field) => {
                format!("{field}: {}", fault.detail)
            }
            _ => fault.detail,
        };
        Self::new(fault.kind.row().grpc, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_edges_tell_the_same_fault() {
        let fault = Fault::invalid("lat", "must be from -90 to 90");
        let status = Status::from(fault.clone());
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "lat: must be from -90 to 90");

        let response = fault.into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 4_096).await;
        let problem: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
        assert_eq!(problem["field"], "lat");
        assert_eq!(problem["status"], 400);
    }

    #[test]
    fn long_texts_of_callers_are_shortened() {
        let fault = Fault::invalid("ü".repeat(100_000), "🚕".repeat(100_000));
        let status = Status::from(fault);
        assert_eq!(
            status.message().chars().count(),
            2 * (MOST_CHARACTERS + 1) + 2
        );
        let short = "x".repeat(MOST_CHARACTERS);
        assert_eq!(Fault::new(Kind::NotFound, &short).detail(), short);
    }

    #[test]
    fn cause_of_internal_fault_stays_inside() {
        let fault = Fault::internal("password of role x is wrong");
        assert!(!fault.detail().contains("password"));
    }
}
