//! Quotes over HTTP/1.1, on connections that the load holds itself: a pool would look for one at every question.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use marketplace::{Multiplier, Position};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::quote::{Claim, Failure, Question, Quoted};
use crate::client::CallError;

/// One connection, open or not.
#[derive(Debug)]
pub(super) struct Wire {
    address: Arc<Address>,
    connection: Option<http1::SendRequest<Full<Bytes>>>,
}

/// Where to connect, and what every request says alike.
#[derive(Debug)]
pub(super) struct Address {
    authority: String,
    host: HeaderValue,
    quotes: Uri,
    livez: Uri,
}

impl Wire {
    /// Not open yet.
    pub(super) const fn to(address: Arc<Address>) -> Self {
        Self {
            address,
            connection: None,
        }
    }

    /// Asks `/livez`, so that the service has accepted the connection when it is needed.
    pub(super) async fn open(&mut self) -> Result<(), CallError> {
        let request = self
            .address
            .request(Method::GET, &self.address.livez, Bytes::new());
        self.exchange(request).await.map(drop)
    }

    /// Asks, and takes the answer as it comes.
    pub(super) async fn ask(
        &mut self,
        question: &Question,
    ) -> Result<(StatusCode, Bytes), CallError> {
        self.exchange(self.address.quote(question)).await
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|open| !open.is_closed())
    }

    pub(super) fn hang_up(&mut self) {
        self.connection = None;
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let connection = match &mut self.connection {
            Some(open) if !open.is_closed() => open,
            gone => gone.insert(self.address.connect().await?),
        };
        let response = connection.send_request(request).await.map_err(broken)?;
        Ok((response.status(), whole_body(response).await?))
    }
}

impl Address {
    /// The REST edge of the price-optimization at `base`.
    ///
    /// # Errors
    /// When `base` is not a base URL with a host.
    pub(super) fn of(base: &str) -> anyhow::Result<Self> {
        let authority = authority(base)?;
        let path = base.parse::<Uri>()?.path().trim_end_matches('/').to_owned();
        Ok(Self {
            host: HeaderValue::from_str(&authority)?,
            authority,
            quotes: format!("{path}/v1/quotes").parse()?,
            livez: format!("{path}/livez").parse()?,
        })
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, CallError> {
        let (sender, connection) = http1::handshake(TokioIo::new(dial(&self.authority).await?))
            .await
            .map_err(broken)?;
        // How it ends shows at the next question.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn quote(&self, question: &Question) -> Request<Full<Bytes>> {
        let trip = Trip {
            pickup: question.pickup,
            dropoff: question.dropoff,
        };
        let body = serde_json::to_vec(&trip).expect("two positions are JSON");
        let mut request = self.request(Method::POST, &self.quotes, body.into());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            "surge-dataflow",
            HeaderValue::from_static(question.mode.as_str()),
        );
        request
    }

    fn request(&self, method: Method, uri: &Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }
}

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
pub(super) async fn dial(authority: &str) -> Result<TcpStream, CallError> {
    let refused = |error: std::io::Error| CallError::Connect(error.to_string());
    let stream = TcpStream::connect(authority).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    Ok(stream)
}

fn broken(error: impl std::error::Error) -> CallError {
    CallError::Broken(crate::client::innermost(&error))
}

async fn whole_body(response: Response<Incoming>) -> Result<Bytes, CallError> {
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    body.map(|body| body.to_bytes())
        .map_err(|error| CallError::Broken(error.to_string()))
}

/// A quote has half a kilobyte; a problem report not much more.
const MAX_BODY: usize = 64 * 1024;

/// Checks an answer.
pub(super) fn read(
    status: StatusCode,
    body: &[u8],
    question: &Question,
    cap: Multiplier,
) -> Result<Quoted, Failure> {
    if status != StatusCode::OK {
        return Err(Failure::Status(status, refusal(body)));
    }
    let claim: Claim<'_> = serde_json::from_slice(body)
        .map_err(|error| Failure::Wrong(format!("the body is not a quote: {error}")))?;
    claim.check(question, cap)
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
    use crate::load::stand_in::{pickup, quote_body};

    fn checked(body: &serde_json::Value) -> Result<Quoted, Failure> {
        let cap = Multiplier::from_tenths(30).unwrap();
        let question = Question::new(DataflowMode::Events, pickup(), pickup());
        read(StatusCode::OK, body.to_string().as_bytes(), &question, cap)
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
        let question = Question::new(DataflowMode::Events, pickup(), pickup());
        let refused = |body: &str| {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            read(status, body.as_bytes(), &question, Multiplier::ONE).unwrap_err()
        };
        let told = refused(r#"{"title": "unavailable", "detail": "no supply"}"#);
        assert_eq!(
            told.to_string(),
            "status 503 Service Unavailable: no supply"
        );
        assert!(refused("gone").to_string().ends_with(": gone"));
    }
}
