//! [`StrictJson`] is [`axum::Json`] that takes no array for an object ([`Strict`]), with refusals
//! in the form of this project: a problem that names the field.
//!
//! ```text
//!   content type is not JSON          415
//!   body larger than the limit        413
//!   body incomplete after 3 s         400
//!   not JSON, or not of type T        400, field = path of the value, such as pickup.lat
//! ```

use std::{error::Error, iter, time::Duration};

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
    http::StatusCode,
};
use serde::de::DeserializeOwned;
use strict_serde::Strict;
use tokio::time::timeout;

use super::BODY_LIMIT_BYTES;
use crate::fault::{Fault, Kind};

/// Longest time in which a body may arrive: shorter than [`crate::fault::REQUEST_DEADLINE`], so
/// that a slow caller does not look like a slow service.
const BODY_DEADLINE: Duration = Duration::from_secs(3);

/// A JSON body of type `T`.
#[derive(Clone, Copy, Debug)]
pub struct StrictJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for StrictJson<T> {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        match timeout(BODY_DEADLINE, Json::from_request(request, state)).await {
            Ok(Ok(Json(Strict(value)))) => Ok(Self(value)),
            Ok(Err(rejection)) => Err(refusal(&rejection)),
            Err(_elapsed) => {
                let detail = format!("the body was not complete within {BODY_DEADLINE:?}");
                Err(Fault::invalid(".", detail))
            }
        }
    }
}

fn refusal(rejection: &JsonRejection) -> Fault {
    match rejection {
        JsonRejection::MissingJsonContentType(_) => {
            let detail = "send a JSON body under content-type: application/json";
            Fault::new(Kind::UnsupportedMediaType, detail)
        }
        JsonRejection::BytesRejection(bytes) if bytes.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("the body is larger than {BODY_LIMIT_BYTES} bytes");
            Fault::new(Kind::PayloadTooLarge, detail)
        }
        JsonRejection::BytesRejection(_) => {
            Fault::invalid(".", "the body was cut off, or its chunks are ill-formed")
        }
        unparsable => wrong_value(unparsable),
    }
}

/// axum keeps the path of the value that did not fit among the causes of its rejection.
fn wrong_value(rejection: &JsonRejection) -> Fault {
    let mut causes = iter::successors(Some(rejection as &dyn Error), |&cause| cause.source());
    let at_path = causes
        .find_map(|cause| cause.downcast_ref::<serde_path_to_error::Error<serde_json::Error>>());
    match at_path {
        Some(error) => Fault::invalid(error.path(), error.inner()),
        None => Fault::invalid(".", rejection.body_text()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use axum::{body::Body, extract::DefaultBodyLimit, http::header::CONTENT_TYPE};
    use futures::stream;
    use serde::Deserialize;
    use tower::{Layer as _, ServiceExt as _, service_fn};

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Trip {
        #[allow(dead_code, reason = "only its parsing is under test")]
        miles: f64,
    }

    /// What the extractor answers below the body limit of the edge.
    async fn refused(content_type: Option<&str>, body: impl Into<Body>) -> Fault {
        let mut request = Request::new(body.into());
        if let Some(value) = content_type {
            request
                .headers_mut()
                .insert(CONTENT_TYPE, value.parse().unwrap());
        }
        let extract =
            service_fn(async |request| StrictJson::<Trip>::from_request(request, &()).await);
        let limited = DefaultBodyLimit::max(BODY_LIMIT_BYTES).layer(extract);
        limited.oneshot(request).await.unwrap_err()
    }

    async fn refusal_of(body: &'static str) -> String {
        let fault = refused(Some("application/json"), body).await;
        assert_eq!(fault.kind(), Kind::InvalidArgument);
        tonic::Status::from(fault).message().to_owned()
    }

    #[tokio::test]
    async fn refusal_names_the_field() {
        assert!(
            refusal_of(r#"{"miles":"far"}"#)
                .await
                .starts_with("miles: ")
        );
        assert!(
            refusal_of(r#"{"miles":1,"mood":2}"#)
                .await
                .contains("unknown field `mood`")
        );
        assert!(
            refusal_of(r#"{"miles":1e999}"#)
                .await
                .contains("out of range")
        );
        assert!(refusal_of(r#"{"miles":1} {}"#).await.contains("trailing"));
        assert!(refusal_of("{}").await.contains("missing field `miles`"));
        assert!(refusal_of("[1]").await.contains("expected an object"));
    }

    #[tokio::test]
    async fn reads_only_json() {
        for other in [None, Some("text/plain")] {
            let fault = refused(other, "{}").await;
            assert_eq!(fault.kind(), Kind::UnsupportedMediaType);
        }
        let fault = refused(Some("application/json; charset=utf-8"), "{}").await;
        assert_eq!(fault.kind(), Kind::InvalidArgument);
    }

    #[tokio::test]
    async fn refuses_oversized_body_whole_or_chunked() {
        let whole = Body::from(vec![b' '; BODY_LIMIT_BYTES + 1]);
        let chunks = (0..17).map(|_| Ok::<_, io::Error>(vec![b' '; 4_096]));
        for body in [whole, Body::from_stream(stream::iter(chunks))] {
            let fault = refused(Some("application/json"), body).await;
            assert_eq!(fault.kind(), Kind::PayloadTooLarge);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn incomplete_body_is_its_senders_fault() {
        let never = Body::from_stream(stream::pending::<Result<Vec<u8>, io::Error>>());
        let broken = Body::from_stream(stream::iter([
            Ok(vec![b'{']),
            Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        ]));
        for (body, reason) in [(never, "not complete within 3s"), (broken, "cut off")] {
            let fault = refused(Some("application/json"), body).await;
            assert_eq!(fault.kind(), Kind::InvalidArgument);
            let message = tonic::Status::from(fault).message().to_owned();
            assert!(message.contains(reason), "{message}");
        }
    }
}
