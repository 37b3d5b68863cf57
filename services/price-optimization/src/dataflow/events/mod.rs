//! Dataflow through events: a subscriber keeps the newest levels in memory, and the quote reads
//! them there.
//!
//! # How this works
//! ```text
//! driver-management ──► stream SUPPLY ─┐   subscriber.rs      state.rs
//!                                      ├─► parse, apply ────► LocalState ◄──── quote, no I/O
//! ride-management ────► stream DEMAND ─┘   message.rs
//! ```
//! Each producer publishes *levels* ("zone z: 11.4 drivers as of t") when they change, and several
//! times a second a *watermark* ("all zones are complete as of t"). A level stays valid until a
//! newer one comes; the watermark says up to when nothing newer was missed. So no message for one
//! zone means no change; no message from a producer means that the data grows old.
//!
//! ```text
//! level of zone A   ──●───────────────────●──────────►  time     valid as of max(its own time,
//! watermark         ────●────●────●────●────●────●───►                   newest watermark)
//! ```
//! A quote waits for nothing and needs nobody. While the broker or a producer is away, the quote's
//! data age grows and says so.

mod message;
mod state;
pub mod subscriber;

use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, future::ready};
use marketplace::{quote::Freshness, time::MarketTime, zone::Zone};
use platform::{clock::MarketClock, propagation};
use tracing::Span;

pub use state::SharedState;

use crate::{
    dataflow::{
        Dataflow, HealthCheck,
        provenance::{MarketObservation, PerFeed},
    },
    error::DataflowError,
};

/// Reads local state.
#[derive(Debug)]
pub struct EventsDataflow {
    state: SharedState,
    clock: MarketClock,
    freshness: Freshness,
}

impl EventsDataflow {
    /// Reads `state`.
    pub const fn new(state: SharedState, clock: MarketClock, freshness: Freshness) -> Self {
        Self {
            state,
            clock,
            freshness,
        }
    }
}

/// Each feed with the age of its newest watermark, in real time; `None` before the first.
pub fn feed_ages(state: &SharedState, clock: MarketClock) -> [(&'static str, Option<Duration>); 2] {
    let now = MarketTime::from_millis(clock.now_millis());
    let age = |as_of: MarketTime| clock.real_duration(as_of.age_of(now));
    let [supply, demand] = state.read().board.watermarks();
    [("supply", supply.map(age)), ("demand", demand.map(age))]
}

#[async_trait]
impl Dataflow for EventsDataflow {
    async fn market_view(&self, zones: &[Zone]) -> Result<MarketObservation, DataflowError> {
        let state = self.state.read();
        let PerFeed { supply, demand } = &state.traceparents;
        for traceparent in [supply, demand].into_iter().flatten() {
            propagation::link(&Span::current(), traceparent);
        }
        Ok(state.observe(zones))
    }

    /// Usable while every zone has its levels, and they may still set a price: a watermark alone
    /// says nothing of zones whose levels the stream has lost. The broker is not needed for that:
    /// were it, its death would take every replica out of service at once, while all of them can
    /// quote.
    fn health_checks(&self) -> Vec<HealthCheck> {
        let (state, clock, freshness) = (self.state.clone(), self.clock, self.freshness);
        let check = move || {
            let now = MarketTime::from_millis(clock.now_millis());
            let board = &state.read().board;
            let usable = match board.complete_as_of() {
                None => Err("no watermark of supply or of demand has arrived yet".to_owned()),
                Some(_) if board.missing() != [0, 0] => {
                    let [supply, demand] = board.missing();
                    Err(format!(
                        "{supply} zones have no level of supply yet, {demand} none of demand"
                    ))
                }
                Some(as_of) if freshness.is_usable(as_of.age_of(now)) => Ok(()),
                Some(as_of) => Err(format!("the older feed ended at {as_of}, market time")),
            };
            ready(usable).boxed()
        };
        vec![("local-state", Box::new(check))]
    }
}
