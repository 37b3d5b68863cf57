//! A small REST client that believes nothing: each answer is checked against the service's own OpenAPI document.

use std::net::SocketAddr;

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use super::openapi::Document;

/// The REST edge of a service.
pub(crate) struct Rest {
    pub(crate) address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    document: Document,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Value,
}

impl Rest {
    pub(crate) async fn of(address: SocketAddr) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut rest = Self {
            address,
            client,
            document: Document(Value::Null),
        };
        rest.document = Document(rest.get_plain("/openapi.json").await.body);
        rest
    }

    pub(crate) async fn get(&self, route: &str, path: &str) -> Answer {
        let request = self
            .request(Method::GET, path)
            .body(Full::default())
            .unwrap();
        self.checked(route, request).await
    }

    pub(crate) async fn put(&self, route: &str, path: &str, body: Value) -> Answer {
        let request = self
            .request(Method::PUT, path)
            .header("content-type", "application/json");
        let body = Full::from(body.to_string());
        self.checked(route, request.body(body).unwrap()).await
    }

    pub(crate) async fn post(&self, route: &str, body: Value) -> Answer {
        self.raw(
            Method::POST,
            route,
            route,
            "application/json",
            body.to_string(),
        )
        .await
    }

    /// A request that a well-meaning client would not make.
    pub(crate) async fn raw(
        &self,
        method: Method,
        route: &str,
        path: &str,
        content_type: &str,
        body: String,
    ) -> Answer {
        let request = self
            .request(method, path)
            .header("content-type", content_type);
        self.checked(route, request.body(Full::from(body)).unwrap())
            .await
    }

    /// A route that is not part of the API: probes and metrics.
    pub(crate) async fn get_plain(&self, path: &str) -> Answer {
        let request = self
            .request(Method::GET, path)
            .body(Full::default())
            .unwrap();
        self.send(request).await
    }

    async fn checked(&self, route: &str, request: Request<Full<Bytes>>) -> Answer {
        let method = request.method().clone();
        let answer = self.send(request).await;
        self.document.check(&method, route, &answer);
        answer
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let content_type = response
            .headers()
            .get("content-type")
            .map(|value| value.to_str().unwrap());
        let content_type = content_type.unwrap_or_default().to_owned();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Answer {
            status,
            content_type,
            body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
        }
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let url = format!("http://{}{path}", self.address);
        Request::builder().method(method).uri(url)
    }
}
