//! The HTTP client of the city and of commands that call a service now and then: JSON over HTTP/1.1
//! with kept connections. Every call has a deadline for the whole answer. The load generator has
//! connections of its own.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use strict_serde::Strict;

/// A cheap handle on a pool of connections; clones share the pool.
#[derive(Debug, Clone)]
pub struct Client {
    pool: legacy::Client<HttpConnector, Full<Bytes>>,
    deadline: Duration,
}

impl Client {
    /// A client whose calls each end within `deadline`, including the time to connect.
    pub fn new(deadline: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(deadline));
        let pool = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Self { pool, deadline }
    }

    /// Sends `GET url`.
    ///
    /// # Errors
    /// [`CallError`] when no complete answer came in time; any status is an answer.
    pub async fn get(&self, url: &str) -> Result<HttpAnswer, CallError> {
        self.call(request(Method::GET, url, Bytes::new())?).await
    }

    /// Sends `PUT url` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put(&self, url: &str, body: &impl Serialize) -> Result<HttpAnswer, CallError> {
        self.call(request(Method::PUT, url, json(body)?)?).await
    }

    /// Sends `POST url` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post(&self, url: &str, body: &impl Serialize) -> Result<HttpAnswer, CallError> {
        self.call(request(Method::POST, url, json(body)?)?).await
    }

    /// Sends any request.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn call(&self, request: Request<Full<Bytes>>) -> Result<HttpAnswer, CallError> {
        tokio::time::timeout(self.deadline, self.exchange(request))
            .await
            .map_err(|_| CallError::Deadline(self.deadline))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<HttpAnswer, CallError> {
        let response = self.pool.request(request).await.map_err(CallError::from)?;
        let (head, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| CallError::Broken(error.to_string()))?
            .to_bytes();
        Ok(HttpAnswer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

/// A complete answer, whatever its status.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// The HTTP status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl HttpAnswer {
    /// Reads the body as JSON.
    ///
    /// # Errors
    /// When the body does not match `T`.
    pub fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.body).map(|Strict(value)| value)
    }

    /// The start of the body as text, for messages.
    pub fn excerpt(&self) -> String {
        String::from_utf8_lossy(&self.body)
            .chars()
            .take(200)
            .collect()
    }
}

/// Why there was no complete answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The deadline passed first.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// No connection could be opened.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection broke before the answer was complete.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The request is not valid: a mistake of the caller.
    #[error("the request is not valid: {0}")]
    Request(String),
}

impl CallError {
    /// A short word by which failures are counted.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken",
            Self::Request(_) => "request",
        }
    }
}

impl From<legacy::Error> for CallError {
    fn from(error: legacy::Error) -> Self {
        let cause = innermost(&error);
        if error.is_connect() {
            Self::Connect(cause)
        } else {
            Self::Broken(cause)
        }
    }
}

/// The last cause of a chain: "connection refused" says more than "client error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn request(method: Method, url: &str, body: Bytes) -> Result<Request<Full<Bytes>>, CallError> {
    let uri: Uri = url
        .parse()
        .map_err(|error| CallError::Request(format!("{url}: {error}")))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    request
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(request)
}

fn json(body: &impl Serialize) -> Result<Bytes, CallError> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| CallError::Request(error.to_string()))
}
