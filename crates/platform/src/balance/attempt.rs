//! One attempt of a call, and how it ended.

use std::error::Error;

use http::Response;
use tonic::{Code, body::Body};

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
