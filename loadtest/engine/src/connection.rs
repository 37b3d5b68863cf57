//! One connection to the service, with at most one request in flight, over HTTP or gRPC.
//!
//! Latency and deadline count from the moment at which the request was *meant* to leave, so a
//! request that waited for a free connection is as slow as a rider would see it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::StatusCode;
use bytes::Bytes;
use clap::ValueEnum;
use marketplace::Multiplier;
use serde::{Deserialize, Serialize};
use surge_proto::v1::GetQuoteResponse;
use tokio::time::timeout_at;

use super::grpc::{self, GrpcAddress, GrpcWire};
use super::http::{self, HttpAddress, HttpWire};
use super::quote::{CheckedQuote, NoAnswer, QuoteFailure, QuoteQuery};

/// The protocol of the quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// `POST /v1/quotes`, JSON over HTTP/1.1.
    #[default]
    Http,
    /// `surge.v1.QuoteService.GetQuote`, protobuf over HTTP/2.
    Grpc,
}

/// The address of a service, for one transport.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Http(Arc<HttpAddress>),
    Grpc(Arc<GrpcAddress>),
}

impl Address {
    /// The address of the service that listens at `base` for this transport.
    ///
    /// # Errors
    /// When `base` is not a base URL with a host.
    pub(super) fn of(transport: Transport, base: &str) -> anyhow::Result<Self> {
        Ok(match transport {
            Transport::Http => Self::Http(Arc::new(HttpAddress::of(base)?)),
            Transport::Grpc => Self::Grpc(Arc::new(GrpcAddress::of(base)?)),
        })
    }

    /// A connection that is not open yet.
    pub(super) fn connection(&self, cap: Multiplier, deadline: Duration) -> QuoteConnection {
        let wire = match self.clone() {
            Self::Http(address) => Wire::Http(HttpWire::to(address)),
            Self::Grpc(address) => Wire::Grpc(GrpcWire::to(address)),
        };
        QuoteConnection {
            wire,
            cap,
            deadline,
        }
    }
}

/// One connection to the service, open or not. The next request opens a broken one again.
#[derive(Debug)]
pub struct QuoteConnection {
    wire: Wire,
    cap: Multiplier,
    deadline: Duration,
}

#[derive(Debug)]
enum Wire {
    Http(HttpWire),
    Grpc(GrpcWire),
}

impl QuoteConnection {
    pub(super) fn is_open(&self) -> bool {
        match &self.wire {
            Wire::Http(wire) => wire.is_open(),
            Wire::Grpc(wire) => wire.is_open(),
        }
    }

    /// Connects, and makes sure that the service accepted the connection.
    ///
    /// # Errors
    /// [`NoAnswer`]; the next request tries again.
    pub(super) async fn open(&mut self) -> Result<(), NoAnswer> {
        match &mut self.wire {
            Wire::Http(wire) => wire.open().await,
            Wire::Grpc(wire) => wire.open().await,
        }
    }

    /// Requests one quote and checks the answer. Returns the time from `intended`, when the request
    /// was meant to leave, to the complete answer; the check is work of the engine, and no part of
    /// the latency.
    pub async fn ask(
        &mut self,
        request: &QuoteQuery,
        intended: Instant,
    ) -> (Duration, Result<CheckedQuote, QuoteFailure>) {
        let answer = self.answer(request, intended + self.deadline).await;
        let latency = intended.elapsed();
        let checked = answer.and_then(|answer| match answer {
            RawAnswer::Http(status, body) => http::read(status, &body, request, self.cap),
            RawAnswer::Grpc(answer) => grpc::read(&answer, request, self.cap),
        });
        (latency, checked)
    }

    async fn answer(
        &mut self,
        request: &QuoteQuery,
        until: Instant,
    ) -> Result<RawAnswer, QuoteFailure> {
        let too_late = QuoteFailure::from(NoAnswer::Deadline(self.deadline));
        if Instant::now() >= until {
            // The request waited too long for a connection; the connection itself is good.
            return Err(too_late);
        }
        let exchange = async {
            Ok(match &mut self.wire {
                Wire::Http(wire) => {
                    let (status, body) = wire.ask(request).await?;
                    RawAnswer::Http(status, body)
                }
                Wire::Grpc(wire) => RawAnswer::Grpc(wire.ask(request).await?),
            })
        };
        let answer = timeout_at(until.into(), exchange)
            .await
            .unwrap_or(Err(too_late));
        if matches!(answer, Err(QuoteFailure::NoAnswer(_))) {
            self.close();
        }
        answer
    }

    /// The next request must not receive the late answer of this one.
    fn close(&mut self) {
        match &mut self.wire {
            Wire::Http(wire) => wire.close(),
            Wire::Grpc(wire) => wire.close(),
        }
    }
}

/// A complete answer, not checked yet.
enum RawAnswer {
    Http(StatusCode, Bytes),
    Grpc(GetQuoteResponse),
}

#[cfg(test)]
mod tests {
    use surge_proto::DataflowMode;

    use super::*;
    use crate::stand_in::{Behaviour, pickup, price_optimization};

    const DEADLINE: Duration = Duration::from_millis(200);

    async fn connection(behaviour: Behaviour) -> QuoteConnection {
        let url = price_optimization(behaviour).await;
        let cap = Multiplier::from_tenths(30).unwrap();
        let mut connection = Address::of(Transport::Http, &url)
            .unwrap()
            .connection(cap, DEADLINE);
        connection.open().await.unwrap();
        connection
    }

    fn request() -> QuoteQuery {
        QuoteQuery::new(DataflowMode::Events, pickup(), pickup())
    }

    #[tokio::test]
    async fn late_request_leaves_the_connection_open() {
        let mut connection = connection(Behaviour::default()).await;
        let long_ago = Instant::now() - 2 * DEADLINE;
        let (latency, outcome) = connection.ask(&request(), long_ago).await;
        assert!(latency >= 2 * DEADLINE);
        assert!(outcome.unwrap_err().is_timeout());
        assert!(connection.is_open());
        let (_, outcome) = connection.ask(&request(), Instant::now()).await;
        assert!(outcome.is_ok(), "{outcome:?}");
    }

    #[tokio::test]
    async fn unanswered_request_closes_the_connection() {
        let stall = Some((Duration::ZERO, Duration::from_secs(60)));
        let mut connection = connection(Behaviour {
            stall,
            ..Behaviour::default()
        })
        .await;
        let (latency, outcome) = connection.ask(&request(), Instant::now()).await;
        assert!(latency >= DEADLINE);
        assert!(outcome.unwrap_err().is_timeout());
        assert!(
            !connection.is_open(),
            "a late answer would be taken for the next one"
        );
    }
}
