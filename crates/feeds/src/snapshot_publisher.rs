//! The snapshot publisher: the levels that a service knows, such as the supply of every zone, as
//! messages on a stream.
//!
//! # How this works
//!
//! At every tick the publisher takes a *snapshot*: the level of every zone at one moment, `as_of`.
//! It publishes the levels that have changed, waits until JetStream has acknowledged all of them,
//! and only then publishes a *watermark*: "all zones are complete as of this moment". A consumer
//! that has read the watermark knows that a zone without a message has not changed.
//!
//! ```text
//!              tick 1          tick 2        tick 3
//!  zone A      3               ·             2
//!  zone B      5               ·             ·
//!  watermark        as of 1        as of 2        as of 3
//! ────────────────────────────────────────────────────────▶ time
//!                             a consumer now knows: A = 2 and B = 5, both as of 3
//! ```
//!
//! Levels are values, never increments: a repeated message does no harm, and a lost one is made
//! good by a *resync*, which publishes all levels. The publisher does that at its start, after a
//! failed step, and when the stream has lost something that it had acknowledged:
//!
//! ```text
//!  purged, or the oldest dropped   it has fewer subjects than a second ago
//!  deleted, or its storage lost    it is not there, and is made again without a subject
//!  restored from an older backup   an acknowledgement has a number that was there before
//! ```
//!
//! A consumer that begins afterwards would else lack every level that does not change. It does so
//! every few minutes, too, whatever the stream says.
//!
//! Of several replicas, the holder of a [`Lease`] publishes. The holder before it may have
//! published a later moment than the new holder's first snapshot, because a replica's snapshot is
//! as old as what it last read from the others. Consumers keep the newest `as_of`, so they ignore a
//! snapshot below that *high-water mark*; until it is passed, every step is a resync.
//!
//! ```text
//!  as_of of the old holder    ──7──8──9✗
//!  as_of of the new holder              7──8──10──11──12──
//!                                       └ resync ┘  └ changes only
//! ```

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{Context, context::PublishError, message::PublishMessage},
};
use platform::{
    background::WorkLoop,
    metrics::{clients, report_end},
    nats::{self, NatsError},
    sampling,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field::Empty, info_span};

use crate::{
    lease::Lease,
    publish_all,
    trace_links::{PendingTraceLinks, Sink},
};

/// A level that moved no more than this has not changed: no price changes visibly.
const NOTICEABLE: f64 = 0.005;

/// How often the publisher publishes all levels, in real time: far more often than any stream
/// forgets, and seldom enough to cost nothing.
const RESYNC_EVERY: Duration = Duration::from_secs(5 * 60);

/// How often the publisher asks for its streams, and whether they still have what they
/// acknowledged.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// How long one step may take. Longer than NATS needs for anything, so that its own errors come
/// first.
const STEP_DEADLINE: Duration = Duration::from_secs(5);

/// A service's levels, and the messages that carry them.
pub trait SnapshotSource: Send + Sync {
    /// What the subjects of the feed begin with, such as `surge.v1.supply`.
    const FEED: &'static str;

    /// The streams that the service writes, this feed's first: name and subjects.
    const STREAMS: &'static [(&'static str, &'static str)];

    /// A moment of market time.
    type AsOf: Copy + PartialOrd + Send + Sync;

    /// Market time, now. No snapshot of this process is newer.
    fn now(&self) -> Self::AsOf;

    /// All levels at one moment, always the same number of them and in the same order.
    fn snapshot(&self) -> (Self::AsOf, Vec<f64>);

    /// Subject and message of the level at `index`.
    fn level_message(
        &self,
        index: usize,
        level: f64,
        as_of: Self::AsOf,
    ) -> (String, PublishMessage);

    /// Subject and message of the watermark.
    fn watermark_message(&self, as_of: Self::AsOf) -> (String, PublishMessage);

    /// The requests that changed the levels.
    fn trace_links(&self) -> &PendingTraceLinks;
}

/// All data would be too old for a price before the next is published.
#[derive(Debug, thiserror::Error)]
#[error(
    "PUBLISH_EVERY must be below {usable:?}, or all data is too old for a price at this \
     MARKET_CLOCK_SPEED"
)]
pub struct PeriodTooLong {
    usable: Duration,
}

/// Checks that data stays usable for longer than the `period` of its publishing, in real time.
///
/// # Errors
/// See [`PeriodTooLong`].
pub fn check_period(period: Duration, usable: Duration) -> Result<(), PeriodTooLong> {
    (period < usable)
        .then_some(())
        .ok_or(PeriodTooLong { usable })
}

/// Why a step of the publisher failed. The next one is a resync.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no connection.
    #[error("NATS is away: {0}")]
    Away(String),
    /// A stream is missing and cannot be made.
    #[error(transparent)]
    Stream(#[from] NatsError),
    /// JetStream refused a message.
    #[error("JetStream did not take a level: {0}")]
    Publish(#[from] PublishError),
    /// JetStream acknowledged nothing in time.
    #[error("JetStream did not answer within {STEP_DEADLINE:?}")]
    TimedOut(#[from] tokio::time::error::Elapsed),
}

/// Publishes the levels of one source.
#[derive(Debug)]
pub struct SnapshotPublisher<S: SnapshotSource> {
    source: S,
    client: Client,
    jetstream: Context,
    /// The real time between two snapshots.
    period: Duration,
    /// The number of NATS nodes that keep each stream.
    pub stream_replicas: usize,
    /// The publisher publishes only while it holds this lease. Without one, it is the only
    /// publisher.
    pub lease: Option<Lease>,
    resync_at: Instant,
    check_at: Instant,
    /// The number of the newest message in its stream that JetStream has acknowledged.
    last_sequence: u64,
    /// The subjects of the stream at the last check.
    subjects: u64,
    /// The levels that consumers have; empty when they may have anything.
    acknowledged: Vec<f64>,
    acknowledged_as_of: Option<S::AsOf>,
    /// The newest moment that this publisher, or one before it, may have published; `None` while
    /// another publishes.
    high_water_mark: Option<S::AsOf>,
}

impl<S: SnapshotSource> SnapshotPublisher<S> {
    /// A publisher that takes a snapshot of `source` each `period`, in real time.
    pub fn new(source: S, client: Client, period: Duration) -> Self {
        Self {
            source,
            jetstream: nats::jetstream(client.clone()),
            client,
            period,
            stream_replicas: 1,
            lease: None,
            resync_at: Instant::now(),
            check_at: Instant::now(),
            last_sequence: 0,
            subjects: 0,
            acknowledged: Vec::new(),
            acknowledged_as_of: None,
            high_water_mark: None,
        }
    }

    /// Publishes the levels that have changed and, once JetStream has acknowledged them, the
    /// watermark. Returns the number of levels.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn step(&mut self) -> Result<usize, SnapshotError> {
        let high_water_mark = *self
            .high_water_mark
            .get_or_insert_with(|| self.source.now());
        if let Err(error) = self.check_streams().await {
            self.acknowledged.clear();
            return Err(error);
        }
        let (as_of, levels) = self.source.snapshot();
        // Consumers could not tell which of two levels as of the same moment is the newer one.
        if self.acknowledged_as_of == Some(as_of) {
            return Ok(0);
        }
        let is_behind = as_of < high_water_mark;
        if !is_behind {
            self.high_water_mark = Some(as_of);
        }
        let mut acknowledged = self.take_acknowledged();
        let changed = changed(&levels, &acknowledged);
        let messages = changed.len() + 1;
        let span = publish_span(S::FEED, messages);
        self.source.trace_links().take_links(Sink::Messages, &span);
        let publishing = self.publish(&changed, as_of);
        let publishing = timeout(STEP_DEADLINE, publishing).instrument(span.clone());
        let ended = |published: Option<&Result<Result<u64, _>, _>>, took| {
            let is_published = matches!(published, Some(Ok(Ok(_))));
            if !is_published {
                span.record("otel.status_code", "ERROR");
            }
            // Without a connection the publisher sends nothing.
            if !matches!(published, Some(Ok(Err(SnapshotError::Away(_))))) {
                clients::published(S::FEED, messages, is_published, took, &span);
            }
        };
        let sequence = report_end(publishing, ended).await??;
        let went_back = sequence <= self.last_sequence;
        self.last_sequence = sequence;
        acknowledged.resize(levels.len(), 0.0);
        for (index, level) in &changed {
            acknowledged[*index] = *level;
        }
        let is_known = !is_behind && !went_back;
        self.acknowledged = if is_known { acknowledged } else { Vec::new() };
        self.acknowledged_as_of = Some(as_of);
        Ok(changed.len())
    }

    /// Steps until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new(format!("the feed {}", S::FEED), &shutdown);
        while work.next_step(self.period).await {
            if self.lease.as_ref().is_some_and(|lease| !lease.is_held()) {
                self.leave_it_to_the_holder();
            } else {
                work.run(self.step()).await;
            }
        }
    }

    fn leave_it_to_the_holder(&mut self) {
        self.acknowledged.clear();
        self.acknowledged_as_of = None;
        self.high_water_mark = None;
        // The holder reads this replica's changes from PostgreSQL, and publishes them without a
        // link to their requests.
        let links = self.source.trace_links();
        links.take_links(Sink::Messages, &Span::none());
    }

    /// Takes the acknowledged levels out, so that a step that fails leaves none; returns none when
    /// a resync is due.
    fn take_acknowledged(&mut self) -> Vec<f64> {
        let acknowledged = std::mem::take(&mut self.acknowledged);
        let now = Instant::now();
        if !acknowledged.is_empty() && now < self.resync_at {
            return acknowledged;
        }
        self.resync_at = now + RESYNC_EVERY;
        Vec::new()
    }

    /// Makes the streams that are missing, and forgets what was acknowledged if this feed's stream
    /// has lost a subject. Seldom, but before every resync.
    async fn check_streams(&mut self) -> Result<(), SnapshotError> {
        let now = Instant::now();
        if now < self.check_at && !self.acknowledged.is_empty() {
            return Ok(());
        }
        nats::health_check(&self.client).map_err(SnapshotError::Away)?;
        let mut subjects = Vec::with_capacity(S::STREAMS.len());
        for (name, taken) in S::STREAMS {
            let replicas = self.stream_replicas;
            let stream = nats::ensure_stream(&self.jetstream, name, taken, replicas).await?;
            subjects.push(stream.subjects_count);
        }
        if subjects[0] < self.subjects {
            self.acknowledged.clear();
            self.acknowledged_as_of = None;
        }
        self.subjects = subjects[0];
        self.check_at = now + CHECK_EVERY;
        Ok(())
    }

    async fn publish(
        &self,
        changed: &[(usize, f64)],
        as_of: S::AsOf,
    ) -> Result<u64, SnapshotError> {
        // Checked first: a client without a connection queues messages.
        nats::health_check(&self.client).map_err(SnapshotError::Away)?;
        let message = |(index, level): &_| self.source.level_message(*index, *level, as_of);
        publish_all(&self.jetstream, changed.iter().map(message).collect()).await?;
        let watermark = self.source.watermark_message(as_of);
        Ok(publish_all(&self.jetstream, vec![watermark]).await?)
    }
}

/// The levels that differ noticeably from the acknowledged ones, each with its index.
fn changed(levels: &[f64], acknowledged: &[f64]) -> Vec<(usize, f64)> {
    let has_changed = |(index, level): &(usize, f64)| {
        let known = acknowledged.get(*index);
        known.is_none_or(|known| (level - known).abs() > NOTICEABLE)
    };
    let levels = levels.iter().copied().enumerate();
    levels.filter(has_changed).collect()
}

/// A producer span by the semantic conventions for messaging; its context travels in every message.
fn publish_span(feed: &'static str, messages: usize) -> Span {
    sampling::background_span(|| {
        info_span!(
            "publish",
            otel.name = format!("publish {feed}"),
            otel.kind = "producer",
            otel.status_code = Empty,
            messaging.system = "nats",
            messaging.operation.name = "publish",
            messaging.operation.type = "send",
            messaging.destination.name = feed,
            messaging.batch.message_count = messages as i64,
            server.address = nats::server_address(),
            server.port = nats::server_port(),
            surge.origins = Empty,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_noticeable_changes_are_published() {
        assert_eq!(changed(&[3.004, 4.0], &[3.0, 3.0]), [(1, 4.0)]);
        assert_eq!(changed(&[3.0], &[]), [(0, 3.0)]);
    }
}
