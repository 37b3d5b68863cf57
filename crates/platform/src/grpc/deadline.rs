//! How long a call may take: no longer than our own limit, and than its caller says in the header
//! `grpc-timeout`, such as `50m` for 50 ms
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
//!
//! tonic's own server obeys that header too, but outside of all our layers, and answers CANCELLED;
//! therefore [`crate::serve`] does without it.

use std::time::Duration;

use axum::{extract::Request, middleware::Next, response::Response};
use http::HeaderValue;
use tokio::time::timeout;
use tonic::Status;

use super::method_of;
use crate::fault::{Fault, Kind, REQUEST_DEADLINE};

/// Ends a call that takes too long.
pub(super) async fn deadline(request: Request, next: Next) -> Response {
    let asked = request.headers().get("grpc-timeout");
    let asked = match asked.map(|text| parse(text).ok_or(text)).transpose() {
        Ok(asked) => asked,
        Err(text) => {
            let detail = format!("{text:?} is not 1 to 8 digits and one of H, M, S, m, u, n");
            return Status::from(Fault::invalid("grpc-timeout", detail)).into_http();
        }
    };
    let ours = (!is_unlimited(method_of(&request))).then_some(REQUEST_DEADLINE);
    let Some(limit) = ours.into_iter().chain(asked).min() else {
        return next.run(request).await;
    };
    match timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            let detail = format!("not done within {limit:?}");
            Status::from(Fault::new(Kind::DeadlineExceeded, detail)).into_http()
        }
    }
}

fn parse(text: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = text.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A client stream and a health watch live as long as their caller wants. One whose caller is gone
/// without a word ends too, because the server pings its connections ([`crate::serve`]).
fn is_unlimited(method: &str) -> bool {
    matches!(
        method,
        "surge.v1.SupplyService/ReportPositions" | "grpc.health.v1.Health/Watch"
    ) || method.starts_with("grpc.reflection.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_timeouts_by_the_letter() {
        let read = |text| parse(&HeaderValue::from_static(text));
        assert_eq!(read("50m"), Some(Duration::from_millis(50)));
        assert_eq!(
            read("99999999H"),
            Some(Duration::from_secs(359_999_996_400))
        );
        for wrong in [
            "",
            "m",
            "50",
            "50 m",
            "+5m",
            "-5m",
            "5.0S",
            "123456789n",
            "5s",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
