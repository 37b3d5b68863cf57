//! Follows the streams SUPPLY and DEMAND, and applies every message to the local state.
//!
//! # How this works
//! ```text
//! subscribe ─► last message of every subject ─► new messages ─► half a second without any
//!     ▲                                             ▲                       │
//!     │                                             └── the stream has none ┤
//!     └── the stream goes on without us, began again, or the connection did ┘
//! ```
//! To start again is cheap and complete, because a message is a level and not an increment; so the
//! server keeps no position (an *ordered consumer*).
//!
//! A subscription that is silent proves nothing: the producer may be away, or the subscription may
//! wait for a number that the stream will not reach, because it was deleted, lost its storage or
//! was restored from a backup. So after half a second of silence the subscriber asks the stream for
//! its last number, and begins again unless that is the last one it received.

use std::{
    sync::{Arc, Once, atomic::Ordering},
    time::Duration,
};

use async_nats::{
    Client,
    jetstream::{
        Message,
        consumer::{DeliverPolicy, pull::OrderedConfig},
    },
};
use futures::StreamExt;
use marketplace::time::MarketTime;
use platform::{
    background::WorkLoop,
    clock::{MarketClock, RealTime},
    nats::{self, ConsumerTelemetry, Processed},
};
use surge_proto::subjects::{DEMAND, SUPPLY, Stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, warn};

use super::{
    message::{Content, FeedMessage, dead_letter},
    state::SharedState,
};

/// After how long without a message the subscription is checked. Producers publish several times a
/// second.
const SILENCE: Duration = Duration::from_millis(500);

/// How long to wait before subscribing again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(250);

/// Follows both streams.
#[derive(Clone, Debug)]
pub struct Subscriber {
    nats: Client,
    replicas: usize,
    clock: MarketClock,
    state: SharedState,
    /// Logged once: a stream may hold all messages of another replay.
    warned_of_clock_skew: Arc<Once>,
}

impl Subscriber {
    /// A subscriber that writes to `state`, and keeps dead letters on `replicas` nodes.
    pub fn new(nats: Client, replicas: usize, state: SharedState, clock: MarketClock) -> Self {
        Self {
            nats,
            replicas,
            clock,
            state,
            warned_of_clock_skew: Arc::new(Once::new()),
        }
    }

    /// Follows both streams until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let follow = async |stream: Stream| {
            let mut work = WorkLoop::new(format!("stream {}", stream.name), &token);
            while work.next_step(SUBSCRIBE_AGAIN).await {
                work.run(self.follow(stream, &work)).await;
            }
        };
        tokio::join!(follow(SUPPLY), follow(DEMAND));
    }

    /// Takes the last message of every subject, then new ones until the subscription breaks.
    async fn follow(&self, stream: Stream, work: &WorkLoop) -> anyhow::Result<()> {
        let jetstream = nats::jetstream(self.nats.clone());
        let ordered = OrderedConfig {
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subject: stream.subjects.to_owned(),
            ..OrderedConfig::default()
        };
        let source = jetstream.get_stream(stream.name).await?;
        let created = source.cached_info().created;
        let mut messages = source.create_consumer(ordered).await?.messages().await?;
        work.record(&anyhow::Ok(()));
        // No subscription survives a restart of the broker, although it seems to.
        let connects = || self.nats.statistics().connects.load(Ordering::Relaxed);
        let connection = connects();
        let mut received = None;
        while connection == connects() {
            match tokio::time::timeout(SILENCE, messages.next()).await {
                Ok(Some(message)) => {
                    let message = message?;
                    received = message.info().ok().map(|info| info.stream_sequence);
                    self.step(stream, &message).await;
                }
                Ok(None) => break,
                Err(_no_message) => {
                    let now = source.get_info().await?;
                    let last = (now.state.messages > 0).then_some(now.state.last_sequence);
                    if now.created != created || last.is_some_and(|last| received != Some(last)) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies one message, or moves it to the dead letters if it cannot be parsed.
    pub async fn step(&self, stream: Stream, message: &Message) {
        let telemetry = ConsumerTelemetry::new(stream.name, stream.subjects);
        telemetry.received(message);
        let (started, received_at) = (Instant::now(), RealTime::now());
        let outcome = match FeedMessage::parse(message, received_at) {
            Ok(parsed) => {
                // A watermark ends a round of levels: one span per round.
                let ends_round = self.apply(&parsed, message, received_at);
                if ends_round && parsed.traceparent.is_some() {
                    telemetry.process_span(message);
                }
                Processed::Done
            }
            Err(error) => {
                dead_letter(&self.nats, self.replicas, stream, message, &error).await;
                Processed::DeadLettered
            }
        };
        telemetry.processed(outcome, started.elapsed(), &Span::none());
    }

    /// Applies a message. Returns true for a watermark that is newer than the last one.
    fn apply(&self, parsed: &FeedMessage, message: &Message, received_at: RealTime) -> bool {
        let now = MarketTime::from_millis(self.clock.at_real_micros(received_at.micros()));
        let as_of = parsed.content.as_of();
        if as_of.is_ahead_of(now) {
            self.warned_of_clock_skew.call_once(|| {
                let subject = &message.subject;
                warn!(
                    messaging.destination.name = %subject,
                    "dropped {subject} as of {as_of}, in the future: a replay with another clock?"
                );
            });
        }
        let is_applied = self.state.write().apply(parsed, now);
        is_applied && matches!(parsed.content, Content::Watermark(_))
    }
}
