//! What is asked for and what may be answered: an answer that nobody looked at is not a measurement.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, FixedOffset};
use futures::StreamExt as _;
use http::StatusCode;
use marketplace::{Multiplier, Position, Zone};
use serde::Deserialize;
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::connection::{Address, QuoteConnection, Transport};
use super::generator::{self, Arrival, LoadPlan, SendReport};
use super::thread::LoadThread;
use crate::no_answer::NoAnswer;

/// Where quotes are asked.
#[derive(Debug, Clone)]
pub struct QuoteClient {
    thread: LoadThread,
    address: Address,
    cap: Multiplier,
    deadline: Duration,
    /// Lines between two runs. A std mutex: held to take them or to put them back.
    spare: Arc<Mutex<Vec<QuoteConnection>>>,
}

impl QuoteClient {
    /// The stand_in of the price-optimization that listens at `base` for this transport and never quotes above `cap`. Each
    /// request must be answered within `deadline`.
    ///
    /// # Errors
    /// When `base` is not a base URL.
    pub fn new(
        thread: LoadThread,
        transport: Transport,
        base: &str,
        cap: Multiplier,
        deadline: Duration,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            thread,
            address: Address::of(transport, base)?,
            cap,
            deadline,
            spare: Arc::default(),
        })
    }

    /// Asks for one quote over a connection of its own.
    ///
    /// # Errors
    /// [`QuoteFailure`]: there was no quote, or it was not right.
    pub async fn ask(&self, request: QuoteRequest) -> Result<CheckedQuote, QuoteFailure> {
        let (_, outcome) = self.connection().ask(&request, Instant::now()).await;
        outcome
    }

    /// Asks as the plan says, until its end or until `stop`, over connections that are opened before and kept for the next
    /// run.
    pub async fn run<Ask, Asked>(
        &self,
        plan: LoadPlan,
        stop: CancellationToken,
        ask: Ask,
    ) -> SendReport
    where
        Ask: Fn(QuoteConnection, Arrival) -> Asked + Send + Sync + 'static,
        Asked: Future<Output = QuoteConnection> + Send + 'static,
    {
        let stand_in = self.clone();
        let delivered = async move {
            let connections = stand_in.open_lines().await;
            let (delivery, free) = generator::run(plan, connections, stop, ask).await;
            *stand_in.spare() = free;
            delivery
        };
        self.thread.run(delivered).await
    }

    /// Those that could not be opened try again when their turn comes, and then the failure counts.
    async fn open_lines(&self) -> Vec<QuoteConnection> {
        let until = tokio::time::Instant::now() + self.deadline;
        let mut connections = std::mem::take(&mut *self.spare());
        connections.resize_with(LINES, || self.connection());
        let opened = connections.into_iter().map(|mut connection| async move {
            if !connection.is_open() {
                let _ = tokio::time::timeout_at(until, connection.open()).await;
            }
            connection
        });
        let at_once = futures::stream::iter(opened).buffer_unordered(OPENED_AT_ONCE);
        at_once.collect().await
    }

    fn spare(&self) -> MutexGuard<'_, Vec<QuoteConnection>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> QuoteConnection {
        self.address.connection(self.cap, self.deadline)
    }
}

/// Lines of a run: how many requests a server has before it at once. Further arrivals wait on our side, their latency
/// counting, for whichever connection is free first. docs/measuring.md tells what more of them do.
pub const LINES: usize = 64;

/// Far less than what a server lets wait to be accepted: 128 at the least, 1,024 with tokio.
const OPENED_AT_ONCE: usize = 32;

/// One trip to be quoted in one mode.
#[derive(Debug, Clone, Copy)]
pub struct QuoteRequest {
    /// The mode to quote in.
    pub mode: DataflowMode,
    /// Where the trip starts.
    pub pickup: Position,
    /// Where it ends.
    pub dropoff: Position,
    /// The zone of the pickup.
    pub zone: Zone,
}

impl QuoteRequest {
    /// A request, with its zone looked up.
    pub fn new(mode: DataflowMode, pickup: Position, dropoff: Position) -> Self {
        Self {
            mode,
            pickup,
            dropoff,
            zone: Zone::at(pickup),
        }
    }
}

/// What a checked quote said of the market.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckedQuote {
    /// The zone that was priced.
    pub zone: Zone,
    /// The surge multiplier.
    pub multiplier: Multiplier,
    /// Age of the older feed behind the price, in real time; `None` when the service had no data.
    pub data_age: Option<Duration>,
    /// Whether the service had no data fresh enough and priced without surge.
    pub degraded: bool,
}

/// Why an arrival brought no quote that counts.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuoteFailure {
    /// No complete answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// An answer over HTTP that refuses.
    #[error("status {0}: {1}")]
    Status(StatusCode, String),
    /// An answer over gRPC that refuses.
    #[error("gRPC status {0:?}: {1}")]
    Refused(tonic::Code, String),
    /// A quote made by another mode than the one asked for.
    #[error("asked for {asked}, answered by {answered}")]
    OtherMode {
        /// The mode in the request.
        asked: DataflowMode,
        /// The mode in the answer.
        answered: DataflowMode,
    },
    /// A quote that cannot be true.
    #[error("{0}")]
    Wrong(String),
}

impl QuoteFailure {
    /// A short word by which failures are counted.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoAnswer(error) => error.kind(),
            Self::Status(..) | Self::Refused(..) => "status",
            Self::OtherMode { .. } => "other mode",
            Self::Wrong(_) => "wrong",
        }
    }

    /// Whether the service answered, and answered wrongly: such a run proves nothing.
    pub const fn is_wrong_answer(&self) -> bool {
        matches!(self, Self::OtherMode { .. } | Self::Wrong(_))
    }

    /// Whether it was waited for to the last: such a quote took at least as long as was waited.
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::NoAnswer(NoAnswer::Deadline(_)))
    }
}

/// A quote as the service tells it, before it is believed. Texts are borrowed from the answer. Multiplier and zone
/// check their own form while they are read.
#[derive(Deserialize)]
pub(super) struct UncheckedQuote<'a> {
    #[expect(
        dead_code,
        reason = "read only to see that it is there and well formed"
    )]
    pub(super) quote_id: Uuid,
    pub(super) fare_cents: i64,
    #[serde(borrow)]
    pub(super) currency: Cow<'a, str>,
    pub(super) surge_multiplier: Multiplier,
    pub(super) zone: Zone,
    pub(super) dataflow: DataflowMode,
    #[expect(
        dead_code,
        reason = "read only to see that it is there and well formed"
    )]
    pub(super) epoch: u64,
    pub(super) supply: f64,
    pub(super) demand: f64,
    pub(super) data_age_ms: Option<f64>,
    pub(super) degraded: bool,
    #[expect(
        dead_code,
        reason = "read only to see that it is there and well formed"
    )]
    pub(super) expires_at: DateTime<FixedOffset>,
    #[serde(borrow)]
    pub(super) token: Cow<'a, str>,
}

impl UncheckedQuote<'_> {
    /// Believes it, or says why not.
    pub(super) fn check(
        self,
        asked: &QuoteRequest,
        cap: Multiplier,
    ) -> Result<CheckedQuote, QuoteFailure> {
        if self.dataflow != asked.mode {
            return Err(QuoteFailure::OtherMode {
                asked: asked.mode,
                answered: self.dataflow,
            });
        }
        match self.flaw(asked, cap) {
            Some(flaw) => Err(QuoteFailure::Wrong(flaw.to_owned())),
            None => Ok(self.into()),
        }
    }

    /// The first thing that cannot be true of a quote for the trip that was asked for.
    fn flaw(&self, asked: &QuoteRequest, cap: Multiplier) -> Option<&'static str> {
        let checks = [
            (
                self.surge_multiplier <= cap,
                "surge_multiplier above the cap",
            ),
            (self.fare_cents > 0, "fare_cents not positive"),
            (!self.currency.is_empty(), "currency empty"),
            (self.zone == asked.zone, "zone is not that of the pickup"),
            (is_amount(self.supply), "supply negative or not finite"),
            (is_amount(self.demand), "demand negative or not finite"),
            (self.age_is_plausible(), "data_age_ms missing or negative"),
            (
                !self.degraded || self.surge_multiplier == Multiplier::ONE,
                "degraded, yet priced with surge",
            ),
            (!self.token.is_empty(), "token empty"),
        ];
        checks
            .into_iter()
            .find(|(holds, _)| !holds)
            .map(|(_, flaw)| flaw)
    }

    /// A price without surge may lack an age, since there may be no data at all.
    fn age_is_plausible(&self) -> bool {
        self.data_age_ms.map_or(self.degraded, is_amount)
    }
}

fn is_amount(number: f64) -> bool {
    number.is_finite() && number >= 0.0
}

impl From<UncheckedQuote<'_>> for CheckedQuote {
    fn from(quote: UncheckedQuote<'_>) -> Self {
        let age = |milliseconds| Duration::try_from_secs_f64(milliseconds / 1000.0).ok();
        Self {
            zone: quote.zone,
            multiplier: quote.surge_multiplier,
            data_age: quote.data_age_ms.and_then(age),
            degraded: quote.degraded,
        }
    }
}
