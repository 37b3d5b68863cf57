//! The answer to `GET /v1/quotes/{quote_id}/journey`; `surge journey` reads the same types.
//!
//! A replay's market runs faster than life, so each stop has two times: `at` is real time, in which
//! latencies and ages are measured; `market_time` is what the levels describe.

use chrono::{DateTime, Utc};
use marketplace::zone::Position;
use platform::openapi::GeoPoint;
use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;
use utoipa::ToSchema;
use uuid::Uuid;

pub use crate::dataflow::provenance::FeedName;
use crate::openapi::Mode;

/// How supply and demand reached one quote, and how the price follows from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Journey {
    /// The quote.
    pub quote_id: Uuid,
    /// The mode that supply and demand came through.
    #[schema(value_type = Mode)]
    pub dataflow: DataflowMode,
    /// How often the mode had been switched.
    pub epoch: u64,
    /// Where the rider gets in.
    #[schema(value_type = GeoPoint)]
    pub pickup: Position,
    /// Where the rider gets out.
    #[schema(value_type = GeoPoint)]
    pub dropoff: Position,
    /// When the quote was priced: real time.
    pub priced_at: DateTime<Utc>,
    /// The same moment on the market's clock.
    pub priced_at_market_time: DateTime<Utc>,
    /// Market seconds per real second.
    pub market_speed: f64,
    /// Real milliseconds from the request to the price.
    pub took_ms: f64,
    /// Real milliseconds since the older feed was true, as in the quote; null when a level was
    /// missing.
    pub data_age_ms: Option<f64>,
    /// Priced at 1.0 because data was missing, too old or from the future.
    pub degraded: bool,
    /// The path of supply, then that of demand.
    pub feeds: Vec<FeedPath>,
    /// The hop of the older feed that took longest: the one to shorten. Null where a level was
    /// missing.
    pub costliest_hop: Option<CostliestHop>,
    /// The levels of the k-ring, the pickup's own zone first.
    pub zones: Vec<ZoneDetail>,
    /// The formula with its values; null when a level was missing.
    pub formula: Option<Formula>,
    /// The fare with its values.
    pub fare: Fare,
    /// The trace of the quote itself; null where it was not sampled.
    pub trace: Option<TraceLink>,
    /// What is missing or unusual, and why.
    pub notes: Vec<String>,
}

/// The path of one feed from its producer to the price: that of the oldest level of the k-ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeedPath {
    /// Which feed.
    pub feed: FeedName,
    /// The service that produces it.
    pub producer: String,
    /// Its age when the quote was priced, in real milliseconds: the sum of the hops after
    /// `observed`.
    pub age_ms: Option<f64>,
    /// Whether it is the older feed, which sets the data age of the quote. Both are, when they are
    /// equally old.
    pub is_older: bool,
    /// Its stops, in order.
    pub stops: Vec<Stop>,
}

/// What happens at a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The quote asked the producer (`request` only).
    Asked,
    /// The time that the level describes.
    Observed,
    /// The producer made it available: rows committed to PostgreSQL, or a message stored by
    /// JetStream.
    Published,
    /// The batch run, the subscriber or the caller received it.
    Received,
    /// The batch run wrote its forecast to the table (`database` only).
    Written,
    /// The quote read it.
    Read,
    /// The quote was priced with it.
    Priced,
}

/// One stop of a path, and the hop that led to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stop {
    /// What happened.
    pub stage: Stage,
    /// Real time.
    pub at: DateTime<Utc>,
    /// The same moment on the market's clock.
    pub market_time: DateTime<Utc>,
    /// Who did it.
    pub by: String,
    /// How, in words.
    pub how: String,
    /// Real milliseconds since the previous stop; null at the first. `as_of` is in whole market
    /// milliseconds, so a hop to `observed` may be negative by as much.
    pub hop_ms: Option<f64>,
    /// Age of the level at this stop, in real milliseconds; null before it was observed.
    pub age_ms: Option<f64>,
    /// The JetStream message that carried it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<MessageDetail>,
    /// The batch run that carried it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<i64>,
    /// The trace of this stop, where it is not the trace of the quote and was sampled.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace: Option<TraceLink>,
}

/// A message in JetStream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MessageDetail {
    /// The stream.
    pub stream: String,
    /// The subject.
    pub subject: String,
    /// Its sequence number in the stream.
    pub sequence: u64,
    /// Market time that it describes.
    pub as_of: DateTime<Utc>,
    /// When JetStream stored it: real time.
    pub published_at: DateTime<Utc>,
    /// When this replica received it: real time.
    pub received_at: DateTime<Utc>,
    /// The trace that published it.
    pub trace: Option<TraceLink>,
}

/// A trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TraceLink {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// Where the Jaeger UI shows it; null where `TRACES_URL` is not set.
    pub url: Option<String>,
}

/// The hop that took longest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CostliestHop {
    /// Of which feed.
    pub feed: FeedName,
    /// Where it began.
    pub from: Stage,
    /// Where it ended.
    pub to: Stage,
    /// Real milliseconds.
    pub hop_ms: f64,
    /// Its share of the age of the feed, 0 to 1.
    pub share_of_age: f64,
}

/// The levels of one zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ZoneDetail {
    /// H3 cell.
    pub zone: String,
    /// Drivers predicted to be available in the next window; null when not known.
    pub supply: Option<LevelDetail>,
    /// Ride requests expected in the next window; null when not known.
    pub demand: Option<LevelDetail>,
}

/// One level.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LevelDetail {
    /// Drivers or requests.
    pub value: f64,
    /// Market time up to which it is known to hold.
    pub as_of: DateTime<Utc>,
    /// The same time in real time.
    pub observed_at: DateTime<Utc>,
    /// Real milliseconds from there to the price.
    pub age_ms: f64,
    /// The message that brought it (`events` only). A later watermark confirms a level that did not
    /// change since.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<MessageDetail>,
}

/// `m = min(cap, max(1, rho^g))` with `rho = (D~ + R + k) / (S~ + k)`, rounded to tenths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Formula {
    /// `S~`: half the zone's own supply and half the mean of its neighbours'.
    pub smoothed_supply: f64,
    /// `D~`: demand, likewise.
    pub smoothed_demand: f64,
    /// `l`: the weight of the neighbours.
    pub neighbour_weight: f64,
    /// `R`: idle drivers to keep, so that pickups stay short.
    pub driver_reserve: f64,
    /// `k`: keeps sparse zones near 1.
    pub pseudo_drivers: f64,
    /// `rho`: drivers needed over drivers available.
    pub load_ratio: f64,
    /// `g`.
    pub exponent: f64,
    /// The largest multiplier.
    pub cap: f64,
    /// `m` before it was rounded.
    pub target: f64,
}

/// The fare of the trip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Fare {
    /// Miles to drive.
    pub miles: f64,
    /// Minutes to drive.
    pub minutes: f64,
    /// The fare without surge.
    pub unsurged_cents: i64,
    /// From 1.0 in steps of 0.1.
    pub surge_multiplier: f64,
    /// The fare.
    pub fare_cents: i64,
    /// ISO 4217.
    pub currency: String,
}
