//! A small REST client that holds each answer against the service's own OpenAPI document.

use std::net::SocketAddr;

use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{PATIENCE, eventually, openapi::OpenApiDocument};

/// A client of the REST edge of one service.
#[derive(Debug)]
pub struct RestClient {
    /// Where the service listens.
    pub address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    document: OpenApiDocument,
}

/// An answer of the service.
#[derive(Clone, Debug)]
pub struct RestAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its content type; empty without one.
    pub content_type: String,
    /// Its body: JSON, or a text where it is none.
    pub body: Value,
}

impl RestClient {
    /// A client of the service at `address`, once that serves its OpenAPI document.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut rest = Self {
            address,
            client: Client::builder(TokioExecutor::new()).build_http(),
            document: OpenApiDocument::default(),
        };
        let api = eventually("the service serves /openapi.json", async || {
            let request = rest.request(Method::GET, "/openapi.json");
            rest.exchange(request.body(Full::default()).unwrap()).await
        });
        rest.document = OpenApiDocument(api.await.body);
        rest
    }

    /// Gets `path`.
    pub async fn get(&self, path: &str) -> RestAnswer {
        self.call(Method::GET, path, None, "").await
    }

    /// Puts JSON to `path`.
    pub async fn put(&self, path: &str, body: &Value) -> RestAnswer {
        self.json(Method::PUT, path, body).await
    }

    /// Posts JSON to `path`.
    pub async fn post(&self, path: &str, body: &Value) -> RestAnswer {
        self.json(Method::POST, path, body).await
    }

    async fn json(&self, method: Method, path: &str, body: &Value) -> RestAnswer {
        let body = body.to_string();
        self.call(method, path, Some("application/json"), body)
            .await
    }

    /// Any call, also one that a well-meaning client would not make.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: impl Into<Bytes>,
    ) -> RestAnswer {
        let mut request = self.request(method, path);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        self.send(request.body(Full::from(body.into())).unwrap())
            .await
    }

    /// The beginning of a request to this service, for a test that sets its own headers.
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let url = format!("http://{}{path}", self.address);
        Request::builder().method(method).uri(url)
    }

    /// Sends a request and checks its answer.
    ///
    /// # Panics
    /// When there is no answer, or it is not as documented.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> RestAnswer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = self.exchange(request).await.expect("an answer");
        let (status, content_type) = (answer.status, &answer.content_type);
        self.document
            .check(&method, &path, status, content_type, &answer.body);
        answer
    }

    /// Nothing if there is no answer in time.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Option<RestAnswer> {
        let response = timeout(PATIENCE, self.client.request(request))
            .await
            .ok()?
            .ok()?;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.ok()?.to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let content_type = head.headers.get("content-type");
        let content_type = content_type.map(|value| value.to_str().unwrap());
        Some(RestAnswer {
            status: head.status,
            content_type: content_type.unwrap_or_default().to_owned(),
            headers: head.headers,
            body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
        })
    }
}
