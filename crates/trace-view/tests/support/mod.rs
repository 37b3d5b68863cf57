//! A running collector: a test sends spans over gRPC and reads answers over HTTP.

use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode, uri::PathAndQuery};
use http_body_util::BodyExt as _;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_client::TraceServiceClient,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span},
};
use serde_json::Value as Json;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tonic::{codec::CompressionEncoding, transport::Channel};
use tonic_prost::ProstCodec;
use trace_view::{Collector, CollectorAddresses, Limits};

/// Every call ends within this time, unless it hangs.
const DEADLINE: Duration = Duration::from_secs(20);

/// The second in which the test spans happen, in nanoseconds since the epoch.
pub(crate) const FRIDAY: u64 = 1_396_648_800_000_000_000;

pub(crate) const MILLISECOND: u64 = 1_000_000;

pub(crate) struct Suite {
    pub(crate) addresses: CollectorAddresses,
    otlp: TraceServiceClient<Channel>,
    http: Client<HttpConnector, Body>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<trace_view::Result<()>>,
}

impl Suite {
    pub(crate) async fn start(limits: Limits) -> Self {
        let any_port = "127.0.0.1:0".parse().unwrap();
        let collector = Collector::bind(any_port, any_port, limits).await.unwrap();
        let addresses = collector.addresses();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(collector.run(async { drop(stopped.await) }));
        let endpoint = format!("http://{}", addresses.otlp);
        let otlp = TraceServiceClient::connect(endpoint)
            .await
            .unwrap()
            .send_compressed(CompressionEncoding::Gzip);
        Self {
            addresses,
            otlp,
            http: Client::builder(TokioExecutor::new()).build_http(),
            stop,
            running,
        }
    }

    /// Exports spans of one service.
    pub(crate) async fn export(
        &self,
        service: &str,
        spans: Vec<Span>,
    ) -> ExportTraceServiceResponse {
        self.try_export(service, spans).await.unwrap()
    }

    pub(crate) async fn try_export(
        &self,
        service: &str,
        spans: Vec<Span>,
    ) -> Result<ExportTraceServiceResponse, tonic::Status> {
        let mut client = self.otlp.clone();
        let exported = timeout(DEADLINE, client.export(request_of(service, spans)))
            .await
            .unwrap();
        exported.map(tonic::Response::into_inner)
    }

    /// Exports a text where the spans of a resource should be.
    pub(crate) async fn export_garbage(&self, text: &str) -> Result<(), tonic::Status> {
        let channel = Channel::from_shared(format!("http://{}", self.addresses.otlp))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        );
        // A lone string is field 1 in protobuf, which is the field that holds the spans.
        let codec = ProstCodec::<String, ExportTraceServiceResponse>::default();
        timeout(
            DEADLINE,
            client.unary(tonic::Request::new(text.to_owned()), path, codec),
        )
        .await
        .unwrap()
        .map(drop)
    }

    /// The status and body of an answer.
    pub(crate) async fn fetch(&self, method: &str, path: &str) -> (StatusCode, String) {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addresses.ui))
            .body(Body::empty())
            .unwrap();
        let response = timeout(DEADLINE, self.http.request(request))
            .await
            .unwrap()
            .unwrap();
        let status = response.status();
        let body = timeout(DEADLINE, response.into_body().collect())
            .await
            .unwrap()
            .unwrap()
            .to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    pub(crate) async fn json(&self, path: &str) -> (StatusCode, Json) {
        let (status, body) = self.fetch("GET", path).await;
        (
            status,
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")),
        )
    }

    /// The `data` of an answer that succeeds.
    pub(crate) async fn data(&self, path: &str) -> Json {
        let (status, mut json) = self.json(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {json}");
        json["data"].take()
    }

    /// The ids of the traces that a search finds, without leading zeros, in the order of the
    /// answer.
    pub(crate) async fn found(&self, query: &str) -> Vec<String> {
        let data = self.data(&format!("/api/traces?{query}")).await;
        let traces = data.as_array().unwrap();
        traces
            .iter()
            .map(|trace| {
                trace["traceID"]
                    .as_str()
                    .unwrap()
                    .trim_start_matches('0')
                    .to_owned()
            })
            .collect()
    }

    /// Ends the collector and returns its result.
    pub(crate) async fn stop(self) -> trace_view::Result<()> {
        self.stop.send(()).unwrap();
        timeout(DEADLINE, self.running).await.unwrap().unwrap()
    }
}

fn request_of(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Resource {
        attributes: vec![text("service.name", service), text("service.version", "1")],
        ..Resource::default()
    };
    let scope_spans = vec![ScopeSpans {
        spans,
        ..ScopeSpans::default()
    }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans,
            ..ResourceSpans::default()
        }],
    }
}

/// A server span of ten milliseconds on that Friday.
pub(crate) fn span(trace: u128, id: u64, operation: &str) -> Span {
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        name: operation.to_owned(),
        kind: span::SpanKind::Server.into(),
        start_time_unix_nano: FRIDAY,
        end_time_unix_nano: FRIDAY + 10 * MILLISECOND,
        ..Span::default()
    }
}

pub(crate) fn child_of(parent: u64, span: Span) -> Span {
    Span {
        parent_span_id: parent.to_be_bytes().to_vec(),
        ..span
    }
}

pub(crate) fn linked_to(trace: u128, id: u64, span: Span) -> Span {
    let link = span::Link {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        ..span::Link::default()
    };
    Span {
        links: vec![link],
        ..span
    }
}

pub(crate) fn lasting(milliseconds: u64, span: Span) -> Span {
    Span {
        end_time_unix_nano: span.start_time_unix_nano + milliseconds * MILLISECOND,
        ..span
    }
}

pub(crate) fn starting(start_time_unix_nano: u64, span: Span) -> Span {
    Span {
        start_time_unix_nano,
        end_time_unix_nano: start_time_unix_nano + MILLISECOND,
        ..span
    }
}

pub(crate) fn failed(message: &str, span: Span) -> Span {
    Span {
        status: Some(Status {
            message: message.to_owned(),
            code: 2,
        }),
        ..span
    }
}

pub(crate) fn with(attributes: Vec<KeyValue>, span: Span) -> Span {
    Span { attributes, ..span }
}

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

pub(crate) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
