//! Quotes over HTTP/1.1, on connections of hyper that the engine holds itself.
//!
//! A pooled client looks for a free connection at every request, and opens new ones under load.
//! Here each [`HttpWire`] is one connection with at most one request in flight, so the engine
//! decides how many connections there are, and when they are opened.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body as _;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use marketplace::{Multiplier, Position};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::quote::{CheckedQuote, NoAnswer, QuoteFailure, QuoteQuery, UncheckedQuote, innermost};

/// One connection, open or not.
#[derive(Debug)]
pub(super) struct HttpWire {
    address: Arc<HttpAddress>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// Where to connect, and the parts that all requests share.
#[derive(Debug)]
pub(super) struct HttpAddress {
    authority: String,
    host: HeaderValue,
    livez: Uri,
    quotes: Uri,
}

impl HttpWire {
    /// A connection that is not open yet.
    pub(super) const fn to(address: Arc<HttpAddress>) -> Self {
        Self {
            address,
            sender: None,
        }
    }

    /// Connects and requests `/livez`: the answer shows that the service accepted the connection.
    pub(super) async fn open(&mut self) -> Result<(), NoAnswer> {
        let livez = self
            .address
            .request(Method::GET, &self.address.livez, Bytes::new());
        self.exchange(livez).await.map(drop)
    }

    /// Sends the request and returns the answer unread.
    pub(super) async fn ask(
        &mut self,
        request: &QuoteQuery,
    ) -> Result<(StatusCode, Bytes), NoAnswer> {
        let trip = TripBody {
            pickup: request.pickup,
            dropoff: request.dropoff,
        };
        let body = serde_json::to_vec(&trip).expect("two positions are JSON");
        let mut post = self
            .address
            .request(Method::POST, &self.address.quotes, body.into());
        let headers = post.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            "surge-dataflow",
            HeaderValue::from_static(request.mode.as_str()),
        );
        self.exchange(post).await
    }

    pub(super) fn is_open(&self) -> bool {
        self.sender
            .as_ref()
            .is_some_and(|sender| !sender.is_closed())
    }

    pub(super) fn close(&mut self) {
        self.sender = None;
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), NoAnswer> {
        // A connection that the service closed since its last answer is replaced.
        if let Some(open) = &mut self.sender
            && open.ready().await.is_err()
        {
            self.sender = None;
        }
        let sender = match &mut self.sender {
            Some(open) => open,
            closed => closed.insert(self.address.connect().await?),
        };
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        if answer.body().size_hint().lower() > MAX_ANSWER_BYTES as u64 {
            return Err(NoAnswer::Broken(
                "the answer is longer than 64 KiB".to_owned(),
            ));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| NoAnswer::Broken(error.to_string()))?;
        Ok((status, body.to_bytes()))
    }
}

/// A quote takes half a kilobyte.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

impl HttpAddress {
    /// The REST edge of the price-optimization at `base`.
    ///
    /// # Errors
    /// When `base` is not a base URL with a host.
    pub(super) fn of(base: &str) -> anyhow::Result<Self> {
        let authority = authority(base)?;
        let prefix = base.parse::<Uri>()?.path().trim_end_matches('/').to_owned();
        let path = |path: &str| PathAndQuery::try_from(format!("{prefix}{path}")).map(Uri::from);
        Ok(Self {
            host: HeaderValue::try_from(&authority)?,
            livez: path("/livez")?,
            quotes: path("/v1/quotes")?,
            authority,
        })
    }

    fn request(&self, method: Method, uri: &Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, NoAnswer> {
        let stream = TokioIo::new(dial(&self.authority).await?);
        let (sender, connection) = handshake(stream).await.map_err(broken)?;
        // The next request sees how the connection ended.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// The `host:port` of a base URL.
///
/// # Errors
/// When it names no host.
pub(super) fn authority(base: &str) -> anyhow::Result<String> {
    let uri: Uri = base.parse()?;
    let host = uri
        .host()
        .ok_or_else(|| anyhow::anyhow!("{base} names no host"))?;
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80)))
}

/// A TCP connection without Nagle's delay.
///
/// # Errors
/// When nothing listens there.
pub(super) async fn dial(authority: &str) -> Result<TcpStream, NoAnswer> {
    let refused = |error: io::Error| NoAnswer::Connect(error.to_string());
    let stream = TcpStream::connect(authority).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    Ok(stream)
}

fn broken(error: hyper::Error) -> NoAnswer {
    NoAnswer::Broken(innermost(&error))
}

/// Reads and checks an answer.
pub(super) fn read(
    status: StatusCode,
    body: &[u8],
    request: &QuoteQuery,
    cap: Multiplier,
) -> Result<CheckedQuote, QuoteFailure> {
    if status != StatusCode::OK {
        return Err(QuoteFailure::Status(status, refusal(body)));
    }
    let quote: UncheckedQuote<'_> = serde_json::from_slice(body)
        .map_err(|error| QuoteFailure::Wrong(format!("the body is not a quote: {error}")))?;
    quote.check(request, cap)
}

/// The `detail` of a problem report, or the first 200 characters of anything else.
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
struct TripBody {
    pickup: Position,
    dropoff: Position,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use surge_proto::DataflowMode;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::stand_in::{pickup, quote_body};

    fn checked(body: &serde_json::Value) -> Result<CheckedQuote, QuoteFailure> {
        let cap = Multiplier::from_tenths(30).unwrap();
        read(StatusCode::OK, body.to_string().as_bytes(), &request(), cap)
    }

    /// A connection to a server that gives every request this answer.
    async fn wire(answer: &'static str) -> HttpWire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        HttpWire::to(Arc::new(HttpAddress::of(&url).unwrap()))
    }

    fn request() -> QuoteQuery {
        QuoteQuery::new(DataflowMode::Events, pickup(), pickup())
    }

    #[tokio::test]
    async fn reads_answers_of_any_status() {
        let mut wire = wire("HTTP/1.1 503 Gone\r\nContent-Length: 4\r\n\r\ngone").await;
        wire.open().await.unwrap();
        let (status, body) = wire.ask(&request()).await.unwrap();
        assert_eq!(
            (status, &body[..]),
            (StatusCode::SERVICE_UNAVAILABLE, &b"gone"[..])
        );
        assert!(wire.is_open());
    }

    /// As proxies answer that change a body on its way.
    #[tokio::test]
    async fn reads_answers_in_chunks() {
        let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n";
        let mut wire = wire(chunks).await;
        for _ in 0..2 {
            let (_, body) = wire.ask(&request()).await.unwrap();
            assert_eq!(&body[..], br#"{"a":1}"#);
        }
        assert!(wire.is_open());
    }

    #[tokio::test]
    async fn reconnects_after_a_closed_connection() {
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        let mut wire = wire(last).await;
        for _ in 0..3 {
            let (status, _) = wire.ask(&request()).await.unwrap();
            assert_eq!(status, StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn refuses_answers_that_make_no_sense() {
        for nonsense in [
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
        ] {
            let mut wire = wire(nonsense).await;
            let waited = tokio::time::timeout(Duration::from_secs(5), wire.ask(&request())).await;
            let refused = waited.expect("the answer is refused at once");
            assert!(matches!(refused, Err(NoAnswer::Broken(_))), "{nonsense}");
        }
    }

    #[test]
    fn accepts_correct_quotes() {
        let quoted = checked(&quote_body("events")).unwrap();
        assert_eq!(quoted.multiplier.tenths(), 13);
        assert_eq!(quoted.data_age, Some(Duration::from_millis(250)));
        assert!(!quoted.degraded);
    }

    #[test]
    fn finds_each_flaw_in_a_quote() {
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
    fn refuses_quotes_of_another_mode() {
        let refused = checked(&quote_body("request")).unwrap_err();
        assert_eq!(refused.to_string(), "asked for events, answered by request");
    }

    #[test]
    fn degraded_quote_needs_no_age() {
        let mut body = quote_body("events");
        body["surge_multiplier"] = json!(1.0);
        body["data_age_ms"] = json!(null);
        body["degraded"] = json!(true);
        assert_eq!(checked(&body).unwrap().data_age, None);
    }

    #[test]
    fn refusal_shows_the_detail_of_the_problem() {
        let refused = |body: &str| {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            read(status, body.as_bytes(), &request(), Multiplier::ONE).unwrap_err()
        };
        let shown = refused(r#"{"title": "unavailable", "detail": "no supply"}"#);
        assert_eq!(
            shown.to_string(),
            "status 503 Service Unavailable: no supply"
        );
        assert!(refused("gone").to_string().ends_with(": gone"));
    }
}
