//! Where the levels of a quote came from: what a dataflow answers, and how the answer reached it.
//!
//! # How this works
//! Every dataflow answers with a [`MarketObservation`]: the levels themselves (`view`) and their
//! [`Provenance`]. A price needs only the view. The provenance is for people: `GET
//! /v1/quotes/{id}/journey` explains from it which hop made the data as old as it was.
//!
//! ```text
//! database   tables ──► batch run ──► row ─────────► read                  asked_at, read_at, run
//! request    memory of the producer ◄── call, answer ──►                   asked_at, answered_at
//! events     memory ──► message in JetStream ──► local state ──► read      MessageMeta, read_at
//! ```
//!
//! A quote has no time for explanations, so a dataflow only writes down times and numbers that
//! nobody could look up later. [`explain`](crate::explain) turns them into sentences when somebody
//! asks.

use std::sync::Arc;

use marketplace::{time::MarketTime, view::MarketView};
use platform::{clock::RealTime, propagation::TraceId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a dataflow answers. Cheap to clone: quotes that were answered from the same state share it.
#[derive(Clone, Debug)]
pub struct MarketObservation {
    /// Supply and demand of the zones asked for, in their order.
    pub view: Arc<MarketView>,
    /// Where they came from.
    pub provenance: Provenance,
}

/// Where the levels came from, one variant per dataflow.
#[derive(Clone, Debug)]
pub enum Provenance {
    /// From rows of `pricing.zone_market`.
    Database(DatabaseProvenance),
    /// From the answers to two gRPC calls.
    Request(PerFeed<CallTimes>),
    /// From messages that had arrived before the quote.
    Events(EventProvenance),
}

/// One read of the rows that a batch run wrote.
#[derive(Clone, Debug)]
pub struct DatabaseProvenance {
    /// When the query was sent.
    pub asked_at: RealTime,
    /// When the rows arrived.
    pub read_at: RealTime,
    /// Number of the batch run that wrote the rows.
    pub run: Option<i64>,
    /// Trace context of that run.
    pub traceparent: Option<String>,
}

/// When one gRPC call was made and answered.
#[derive(Clone, Copy, Debug)]
pub struct CallTimes {
    /// When the call was made.
    pub asked_at: RealTime,
    /// When its answer arrived.
    pub answered_at: RealTime,
}

/// The local state that a quote read, and the messages that made it.
#[derive(Clone, Debug)]
pub struct EventProvenance {
    /// When the quote read the state.
    pub read_at: RealTime,
    /// The messages behind the view.
    pub messages: Arc<ViewMessages>,
}

/// The messages behind a view of the market; `None` where no message came, or JetStream gave it no
/// number.
#[derive(Clone, Debug, Default)]
pub struct ViewMessages {
    /// The newest watermarks.
    pub watermarks: PerFeed<Option<MessageMeta>>,
    /// The newest level of each zone, in the order of the view.
    pub levels: Vec<PerFeed<Option<MessageMeta>>>,
}

/// What is known of one message beside its content.
#[derive(Clone, Copy, Debug)]
pub struct MessageMeta {
    /// Market time that the message describes.
    pub as_of: MarketTime,
    /// Its sequence number in the stream.
    pub sequence: u64,
    /// When JetStream stored it.
    pub published_at: RealTime,
    /// When this process received it.
    pub received_at: RealTime,
    /// The trace that published it.
    pub trace: Option<TraceId>,
}

/// Supply or demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeedName {
    /// Drivers predicted to be available; from driver-management.
    Supply,
    /// Ride requests expected; from ride-management.
    Demand,
}

/// One value for each of the two feeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct PerFeed<T> {
    /// That of supply.
    pub supply: T,
    /// That of demand.
    pub demand: T,
}

impl<T> PerFeed<T> {
    /// The value of `feed`.
    pub const fn of(&self, feed: FeedName) -> &T {
        match feed {
            FeedName::Supply => &self.supply,
            FeedName::Demand => &self.demand,
        }
    }

    /// The value of `feed`, to be changed.
    pub const fn of_mut(&mut self, feed: FeedName) -> &mut T {
        match feed {
            FeedName::Supply => &mut self.supply,
            FeedName::Demand => &mut self.demand,
        }
    }
}
