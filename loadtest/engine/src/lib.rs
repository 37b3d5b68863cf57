//! The open-loop load engine: quotes asked at times fixed beforehand, whatever the answers do.
//!
//! [`schedule`] says when, [`engine`] keeps to it over [`connection`]s that are open before, [`quote`] checks every answer.
//! Latency counts from the *intended* send time, so a stalled server cannot hide by delaying the requests that would
//! have shown the stall (coordinated omission). The engine also watches itself: a generator that missed its schedule
//! has measured nothing. And it is light, since it often shares the processors of what it measures.

pub mod connection;
pub mod generator;
mod grpc;
mod http;
mod no_answer;
mod precise_timer;
pub mod quote;
pub mod schedule;
pub mod search;
pub mod thread;
mod work_queue;

pub mod stand_in;

pub use connection::{QuoteConnection, Transport};
pub use generator::{Arrival, LoadPlan, SendReport};
pub use no_answer::NoAnswer;
pub use quote::{CheckedQuote, QuoteClient, QuoteFailure, QuoteRequest};
pub use schedule::Schedule;
pub use thread::LoadThread;

use std::time::Duration;

use hdrhistogram::Histogram;

/// A histogram of durations in microseconds, three significant digits, up to an hour; longer ones count as an hour.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("1 us to an hour is a valid range")
}

/// Adds a duration to a histogram of microseconds.
pub fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(LONGEST_MICROS));
}

const LONGEST_MICROS: u64 = 3_600_000_000;
