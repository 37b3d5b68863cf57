//! A line to the service: one connection, with one question under way at a time.
//!
//! Lines are opened before a run. Opened on demand under load they would overflow the server's accept queue and add
//! seconds that no service caused. One that breaks is opened anew by the next question over it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::StatusCode;
use bytes::Bytes;
use clap::ValueEnum;
use marketplace::Multiplier;
use serde::{Deserialize, Serialize};
use surge_proto::v1::GetQuoteResponse;
use tokio::time::timeout_at;

use super::quote::{Failure, Question, Quoted};
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
pub struct Line {
    wire: Wire,
    cap: Multiplier,
    deadline: Duration,
}

#[derive(Debug)]
enum Wire {
    Http(http::Wire),
    Grpc(grpc::Wire),
}

/// Where lines lead.
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

    /// A line that is not open yet.
    pub(super) fn line(&self, cap: Multiplier, deadline: Duration) -> Line {
        let wire = match self.clone() {
            Self::Http(address) => Wire::Http(http::Wire::to(address)),
            Self::Grpc(address) => Wire::Grpc(grpc::Wire::to(address)),
        };
        Line {
            wire,
            cap,
            deadline,
        }
    }
}

impl Line {
    pub(super) fn is_open(&self) -> bool {
        match &self.wire {
            Wire::Http(wire) => wire.is_open(),
            Wire::Grpc(wire) => wire.is_open(),
        }
    }

    /// Connects, and makes sure that the service has taken the connection.
    ///
    /// # Errors
    /// [`NoAnswer`]; the line may be used all the same, and then tries again.
    pub(super) async fn open(&mut self) -> Result<(), NoAnswer> {
        match &mut self.wire {
            Wire::Http(wire) => wire.open().await,
            Wire::Grpc(wire) => wire.open().await,
        }
    }

    /// Asks for one quote and checks the answer; beside it the time from the moment at which the question was meant to
    /// leave to the complete answer. From the same moment counts the deadline. Checking is our own work and no part of
    /// the latency.
    pub async fn ask(
        &mut self,
        question: &Question,
        intended: Instant,
    ) -> (Duration, Result<Quoted, Failure>) {
        let answer = self.answer(question, intended + self.deadline).await;
        let latency = intended.elapsed();
        let cap = self.cap;
        (
            latency,
            answer.and_then(|answer| answer.check(question, cap)),
        )
    }

    async fn answer(&mut self, question: &Question, until: Instant) -> Result<Answer, Failure> {
        let too_late = Failure::from(NoAnswer::Deadline(self.deadline));
        if Instant::now() >= until {
            // It waited too long for a free line; the line is sound and stays open.
            return Err(too_late);
        }
        let answer = timeout_at(until.into(), self.exchange(question))
            .await
            .unwrap_or(Err(too_late));
        if matches!(answer, Err(Failure::NoAnswer(_))) {
            self.hang_up();
        }
        answer
    }

    async fn exchange(&mut self, question: &Question) -> Result<Answer, Failure> {
        Ok(match &mut self.wire {
            Wire::Http(wire) => {
                let (status, body) = wire.ask(question).await?;
                Answer::Http(status, body)
            }
            Wire::Grpc(wire) => Answer::Grpc(wire.ask(question).await?),
        })
    }

    /// A late answer must not be taken for that of the next question.
    fn hang_up(&mut self) {
        match &mut self.wire {
            Wire::Http(wire) => wire.hang_up(),
            Wire::Grpc(wire) => wire.hang_up(),
        }
    }
}

/// A complete answer that nobody has looked at.
enum Answer {
    Http(StatusCode, Bytes),
    Grpc(GetQuoteResponse),
}

impl Answer {
    fn check(self, question: &Question, cap: Multiplier) -> Result<Quoted, Failure> {
        match self {
            Self::Http(status, body) => http::read(status, &body, question, cap),
            Self::Grpc(answer) => grpc::read(&answer, question, cap),
        }
    }
}

#[cfg(test)]
mod tests {
    use surge_proto::DataflowMode;

    use super::*;
    use crate::stand_in::{Behaviour, pickup, price_optimization};

    const DEADLINE: Duration = Duration::from_millis(200);

    async fn line(behaviour: Behaviour) -> Line {
        let url = price_optimization(behaviour).await;
        let cap = Multiplier::from_tenths(30).unwrap();
        let mut line = Address::of(Transport::Http, &url)
            .unwrap()
            .line(cap, DEADLINE);
        line.open().await.unwrap();
        line
    }

    fn question() -> Question {
        Question::new(DataflowMode::Events, pickup(), pickup())
    }

    #[tokio::test]
    async fn a_question_that_waited_too_long_is_not_asked_and_leaves_the_line_open() {
        let mut line = line(Behaviour::default()).await;
        let long_ago = Instant::now() - 2 * DEADLINE;
        let (latency, outcome) = line.ask(&question(), long_ago).await;
        assert!(latency >= 2 * DEADLINE);
        assert!(outcome.unwrap_err().is_timeout());
        assert!(line.is_open());
        let (_, outcome) = line.ask(&question(), Instant::now()).await;
        assert!(outcome.is_ok(), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_question_without_an_answer_costs_the_line_its_connection() {
        let stall = Some((Duration::ZERO, Duration::from_secs(60)));
        let mut line = line(Behaviour {
            stall,
            ..Behaviour::default()
        })
        .await;
        let (latency, outcome) = line.ask(&question(), Instant::now()).await;
        assert!(latency >= DEADLINE);
        assert!(outcome.unwrap_err().is_timeout());
        assert!(
            !line.is_open(),
            "a late answer would be taken for the next one"
        );
    }
}
