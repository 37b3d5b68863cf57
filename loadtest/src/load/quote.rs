//! Asks for quotes over HTTP and checks every answer: an answer that nobody looked at is not a measurement.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, FixedOffset};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use marketplace::{Multiplier, Position, Zone};
use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;
use uuid::Uuid;

use crate::client::{Answer, CallError, Client};

/// Where quotes are asked.
#[derive(Debug, Clone)]
pub struct QuoteDesk {
    client: Client,
    uri: Uri,
    cap: Multiplier,
}

impl QuoteDesk {
    /// The desk of the price-optimization at `price`, which never quotes above `cap`.
    ///
    /// # Errors
    /// When `price` is not a base URL.
    pub fn new(client: Client, price: &str, cap: Multiplier) -> anyhow::Result<Self> {
        let uri = format!("{price}/v1/quotes").parse()?;
        Ok(Self { client, uri, cap })
    }

    /// Asks for one quote in one mode and checks the answer.
    ///
    /// # Errors
    /// [`Failure`]: there was no quote, or it was not right.
    pub async fn ask(
        &self,
        mode: DataflowMode,
        pickup: Position,
        dropoff: Position,
    ) -> Result<Quoted, Failure> {
        let answer = self
            .client
            .call(self.request(mode, &Question { pickup, dropoff }))
            .await?;
        self.check(&answer, mode, pickup)
    }

    fn request(&self, mode: DataflowMode, question: &Question) -> Request<Full<Bytes>> {
        let body = serde_json::to_vec(question).expect("two positions are JSON");
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("surge-dataflow", HeaderValue::from_static(mode.as_str()));
        request
    }

    fn check(
        &self,
        answer: &Answer,
        asked: DataflowMode,
        pickup: Position,
    ) -> Result<Quoted, Failure> {
        if answer.status != StatusCode::OK {
            return Err(Failure::Status(answer.status, refusal(answer)));
        }
        let quote: WireQuote = answer
            .json()
            .map_err(|error| Failure::Wrong(format!("the body is not a quote: {error}")))?;
        if quote.dataflow != asked {
            return Err(Failure::OtherMode {
                asked,
                answered: quote.dataflow,
            });
        }
        match quote.flaw(pickup, self.cap) {
            Some(flaw) => Err(Failure::Wrong(flaw)),
            None => Ok(quote.into()),
        }
    }
}

/// What a checked quote said of the market.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quoted {
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
pub enum Failure {
    /// No complete answer.
    #[error(transparent)]
    NoAnswer(#[from] CallError),
    /// An answer that refuses.
    #[error("status {0}: {1}")]
    Status(StatusCode, String),
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

impl Failure {
    /// A short word by which failures are counted.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoAnswer(error) => error.kind(),
            Self::Status(..) => "status",
            Self::OtherMode { .. } => "other mode",
            Self::Wrong(_) => "wrong",
        }
    }

    /// Whether the service answered, and answered wrongly: such a run proves nothing.
    pub const fn is_wrong_answer(&self) -> bool {
        matches!(self, Self::OtherMode { .. } | Self::Wrong(_))
    }
}

/// What a refusal says, without the form it says it in.
fn refusal(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    answer
        .json()
        .map_or_else(|_| answer.excerpt(), |problem: Problem| problem.detail)
}

#[derive(Serialize)]
struct Question {
    pickup: Position,
    dropoff: Position,
}

/// A quote as the service writes it. Multiplier and zone check their own form while they are read.
#[derive(Deserialize)]
struct WireQuote {
    #[serde(rename = "quote_id")]
    _quote_id: Uuid,
    fare_cents: i64,
    currency: String,
    surge_multiplier: Multiplier,
    zone: Zone,
    dataflow: DataflowMode,
    #[serde(rename = "epoch")]
    _epoch: u64,
    supply: f64,
    demand: f64,
    data_age_ms: Option<f64>,
    degraded: bool,
    #[serde(rename = "expires_at")]
    _expires_at: DateTime<FixedOffset>,
    token: String,
}

impl WireQuote {
    /// The first thing that cannot be true of a quote for a trip from `pickup`.
    fn flaw(&self, pickup: Position, cap: Multiplier) -> Option<String> {
        let expected_zone = Zone::at(pickup);
        let checks = [
            (
                self.surge_multiplier <= cap,
                "surge_multiplier above the cap",
            ),
            (self.fare_cents > 0, "fare_cents not positive"),
            (!self.currency.is_empty(), "currency empty"),
            (self.zone == expected_zone, "zone is not that of the pickup"),
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
            .map(|(_, flaw)| flaw.to_owned())
    }

    /// A price without surge may lack an age, since there may be no data at all.
    fn age_is_plausible(&self) -> bool {
        self.data_age_ms.map_or(self.degraded, is_amount)
    }
}

fn is_amount(number: f64) -> bool {
    number.is_finite() && number >= 0.0
}

impl From<WireQuote> for Quoted {
    fn from(quote: WireQuote) -> Self {
        let age = |milliseconds| Duration::try_from_secs_f64(milliseconds / 1000.0).ok();
        Self {
            zone: quote.zone,
            multiplier: quote.surge_multiplier,
            data_age: quote.data_age_ms.and_then(age),
            degraded: quote.degraded,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::load::stand_in::{pickup, quote_body};

    fn checked(body: &serde_json::Value) -> Result<Quoted, Failure> {
        let cap = Multiplier::from_tenths(30).unwrap();
        let desk = QuoteDesk::new(Client::new(Duration::ZERO), "http://price", cap).unwrap();
        let answer = Answer {
            status: StatusCode::OK,
            headers: http::HeaderMap::new(),
            body: body.to_string().into(),
        };
        desk.check(&answer, DataflowMode::Events, pickup())
    }

    #[test]
    fn a_sound_quote_passes() {
        let quoted = checked(&quote_body("events")).unwrap();
        assert_eq!(quoted.multiplier.tenths(), 13);
        assert_eq!(quoted.data_age, Some(Duration::from_millis(250)));
        assert!(!quoted.degraded);
    }

    #[test]
    fn each_flaw_is_found() {
        for (field, value) in [
            ("surge_multiplier", json!(3.1)),
            ("surge_multiplier", json!(1.25)),
            ("surge_multiplier", json!(0.9)),
            ("fare_cents", json!(0)),
            ("zone", json!("872a10089ffffff")),
            ("zone", json!("Manhattan")),
            ("data_age_ms", json!(null)),
            ("data_age_ms", json!(-1.0)),
            ("degraded", json!(true)),
            ("token", json!("")),
            ("quote_id", json!("7")),
        ] {
            let mut body = quote_body("events");
            body[field] = value.clone();
            let refused = checked(&body).expect_err(field);
            assert!(refused.is_wrong_answer(), "{field} = {value}: {refused}");
        }
    }

    #[test]
    fn another_mode_is_not_the_mode_asked_for() {
        let refused = checked(&quote_body("request")).unwrap_err();
        assert_eq!(refused.to_string(), "asked for events, answered by request");
    }

    #[test]
    fn a_quote_without_data_needs_no_age() {
        let mut body = quote_body("events");
        body["surge_multiplier"] = json!(1.0);
        body["data_age_ms"] = json!(null);
        body["degraded"] = json!(true);
        assert_eq!(checked(&body).unwrap().data_age, None);
    }
}
