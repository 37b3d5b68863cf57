//! The load generator: it requests quotes at times that are fixed beforehand, and never waits for
//! an answer before it sends the next request. Such a generator is called *open-loop*.
//!
//! # Why open-loop
//! A closed-loop generator sends its next request after the last answer. When the server stops for
//! a second, so does the generator, and the requests that would have shown the stop are never sent:
//! one slow answer appears in the figures instead of hundreds. Gil Tene calls this *coordinated
//! omission*. Riders do not coordinate: they keep coming while a server is slow.
//!
//! ```text
//!  intended   |   |   |   |   |   |   |   |      one request each 10 ms, whatever happens
//!  server     ok  ok  [ stops for 40 ms  ] ok
//!  closed     5   5   45                   5     3 of 4 fast: the stop almost disappears
//!  open       5   5   45  35  25  15  5    5     all that had to wait, from their intended times
//! ```
//!
//! # How this works
//! [`Schedule`] fixes the intended times. One task, `generator::run`, wakes at each of them by a
//! precise timer and puts an [`Arrival`] into the work queue. Each [`QuoteConnection`] has a task
//! that takes arrivals from the queue, sends the request and checks the answer ([`quote`]).
//! Latency counts from the *intended* time.
//!
//! The generator also measures itself: [`SendReport`] shows how late it was by its own fault, and a
//! run in which it missed its schedule measured nothing. All of it runs on one thread of its own
//! ([`LoadThread`]) and costs little, because it often shares the processors with the services.
//!
//! [`search`] finds the highest rate that a server sustains. This crate knows nothing of reports.

pub mod client;
pub mod connection;
pub mod generator;
mod grpc;
mod http;
mod precise_timer;
pub mod quote;
pub mod schedule;
pub mod search;
pub mod stand_in;
pub mod thread;
mod work_queue;

pub use client::QuoteClient;
pub use connection::{QuoteConnection, Transport};
pub use generator::{LoadPlan, SendReport};
pub use quote::{CheckedQuote, NoAnswer, QuoteFailure, QuoteQuery};
pub use schedule::{Arrival, Schedule};
pub use thread::LoadThread;

use std::time::Duration;

use hdrhistogram::Histogram;

/// A histogram of durations in microseconds with three significant digits, from 1 us to an hour.
/// Longer durations count as an hour.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("1 us to an hour is a valid range")
}

/// Adds a duration to a histogram of microseconds.
pub fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    histogram.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(LONGEST_MICROS));
}

const LONGEST_MICROS: u64 = 3_600_000_000;
