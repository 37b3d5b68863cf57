//! A connection to the service: one connection, with one request under way at a time.
//!
//! Lines are opened before a run. Opened on demand under load they would overflow the server's accept queue and add
//! seconds that no service caused. One that breaks is opened anew by the next request over it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::StatusCode;
use bytes::Bytes;
use clap::ValueEnum;
use marketplace::Multiplier;
use serde::{Deserialize, Serialize};
use surge_proto::v1::GetQuoteResponse;
use tokio::time::timeout_at;

use super::quote::{CheckedQuote, QuoteFailure, QuoteRequest};
use super::{grpc, http};
use crate::no_answer::NoAnswer;

/// How quotes are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// `POST /v1/quotes`, JSON over HTTP/1.1.
    #[default]
    Http,
    /// `surge.v1.QuoteService.GetQuote`, protobuf over HTTP/2.
    Grpc,
}

/// One connection to the service, open or not.
#[derive(Debug)]
pub struct QuoteConnection {
    wire: Wire,
    cap: Multiplier,
    deadline: Duration,
}

#[derive(Debug)]
enum Wire {
    Http(http::Wire),
    Grpc(grpc::Wire),
}

/// Where connections lead.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Http(Arc<http::Address>),
    Grpc(Arc<grpc::Address>),
}

impl Address {
    /// That of the price-optimization that listens at `base` for this transport.
    ///
    /// # Errors
    /// When `base` is not a base URL with a host.
    pub(super) fn of(transport: Transport, base: &str) -> anyhow::Result<Self> {
        Ok(match transport {
            Transport::Http => Self::Http(Arc::new(http::Address::of(base)?)),
            Transport::Grpc => Self::Grpc(Arc::new(grpc::Address::of(base)?)),
        })
    }

    /// A connection that is not open yet.
    pub(super) fn connection(&self, cap: Multiplier, deadline: Duration) -> QuoteConnection {
        let wire = match self.clone() {
            Self::Http(address) => Wire::Http(http::Wire::to(address)),
            Self::Grpc(address) => Wire::Grpc(grpc::Wire::to(address)),
        };
        QuoteConnection {
            wire,
            cap,
            deadline,
        }
    }
}

impl QuoteConnection {
    pub(super) fn is_open(&self) -> bool {
        match &self.wire {
            Wire::Http(wire) => wire.is_open(),
            Wire::Grpc(wire) => wire.is_open(),
        }
    }

    /// Connects, and makes sure that the service has taken the connection.
    ///
    /// # Errors
    /// [`NoAnswer`]; the connection may be used all the same, and then tries again.
    pub(super) async fn open(&mut self) -> Result<(), NoAnswer> {
        match &mut self.wire {
            Wire::Http(wire) => wire.open().await,
            Wire::Grpc(wire) => wire.open().await,
        }
    }

    /// Asks for one quote and checks the answer; beside it the time from the moment at which the request was meant to
    /// leave to the complete answer. From the same moment counts the deadline. Checking is our own work and no part of
    /// the latency.
    pub async fn ask(
        &mut self,
        request: &QuoteRequest,
        intended: Instant,
    ) -> (Duration, Result<CheckedQuote, QuoteFailure>) {
        let answer = self.answer(request, intended + self.deadline).await;
        let latency = intended.elapsed();
        let cap = self.cap;
        (
            latency,
            answer.and_then(|answer| answer.check(request, cap)),
        )
    }

    async fn answer(
        &mut self,
        request: &QuoteRequest,
        until: Instant,
    ) -> Result<Answer, QuoteFailure> {
        let too_late = QuoteFailure::from(NoAnswer::Deadline(self.deadline));
        if Instant::now() >= until {
            // It waited too long for a free connection; the connection is sound and stays open.
            return Err(too_late);
        }
        let answer = timeout_at(until.into(), self.exchange(request))
            .await
            .unwrap_or(Err(too_late));
        if matches!(answer, Err(QuoteFailure::NoAnswer(_))) {
            self.close();
        }
        answer
    }

    async fn exchange(&mut self, request: &QuoteRequest) -> Result<Answer, QuoteFailure> {
        Ok(match &mut self.wire {
            Wire::Http(wire) => {
                let (status, body) = wire.ask(request).await?;
                Answer::Http(status, body)
            }
            Wire::Grpc(wire) => Answer::Grpc(wire.ask(request).await?),
        })
    }

    /// A late answer must not be taken for that of the next request.
    fn close(&mut self) {
        match &mut self.wire {
            Wire::Http(wire) => wire.close(),
            Wire::Grpc(wire) => wire.close(),
        }
    }
}

/// A complete answer that nobody has looked at.
enum Answer {
    Http(StatusCode, Bytes),
    Grpc(GetQuoteResponse),
}

impl Answer {
    fn check(self, request: &QuoteRequest, cap: Multiplier) -> Result<CheckedQuote, QuoteFailure> {
        match self {
            Self::Http(status, body) => http::read(status, &body, request, cap),
            Self::Grpc(answer) => grpc::read(&answer, request, cap),
        }
    }
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

    fn request() -> QuoteRequest {
        QuoteRequest::new(DataflowMode::Events, pickup(), pickup())
    }

    #[tokio::test]
    async fn a_question_that_waited_too_long_is_not_asked_and_leaves_the_line_open() {
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
    async fn a_question_without_an_answer_costs_the_line_its_connection() {
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
