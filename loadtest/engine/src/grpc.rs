//! Quotes over gRPC: the generated client on an HTTP/2 connection that the engine holds itself.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use chrono::DateTime;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use marketplace::{Multiplier, Position};
use surge_proto::DataflowMode;
use surge_proto::v1::quote_service_client::QuoteServiceClient;
use surge_proto::v1::{self, GetQuoteRequest, GetQuoteResponse};
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;

use super::http::{authority, dial};
use super::quote::{CheckedQuote, NoAnswer, QuoteFailure, QuoteQuery, UncheckedQuote, innermost};

/// One connection, open or not.
#[derive(Debug)]
pub(super) struct GrpcWire {
    address: Arc<GrpcAddress>,
    connection: Option<Open>,
}

#[derive(Debug)]
struct Open {
    client: QuoteServiceClient<TonicConnection>,
    /// Shows whether the connection is still open.
    sender: http2::SendRequest<Body>,
}

/// Where to connect.
#[derive(Debug)]
pub(super) struct GrpcAddress {
    authority: String,
    origin: Uri,
}

impl GrpcWire {
    /// A connection that is not open yet.
    pub(super) const fn to(address: Arc<GrpcAddress>) -> Self {
        Self {
            address,
            connection: None,
        }
    }

    /// Connects. The handshake shows that the service accepted the connection.
    pub(super) async fn open(&mut self) -> Result<(), NoAnswer> {
        self.connection = Some(self.address.connect().await?);
        Ok(())
    }

    /// Sends the request and returns the answer unread.
    pub(super) async fn ask(
        &mut self,
        request: &QuoteQuery,
    ) -> Result<GetQuoteResponse, QuoteFailure> {
        let open = match &mut self.connection {
            Some(open) if !open.sender.is_closed() => open,
            gone => gone.insert(self.address.connect().await?),
        };
        let answer = open.client.get_quote(message(request)).await;
        Ok(answer.map_err(failure)?.into_inner())
    }

    pub(super) fn is_open(&self) -> bool {
        let open = self.connection.as_ref();
        open.is_some_and(|open| !open.sender.is_closed())
    }

    pub(super) fn close(&mut self) {
        self.connection = None;
    }
}

impl GrpcAddress {
    /// The gRPC edge of the price-optimization at `base`.
    ///
    /// # Errors
    /// When `base` is not a base URL with a host.
    pub(super) fn of(base: &str) -> anyhow::Result<Self> {
        Ok(Self {
            authority: authority(base)?,
            origin: base.parse()?,
        })
    }

    async fn connect(&self) -> Result<Open, NoAnswer> {
        let stream = TokioIo::new(dial(&self.authority).await?);
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(stream)
            .await
            .map_err(|error| NoAnswer::Broken(innermost(&error)))?;
        // The next request sees how the connection ended.
        tokio::spawn(connection);
        let ready = sender.ready().await;
        ready.map_err(|error| NoAnswer::Broken(innermost(&error)))?;
        let connection = TonicConnection(sender.clone());
        Ok(Open {
            client: QuoteServiceClient::with_origin(connection, self.origin.clone()),
            sender,
        })
    }
}

/// A connection of hyper as tonic needs to see it.
#[derive(Debug)]
struct TonicConnection(http2::SendRequest<Body>);

impl GrpcService<Body> for TonicConnection {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

fn message(request: &QuoteQuery) -> GetQuoteRequest {
    GetQuoteRequest {
        pickup: Some(point(request.pickup)),
        dropoff: Some(point(request.dropoff)),
        dataflow: v1::Dataflow::from(request.mode).into(),
    }
}

fn point(position: Position) -> v1::Position {
    v1::Position {
        lat: position.lat(),
        lon: position.lon(),
    }
}

/// A status with a cause was made in this process, because the connection broke; the service sends
/// none with a cause.
fn failure(status: Status) -> QuoteFailure {
    match std::error::Error::source(&status) {
        Some(cause) => NoAnswer::Broken(innermost(cause)).into(),
        None => QuoteFailure::Refused(status.code(), status.message().to_owned()),
    }
}

/// Reads and checks an answer.
pub(super) fn read(
    answer: &GetQuoteResponse,
    request: &QuoteQuery,
    cap: Multiplier,
) -> Result<CheckedQuote, QuoteFailure> {
    quote(answer)?.check(request, cap)
}

/// Reads the fields whose form protobuf does not fix.
fn quote(answer: &GetQuoteResponse) -> Result<UncheckedQuote<'_>, QuoteFailure> {
    let malformed = |field: &str| QuoteFailure::Wrong(format!("{field} is missing or malformed"));
    let tenths = u16::try_from(answer.surge_multiplier_tenths).ok();
    let multiplier = tenths.and_then(|tenths| Multiplier::from_tenths(tenths).ok());
    let expires_at = answer
        .expires_at
        .and_then(|at| DateTime::from_timestamp(at.seconds, at.nanos.try_into().ok()?));
    let mode = DataflowMode::from_wire(answer.dataflow).ok().flatten();
    Ok(UncheckedQuote {
        quote_id: answer.quote_id.parse().map_err(|_| malformed("quote_id"))?,
        fare_cents: answer.fare_cents,
        currency: answer.currency.as_str().into(),
        surge_multiplier: multiplier.ok_or_else(|| malformed("surge_multiplier_tenths"))?,
        zone: answer.zone.parse().map_err(|_| malformed("zone"))?,
        dataflow: mode.ok_or_else(|| malformed("dataflow"))?,
        epoch: answer.epoch,
        supply: answer.supply,
        demand: answer.demand,
        data_age_ms: answer.data_age_ms,
        degraded: answer.degraded,
        expires_at: expires_at.ok_or_else(|| malformed("expires_at"))?.into(),
        token: answer.token.as_str().into(),
    })
}
