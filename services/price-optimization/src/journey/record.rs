//! What is taken down of a quote while it is made: nothing that has to be computed, looked up or worded for it.

use std::time::Duration;

use marketplace::quote::{Price, Quote};
use platform::{clock::RealTime, propagation::TraceId};
use surge_proto::DataflowMode;

use crate::dataflow::passage::Told;

/// One quote, as it was made.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) quote: Quote,
    pub(crate) price: Price,
    pub(crate) dataflow: DataflowMode,
    pub(crate) epoch: u64,
    /// The levels that were priced, and the way on which they came. Moved here, not copied.
    pub(crate) told: Told,
    pub(crate) priced_at: RealTime,
    /// From the question to the price.
    pub(crate) took: Duration,
    /// The trace of the quote, where it was sampled.
    pub(crate) trace: Option<TraceId>,
}
