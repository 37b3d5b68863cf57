//! Quotes over HTTP/1.1, on connections that the load holds itself: a pool would look for one at every request.

use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{StatusCode, Uri};
use marketplace::{Multiplier, Position};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::quote::{CheckedQuote, QuoteFailure, QuoteRequest, UncheckedQuote};
use crate::no_answer::NoAnswer;

/// One connection, open or not. Written and read here, because a client for all occasions costs as much processor time as
/// the service that it asks, on the same processors.
#[derive(Debug)]
pub(super) struct Wire {
    address: Arc<Address>,
    connection: Option<TcpStream>,
    request: Vec<u8>,
    answer: BytesMut,
}

/// Where to connect, and what every request says alike.
#[derive(Debug)]
pub(super) struct Address {
    authority: String,
    /// The path before `/v1`, without a slash at its end.
    base: String,
}

impl Wire {
    /// Not open yet.
    pub(super) fn to(address: Arc<Address>) -> Self {
        Self {
            address,
            connection: None,
            request: Vec::new(),
            answer: BytesMut::new(),
        }
    }

    /// Asks `/livez`, so that the service has accepted the connection when it is needed.
    pub(super) async fn open(&mut self) -> Result<(), NoAnswer> {
        self.address.write_livez(&mut self.request);
        self.exchange().await.map(drop)
    }

    /// Asks, and takes the answer as it comes.
    pub(super) async fn ask(
        &mut self,
        request: &QuoteRequest,
    ) -> Result<(StatusCode, Bytes), NoAnswer> {
        self.address.write_quote(&mut self.request, request);
        self.exchange().await
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(is_idle)
    }

    pub(super) fn close(&mut self) {
        self.connection = None;
    }

    async fn exchange(&mut self) -> Result<(StatusCode, Bytes), NoAnswer> {
        let connection = match self.connection.take() {
            Some(open) if is_idle(&open) => open,
            _gone => dial(&self.address.authority).await?,
        };
        let connection = self.connection.insert(connection);
        connection.write_all(&self.request).await.map_err(broken)?;
        let (head, body) = read_answer(connection, &mut self.answer).await?;
        if head.is_last {
            self.close();
        }
        Ok((head.status, body))
    }
}

/// Whether a connection between two requests is still there, and silent as it should be.
fn is_idle(connection: &TcpStream) -> bool {
    let heard = connection.try_read(&mut [0]);
    heard.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl Address {
    /// The REST edge of the price-optimization at `base`.
    ///
    /// # Errors
    /// When `base` is not a base URL with a host.
    pub(super) fn of(base: &str) -> anyhow::Result<Self> {
        Ok(Self {
            authority: authority(base)?,
            base: base.parse::<Uri>()?.path().trim_end_matches('/').to_owned(),
        })
    }

    fn write_livez(&self, request: &mut Vec<u8>) {
        let Self { authority, base } = self;
        request.clear();
        write!(
            request,
            "GET {base}/livez HTTP/1.1\r\nhost: {authority}\r\n\r\n"
        )
        .expect("memory can be written to");
    }

    fn write_quote(&self, message: &mut Vec<u8>, request: &QuoteRequest) {
        let Self { authority, base } = self;
        let trip = Trip {
            pickup: request.pickup,
            dropoff: request.dropoff,
        };
        let body = serde_json::to_vec(&trip).expect("two positions are JSON");
        let (mode, length) = (request.mode.as_str(), body.len());
        message.clear();
        write!(
            message,
            "POST {base}/v1/quotes HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n\
             surge-dataflow: {mode}\r\ncontent-length: {length}\r\n\r\n"
        )
        .expect("memory can be written to");
        message.extend_from_slice(&body);
    }
}

/// What there is to know of an answer before its body.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: StatusCode,
    head_bytes: usize,
    body_bytes: usize,
    /// The service closes the connection after it.
    is_last: bool,
}

async fn read_answer(
    connection: &mut TcpStream,
    answer: &mut BytesMut,
) -> Result<(Head, Bytes), NoAnswer> {
    answer.clear();
    let head = loop {
        read_more(connection, answer).await?;
        if let Some(head) = head_of(answer)? {
            break head;
        }
    };
    let length = head.head_bytes + head.body_bytes;
    while answer.len() < length {
        read_more(connection, answer).await?;
    }
    if answer.len() > length {
        return Err(malformed("it goes on after its end"));
    }
    let body = answer.split().freeze().slice(head.head_bytes..);
    Ok((head, body))
}

async fn read_more(connection: &mut TcpStream, answer: &mut BytesMut) -> Result<(), NoAnswer> {
    if answer.len() > MAX_ANSWER {
        return Err(malformed("it is longer than 64 KiB"));
    }
    match connection.read_buf(answer).await.map_err(broken)? {
        0 => Err(malformed("the connection was closed in the middle of it")),
        _ => Ok(()),
    }
}

/// The head of an answer; none when it is not complete yet.
fn head_of(answer: &[u8]) -> Result<Option<Head>, NoAnswer> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Response::new(&mut headers);
    let status = parsed
        .parse(answer)
        .map_err(|error| malformed(&error.to_string()))?;
    let httparse::Status::Complete(head_bytes) = status else {
        return Ok(None);
    };
    let value_of = |name: &str| {
        let header = parsed
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let length = value_of("content-length").and_then(|length| length.parse().ok());
    let body_bytes = length
        .filter(|length| *length <= MAX_ANSWER)
        .ok_or_else(|| malformed("it does not tell its length, or more than 64 KiB"))?;
    let code = parsed.code.unwrap_or_default();
    Ok(Some(Head {
        status: StatusCode::from_u16(code).map_err(|error| malformed(&error.to_string()))?,
        head_bytes,
        body_bytes,
        is_last: value_of("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    }))
}

fn malformed(flaw: &str) -> NoAnswer {
    NoAnswer::Broken(format!("the answer cannot be read: {flaw}"))
}

/// A quote has half a kilobyte; a problem report not much more.
const MAX_ANSWER: usize = 64 * 1024;

/// The `host:port` of a base URL.
///
/// # Errors
/// When it names none.
pub(super) fn authority(base: &str) -> anyhow::Result<String> {
    let uri: Uri = base.parse()?;
    let host = uri
        .host()
        .ok_or_else(|| anyhow::anyhow!("{base} names no host"))?;
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80)))
}

/// A TCP connection that sends at once.
///
/// # Errors
/// When nobody listens.
pub(super) async fn dial(authority: &str) -> Result<TcpStream, NoAnswer> {
    let refused = |error: io::Error| NoAnswer::Connect(error.to_string());
    let stream = TcpStream::connect(authority).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    Ok(stream)
}

fn broken(error: io::Error) -> NoAnswer {
    NoAnswer::Broken(error.to_string())
}

/// Checks an answer.
pub(super) fn read(
    status: StatusCode,
    body: &[u8],
    request: &QuoteRequest,
    cap: Multiplier,
) -> Result<CheckedQuote, QuoteFailure> {
    if status != StatusCode::OK {
        return Err(QuoteFailure::Status(status, refusal(body)));
    }
    let quote: UncheckedQuote<'_> = serde_json::from_slice(body)
        .map_err(|error| QuoteFailure::Wrong(format!("the body is not a quote: {error}")))?;
    quote.check(request, cap)
}

/// What a refusal says, without the form it says it in.
fn refusal(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    serde_json::from_slice(body).map_or_else(
        |_| String::from_utf8_lossy(body).chars().take(200).collect(),
        |problem: Problem| problem.detail,
    )
}

#[derive(Serialize)]
struct Trip {
    pickup: Position,
    dropoff: Position,
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use surge_proto::DataflowMode;

    use super::*;
    use crate::stand_in::{pickup, quote_body};

    fn checked(body: &serde_json::Value) -> Result<CheckedQuote, QuoteFailure> {
        let cap = Multiplier::from_tenths(30).unwrap();
        let request = QuoteRequest::new(DataflowMode::Events, pickup(), pickup());
        read(StatusCode::OK, body.to_string().as_bytes(), &request, cap)
    }

    #[test]
    fn a_head_is_read_when_it_is_complete_and_refused_when_it_makes_no_sense() {
        let whole = b"HTTP/1.1 503 Gone\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngone";
        for part in 0..whole.len() - 4 {
            assert_eq!(head_of(&whole[..part]).unwrap(), None);
        }
        let head = Head {
            status: StatusCode::SERVICE_UNAVAILABLE,
            head_bytes: whole.len() - 4,
            body_bytes: 4,
            is_last: true,
        };
        assert_eq!(head_of(whole).unwrap(), Some(head));
        for nonsense in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
        ] {
            assert!(head_of(nonsense.as_bytes()).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_sound_quote_passes() {
        let quoted = checked(&quote_body("events")).unwrap();
        assert_eq!(quoted.multiplier.tenths(), 13);
        assert_eq!(quoted.data_age, Some(std::time::Duration::from_millis(250)));
        assert!(!quoted.degraded);
    }

    #[test]
    fn each_flaw_is_found() {
        for (field, value) in [
            ("surge_multiplier", json!(3.1)),
            ("surge_multiplier", json!(1.25)),
            ("surge_multiplier", json!(0.9)),
            ("fare_cents", json!(0)),
            ("zone", json!("872a10089ffffff")),
            ("zone", json!("Manhattan")),
            ("data_age_ms", json!(null)),
            ("data_age_ms", json!(-1.0)),
            ("degraded", json!(true)),
            ("token", json!("")),
            ("quote_id", json!("7")),
        ] {
            let mut body = quote_body("events");
            body[field] = value.clone();
            let refused = checked(&body).expect_err(field);
            assert!(refused.is_wrong_answer(), "{field} = {value}: {refused}");
        }
    }

    #[test]
    fn another_mode_is_not_the_mode_asked_for() {
        let refused = checked(&quote_body("request")).unwrap_err();
        assert_eq!(refused.to_string(), "asked for events, answered by request");
    }

    #[test]
    fn a_quote_without_data_needs_no_age() {
        let mut body = quote_body("events");
        body["surge_multiplier"] = json!(1.0);
        body["data_age_ms"] = json!(null);
        body["degraded"] = json!(true);
        assert_eq!(checked(&body).unwrap().data_age, None);
    }

    #[test]
    fn a_refusal_is_told_by_its_detail() {
        let request = QuoteRequest::new(DataflowMode::Events, pickup(), pickup());
        let refused = |body: &str| {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            read(status, body.as_bytes(), &request, Multiplier::ONE).unwrap_err()
        };
        let told = refused(r#"{"title": "unavailable", "detail": "no supply"}"#);
        assert_eq!(
            told.to_string(),
            "status 503 Service Unavailable: no supply"
        );
        assert!(refused("gone").to_string().ends_with(": gone"));
    }
}
