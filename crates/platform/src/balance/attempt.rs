//! One attempt of a call: what is sent each time, and how it ended.

use std::error::Error;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tonic::{Code, Status, body::Body};

use super::BoxError;
use crate::grpc::is_silence;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The replica spoke, whatever it said.
    Answered,
    /// The call was not sent: no connection could be made, or it was closing.
    NeverLeft,
    /// The connection broke, or the replica said that it cannot serve.
    Lost,
    /// Nothing came in time.
    Silent,
}

impl Outcome {
    pub(super) fn of(answer: &Result<Response<Body>, BoxError>) -> Self {
        match answer {
            Ok(response) if is_unavailable(response) => Self::Lost,
            Ok(_) => Self::Answered,
            Err(error) => Self::of_failure(&**error),
        }
    }

    fn of_failure(error: &(dyn Error + 'static)) -> Self {
        let mut causes = std::iter::successors(Some(error), |&cause| cause.source());
        let silent = causes.clone().any(is_silence);
        if causes.any(never_left) {
            Self::NeverLeft
        } else if silent {
            Self::Silent
        } else {
            Self::Lost
        }
    }
}

fn never_left(cause: &(dyn Error + 'static)) -> bool {
    cause.is::<tonic::ConnectError>()
}

fn is_unavailable(response: &Response<Body>) -> bool {
    let status = response.headers().get("grpc-status");
    status.is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::Unavailable)
}

/// A request that can be made several times.
pub(super) struct Message {
    parts: http::request::Parts,
    body: Bytes,
}

impl Message {
    pub(super) async fn of(request: Request<Body>) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Self { parts, body })
    }

    pub(super) fn request(&self) -> Request<Body> {
        let body = Body::new(Full::new(self.body.clone()));
        Request::from_parts(self.parts.clone(), body)
    }
}
