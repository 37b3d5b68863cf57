//! The way on which the levels of one quote came: moments and numbers, taken down while they pass. Nothing is put into
//! words here, for a quote has no time for that: [`journey`](crate::journey) does it when somebody asks.

use std::sync::Arc;

use marketplace::{time::MarketTime, view::MarketView};
use platform::{clock::RealTime, propagation::TraceId};

/// What a dataflow answers: the market, and how it came to know. Quotes that were told the same share it.
#[derive(Clone, Debug)]
pub struct Told {
    /// Supply and demand of the zones asked for.
    pub view: Arc<MarketView>,
    /// The way on which they came.
    pub passage: Passage,
}

/// How the levels came.
#[derive(Clone, Debug)]
pub enum Passage {
    /// As rows of `pricing.zone_market`.
    Database(RowRead),
    /// As answers to two calls.
    Request(Calls),
    /// As messages, taken in beforehand.
    Events(Heard),
}

/// The one read of a quote.
#[derive(Clone, Debug)]
pub struct RowRead {
    /// When the query was sent.
    pub asked_at: RealTime,
    /// When the rows were there.
    pub read_at: RealTime,
    /// Number of the batch run that wrote the rows.
    pub run: Option<i64>,
    /// Trace context of that run.
    pub traceparent: Option<String>,
}

/// The two calls of a quote.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// To driver-management.
    pub supply: Call,
    /// To ride-management.
    pub demand: Call,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When it was made.
    pub asked_at: RealTime,
    /// When its answer was there.
    pub answered_at: RealTime,
}

/// What had been heard when a quote read it.
#[derive(Clone, Debug)]
pub struct Heard {
    /// When it was read.
    pub read_at: RealTime,
    /// The messages that it was made of.
    pub messages: Arc<Messages>,
}

/// The messages behind a view of the market.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    /// The newest watermarks.
    pub watermarks: Deliveries,
    /// The newest level of each zone, in the order of the view.
    pub levels: Vec<Deliveries>,
}

/// A message of each feed, where one came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deliveries {
    /// From driver-management.
    pub supply: Option<Delivery>,
    /// From ride-management.
    pub demand: Option<Delivery>,
}

/// One message, on its way from its producer to this process.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// The instant that it describes.
    pub as_of: MarketTime,
    /// Its number in the stream.
    pub sequence: u64,
    /// When JetStream had it.
    pub published_at: RealTime,
    /// When this process had it.
    pub received_at: RealTime,
    /// The trace that published it.
    pub trace: Option<TraceId>,
}
