//! A line to the service: one connection, with one question under way at a time.
//!
//! Lines are opened before a run. Opened on demand under load they would overflow the server's accept queue and add
//! seconds that no service caused. One that breaks is opened anew by the next question over it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use marketplace::Multiplier;
use serde::Serialize;
use tokio::time::timeout_at;

use super::quote::{Failure, Question, Quoted};
use super::{grpc, http};
use crate::client::CallError;

/// How quotes are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize)]
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
    /// [`CallError`]; the line may be used all the same, and then tries again.
    pub(super) async fn open(&mut self) -> Result<(), CallError> {
        match &mut self.wire {
            Wire::Http(wire) => wire.open().await,
            Wire::Grpc(wire) => wire.open().await,
        }
    }

    /// Asks for one quote and checks the answer. The deadline counts from the moment at which the question was meant
    /// to leave.
    ///
    /// # Errors
    /// [`Failure`]: there was no quote, or it was not right.
    pub async fn ask(&mut self, question: &Question, intended: Instant) -> Result<Quoted, Failure> {
        let until = intended + self.deadline;
        if Instant::now() >= until {
            // It waited for a free line too long; this one is sound, and stays open.
            return Err(CallError::Deadline(self.deadline).into());
        }
        let outcome = match timeout_at(until.into(), self.exchange(question)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::Deadline(self.deadline).into()),
        };
        if matches!(outcome, Err(Failure::NoAnswer(_))) {
            self.hang_up();
        }
        outcome
    }

    async fn exchange(&mut self, question: &Question) -> Result<Quoted, Failure> {
        match &mut self.wire {
            Wire::Http(wire) => wire.ask(question, self.cap).await,
            Wire::Grpc(wire) => wire.ask(question, self.cap).await,
        }
    }

    /// A late answer must not be taken for that of the next question.
    fn hang_up(&mut self) {
        match &mut self.wire {
            Wire::Http(wire) => wire.hang_up(),
            Wire::Grpc(wire) => wire.hang_up(),
        }
    }
}
