//! What the tests of a service share: servers of their own, a client that believes nothing, and
//! patience.
//!
//! # How this works
//! A test talks to a service as its callers do, over REST, gRPC, NATS and the published views. It
//! starts a PostgreSQL and a nats-server for itself alone ([`Servers`]), starts the service inside
//! the test's own process ([`RunningService`]), and asks through [`RestClient`], which holds each
//! answer against the service's own OpenAPI document.
//!
//! No test sleeps for a fixed time and hopes. It waits for a condition with [`eventually`], whose
//! deadline is long enough for a machine at a tenth of the usual speed; a test that passes never
//! waits for it.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, also in the functions that tests share"
)]

mod grpc;
mod openapi;
mod pooler;
mod process;
mod rest;
mod servers;
mod service;
mod tls;

use std::time::{Duration, Instant};

pub use grpc::{assert_health_is_served, assert_reflection_lists};
use marketplace::zone::Position;
pub use pooler::behind_transaction_pooler;
pub use process::{Frozen, exit_status, signal};
pub use rest::{RestAnswer, RestClient};
pub use servers::{Loss, Servers};
pub use service::RunningService;
pub use tls::{Certificates, nats_with_tls};

/// The longest that a test waits for a condition. Every condition of the tests holds within six
/// seconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Grand Central, in the service area.
pub fn midtown() -> Position {
    Position::new(40.7527, -73.9772).unwrap()
}

/// The Financial District, in the service area and 3.6 miles from [`midtown`].
pub fn downtown() -> Position {
    Position::new(40.7075, -74.0113).unwrap()
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within [`PATIENCE`]; the message has the condition's `name`.
pub async fn until(name: &str, mut condition: impl AsyncFnMut() -> bool) {
    eventually(name, async || condition().await.then_some(())).await;
}

/// Asks again and again until there is an answer, and returns it.
///
/// # Panics
/// When there is none within [`PATIENCE`]; the message names the `condition`.
pub async fn eventually<T>(condition: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "it did not come true within {PATIENCE:?}: {condition}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
