//! The OTLP trace service: takes export requests over gRPC and puts the spans into the store.
//! `intake` bounds the size of each span. A span without valid ids is refused and counted, as the
//! partial success of OTLP defines it.

mod intake;

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Server, server::TcpIncoming},
};

use crate::{Error, Limits, query::nanoseconds_since_epoch, store::SharedStore};
use intake::SpanReader;

/// One export takes milliseconds; a client that sends for longer than this is stuck.
const EXPORT_DEADLINE: Duration = Duration::from_secs(10);

/// Concurrent exports of one connection. An exporter sends one at a time. Decoded requests are the
/// only memory that [`Limits`] does not cover; this times `message_bytes` bounds it.
const EXPORTS_PER_CONNECTION: usize = 2;

/// Receives spans until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    store: SharedStore,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), Error> {
    let service = TraceServiceServer::new(Receiver {
        store,
        reader: Mutex::new(SpanReader::new()),
    })
    .accept_compressed(CompressionEncoding::Gzip)
    .max_decoding_message_size(limits.message_bytes);
    Server::builder()
        .timeout(EXPORT_DEADLINE)
        .concurrency_limit_per_connection(EXPORTS_PER_CONNECTION)
        .add_service(service)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            stop.cancelled_owned(),
        )
        .await
        .map_err(Error::Otlp)
}

#[derive(Debug)]
struct Receiver {
    store: SharedStore,
    reader: Mutex<SpanReader>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let received_ns = nanoseconds_since_epoch(SystemTime::now());
        let rejected = self.keep(request.into_inner(), received_ns);
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success: partial_success(rejected),
        }))
    }
}

impl Receiver {
    /// Puts the spans into the store and returns how many were refused.
    fn keep(&self, request: ExportTraceServiceRequest, received_ns: u64) -> usize {
        let batch = self
            .reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read(request, received_ns);
        let mut store = self.store.lock();
        for (trace, span) in batch.spans {
            store.insert(trace, span);
        }
        batch.rejected
    }
}

fn partial_success(rejected: usize) -> Option<ExportTracePartialSuccess> {
    (rejected > 0).then(|| ExportTracePartialSuccess {
        rejected_spans: i64::try_from(rejected).unwrap_or(i64::MAX),
        error_message: "a span needs a trace id of 16 bytes and a span id of 8, neither all zero"
            .to_owned(),
    })
}
