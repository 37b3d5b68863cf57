//! One replica of a callee: how busy it is, and whether it rests after a failure; and which of several is called.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use tonic::body::Body;
use tracing::{Span, info, warn};

use super::{BoxError, attempt::Outcome, names::Host, settings::Target};
use crate::shard_channel::ShardChannel;

/// How long a replica rests after it failed; twice as long after each trial that fails.
const LEAST_REST: Duration = Duration::from_millis(250);

/// How long at most, and so how soon one that came back is used again.
const MOST_REST: Duration = Duration::from_secs(8);

pub(super) type Replicas = Arc<[Arc<Replica>]>;

/// One address of the callee.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) address: SocketAddr,
    /// What it is an address of.
    pub(super) host: Host,
    channel: ShardChannel,
    in_flight: AtomicUsize,
    /// Rests in a row.
    failures: AtomicU32,
    /// Since the pool was opened.
    rests_until_ms: AtomicU64,
}

impl Replica {
    pub(super) fn new(address: SocketAddr, target: &Target, deadline: Duration) -> Self {
        Self {
            address,
            host: target.host.clone(),
            // The callee learns by which name it was called.
            channel: ShardChannel::to(address, target.url.clone(), deadline),
            in_flight: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            rests_until_ms: AtomicU64::new(0),
        }
    }

    pub(super) async fn call(&self, request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        let _one_more = InFlight::begin(&self.in_flight);
        let span = Span::current();
        if !span.is_disabled() {
            span.record("server.address", &*self.host.name);
            span.record("server.port", self.address.port());
            span.record("network.peer.address", self.address.ip().to_string());
        }
        self.channel.clone().call(request).await
    }

    pub(super) fn rests(&self, now_ms: u64) -> bool {
        now_ms < self.rests_until_ms.load(Relaxed)
    }

    /// After a rest one call finds out how the replica is; the others wait for what comes of it.
    pub(super) fn begin_trial(&self, now_ms: u64) {
        if self.failures.load(Relaxed) > 0 && !self.rests(now_ms) {
            self.rest(now_ms);
        }
    }

    /// All calls that were in flight when it failed fail together: they are one failure.
    pub(super) fn failed(&self, now_ms: u64, outcome: Outcome) {
        if !self.rests(now_ms) && self.rest(now_ms) == 0 {
            warn!(server.address = %self.address, "{} rests: {outcome:?}", self.address);
        }
    }

    /// Returns how often it did before, in a row.
    fn rest(&self, now_ms: u64) -> u32 {
        let before = self.failures.fetch_add(1, Relaxed);
        let until_ms = now_ms + rest_after(before).as_millis() as u64;
        self.rests_until_ms.store(until_ms, Relaxed);
        before
    }

    pub(super) fn is_well(&self) {
        // Read before it is written: every call ends here, on every processor.
        if self.failures.load(Relaxed) > 0 && self.failures.swap(0, Relaxed) > 0 {
            self.rests_until_ms.store(0, Relaxed);
            info!(server.address = %self.address, "{} answers again", self.address);
        }
    }
}

/// How long a replica rests that has rested `before` times in a row.
fn rest_after(before: u32) -> Duration {
    (LEAST_REST * (1 << before.min(8))).min(MOST_REST)
}

pub(super) fn less_busy<'a>(
    replicas: impl Iterator<Item = &'a Arc<Replica>> + Clone,
) -> Option<&'a Replica> {
    let count = replicas.clone().count();
    if count == 0 {
        return None;
    }
    let first = rand::random_range(0..count);
    // Another one, unless there is none.
    let second = (first + rand::random_range(1..count.max(2))) % count;
    let nth = |index| replicas.clone().nth(index).map(|replica| &**replica);
    let load = |replica: &&Replica| replica.in_flight.load(Relaxed);
    [nth(first), nth(second)]
        .into_iter()
        .flatten()
        .min_by_key(load)
}

/// Counts a call while it lasts, however it ends.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_and_are_bounded() {
        let rests: Vec<u128> = (0..8)
            .map(|before| rest_after(before).as_millis())
            .collect();
        assert_eq!(rests, [250, 500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
        assert_eq!(rest_after(u32::MAX), MOST_REST);
    }
}
