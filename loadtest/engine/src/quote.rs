//! A request for a quote, and the checks that an answer must pass before it counts.
//!
//! An answer that nobody checked is not a measurement: a server that answers nonsense is fast. Each
//! answer becomes an [`UncheckedQuote`] first, and a [`CheckedQuote`] only if it can be true of the
//! trip that was asked for. A wrong answer makes the whole run void.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, FixedOffset};
use http::StatusCode;
use marketplace::{Multiplier, Position, Zone};
use serde::Deserialize;
use surge_proto::DataflowMode;
use uuid::Uuid;

/// One trip to be quoted in one mode.
#[derive(Debug, Clone, Copy)]
pub struct QuoteQuery {
    /// The mode to quote in.
    pub mode: DataflowMode,
    /// Where the trip starts.
    pub pickup: Position,
    /// Where it ends.
    pub dropoff: Position,
    /// The zone of the pickup.
    pub zone: Zone,
}

impl QuoteQuery {
    /// A request; the zone follows from the pickup.
    pub fn new(mode: DataflowMode, pickup: Position, dropoff: Position) -> Self {
        Self {
            mode,
            pickup,
            dropoff,
            zone: Zone::at(pickup),
        }
    }
}

/// The parts of a correct quote that a measurement uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckedQuote {
    /// The zone that was priced.
    pub zone: Zone,
    /// The surge multiplier.
    pub multiplier: Multiplier,
    /// Age of the older feed behind the price, in real time; `None` when the service had no data.
    pub data_age: Option<Duration>,
    /// Whether the service had no data fresh enough, and priced without surge.
    pub degraded: bool,
}

/// Why there was no complete answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The deadline passed first.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// No connection could be opened.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection broke before the answer was complete.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl NoAnswer {
    /// A short word by which failures are counted.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Connect(_) => "connect",
            Self::Broken(_) => "broken",
        }
    }
}

/// The last cause of a chain: "connection refused" says more than "client error".
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Why a request brought no quote that counts.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum QuoteFailure {
    /// No complete answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The service refused, over HTTP.
    #[error("status {0}: {1}")]
    Status(StatusCode, String),
    /// The service refused, over gRPC.
    #[error("gRPC status {0:?}: {1}")]
    Refused(tonic::Code, String),
    /// Another mode than the requested one made the quote.
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

    /// Whether the service answered wrongly: such a run proves nothing.
    pub const fn is_wrong_answer(&self) -> bool {
        matches!(self, Self::OtherMode { .. } | Self::Wrong(_))
    }

    /// Whether the deadline passed: such a quote took at least as long as the engine waited.
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::NoAnswer(NoAnswer::Deadline(_)))
    }
}

/// A quote as the service wrote it. Texts are borrowed from the answer; multiplier and zone check
/// their own form while serde reads them.
#[derive(Deserialize)]
pub(super) struct UncheckedQuote<'a> {
    #[expect(
        dead_code,
        reason = "serde checks that the field is there and well formed"
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
        reason = "serde checks that the field is there and well formed"
    )]
    pub(super) epoch: u64,
    pub(super) supply: f64,
    pub(super) demand: f64,
    pub(super) data_age_ms: Option<f64>,
    pub(super) degraded: bool,
    #[expect(
        dead_code,
        reason = "serde checks that the field is there and well formed"
    )]
    pub(super) expires_at: DateTime<FixedOffset>,
    #[serde(borrow)]
    pub(super) token: Cow<'a, str>,
}

impl UncheckedQuote<'_> {
    /// Accepts the quote, or names its flaw.
    pub(super) fn check(
        self,
        asked: &QuoteQuery,
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

    /// The first field that cannot be true of a quote for this trip.
    fn flaw(&self, asked: &QuoteQuery, cap: Multiplier) -> Option<&'static str> {
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

    /// Only a degraded quote may lack an age: there may be no data at all.
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
