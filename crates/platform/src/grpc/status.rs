//! Status codes of gRPC in the headers of an answer, and their names.

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tonic::Code;

static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Turns INTERNAL into INVALID_ARGUMENT where the request was no protobuf: tonic reports its own
/// decoder's failure, but the caller's bytes are wrong.
pub(super) async fn blame_caller<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    let undecodable = headers.get(&GRPC_MESSAGE).is_some_and(|message| {
        let message = message.as_bytes();
        message.starts_with(b"failed%20to%20decode%20Protobuf")
    });
    if undecodable && code_of(headers) == Code::Internal {
        let invalid_argument = HeaderValue::from(Code::InvalidArgument as i32);
        headers.insert(GRPC_STATUS.clone(), invalid_argument);
    }
    response
}

/// The outcome of a call. An answer that begins well says so in its trailers, so no header means
/// OK.
pub(super) fn code_of(headers: &HeaderMap) -> Code {
    headers
        .get(&GRPC_STATUS)
        .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// The name of a code in the specification of gRPC.
pub(super) const fn name_of(code: Code) -> &'static str {
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

/// Whether a server span with this code counts as failed, by OpenTelemetry's semantic conventions.
pub(super) const fn is_server_fault(code: Code) -> bool {
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

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    async fn code_after_blame(status: Status) -> Code {
        code_of(blame_caller(status.into_http::<()>()).await.headers())
    }

    #[tokio::test]
    async fn undecodable_bytes_are_callers_fault() {
        let status = Status::internal("failed to decode Protobuf message: invalid wire type");
        assert_eq!(code_after_blame(status).await, Code::InvalidArgument);
        let ours = Status::internal("disk full");
        assert_eq!(code_after_blame(ours).await, Code::Internal);
    }
}
