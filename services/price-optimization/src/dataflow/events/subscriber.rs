//! Follows the streams SUPPLY and DEMAND, and applies every message to the local state.
//!
//! # How this works
//! ```text
//! subscribe ──► last message of every subject ──► new messages ──► ... ──► connection lost, or 10 s without a message
//!     ▲                                                                          │
//!     └───────────────────────────── after 250 ms ◄──────────────────────────────┘
//! ```
//! An *ordered consumer* keeps no position on the server. Starting again from the last message of every subject is
//! cheap and complete, because a message is a level and not an increment. A message that cannot be parsed goes to the
//! dead letters (`surge.dead.<stream>`), and the stream goes on.

use std::{
    sync::{Arc, Once, atomic::Ordering},
    time::Duration,
};

use async_nats::jetstream::{
    Message,
    consumer::{DeliverPolicy, pull::OrderedConfig},
};
use futures::StreamExt;
use marketplace::{time::MarketTime, zone::ServiceArea};
use platform::{
    background::WorkLoop,
    clock::{MarketClock, RealTime},
    nats::{self, Intake, Processed},
};
use surge_proto::{
    convert::Malformed,
    subjects::{self, DEAD, DEMAND, SUPPLY, Stream},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, warn};

use super::{
    message::{self, Content, FeedMessage},
    state::SharedState,
};

/// Producers publish several times a second. After this long without a message the subscription itself may be broken,
/// and a new one replaces it.
const SILENCE: Duration = Duration::from_secs(10);

/// How often a subscription without messages checks whether its connection is still the same.
const CONNECTION_CHECK: Duration = Duration::from_millis(500);

/// How long to wait before subscribing again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(250);

/// Follows the streams of supply and demand.
#[derive(Clone, Debug)]
pub struct Subscriber {
    nats: async_nats::Client,
    stream_replicas: usize,
    clock: MarketClock,
    state: SharedState,
    /// Logged once: a stream may hold all messages of another replay.
    warned_of_clock_skew: Arc<Once>,
}

impl Subscriber {
    /// A subscriber of `area` with empty state, which keeps dead letters on `stream_replicas` nodes of NATS.
    pub fn new(
        nats: async_nats::Client,
        stream_replicas: usize,
        area: Arc<ServiceArea>,
        clock: MarketClock,
    ) -> Self {
        Self {
            nats,
            stream_replicas,
            clock,
            state: SharedState::new(area),
            warned_of_clock_skew: Arc::new(Once::new()),
        }
    }

    pub(super) fn state(&self) -> SharedState {
        self.state.clone()
    }

    /// Each feed with the age of its newest watermark, in real time; `None` before the first.
    pub fn feed_ages(&self) -> [(&'static str, Option<Duration>); 2] {
        let now = MarketTime::from_millis(self.clock.now_millis());
        let age = |as_of: MarketTime| self.clock.real_duration(as_of.age_of(now));
        let [supply, demand] = self.state.read().board().watermarks();
        [("supply", supply.map(age)), ("demand", demand.map(age))]
    }

    /// Follows both streams until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        tokio::join!(
            self.follow_always(SUPPLY, &token),
            self.follow_always(DEMAND, &token)
        );
    }

    async fn follow_always(&self, stream: Stream, token: &CancellationToken) {
        let mut work = WorkLoop::new(format!("stream {}", stream.name), token);
        while work.next_step(SUBSCRIBE_AGAIN).await {
            work.run(self.follow(stream, &work)).await;
        }
    }

    /// Starts from the last message of every subject, then takes new messages until the subscription breaks.
    async fn follow(&self, stream: Stream, work: &WorkLoop) -> anyhow::Result<()> {
        let jetstream = nats::jetstream(self.nats.clone());
        let ordered = OrderedConfig {
            deliver_policy: DeliverPolicy::LastPerSubject,
            filter_subject: stream.subjects.to_owned(),
            ..OrderedConfig::default()
        };
        let source = jetstream.get_stream_no_info(stream.name).await?;
        let mut messages = source.create_consumer(ordered).await?.messages().await?;
        work.record(&anyhow::Ok(()));
        let connection = self.connects();
        let mut received_at = Instant::now();
        while connection == self.connects() && received_at.elapsed() < SILENCE {
            match tokio::time::timeout(CONNECTION_CHECK, messages.next()).await {
                Ok(Some(message)) => {
                    self.step(stream, &message?).await;
                    received_at = Instant::now();
                }
                Ok(None) => break,
                Err(_no_message) => {}
            }
        }
        Ok(())
    }

    /// How often the client connected. A subscription does not survive a restart of the broker, although it seems to.
    fn connects(&self) -> u64 {
        self.nats.statistics().connects.load(Ordering::Relaxed)
    }

    /// Applies one message, or moves it to the dead letters if it cannot be parsed.
    pub async fn step(&self, stream: Stream, message: &Message) {
        let intake = Intake::of(stream.name, stream.subjects);
        intake.received(message);
        let started = Instant::now();
        let outcome = match FeedMessage::parse(message) {
            Ok(parsed) => {
                self.apply(&intake, parsed, message);
                Processed::Done
            }
            Err(malformed) => {
                self.dead_letter(stream, message, &malformed).await;
                Processed::Dead
            }
        };
        intake.processed(outcome, started.elapsed(), &Span::none());
    }

    fn apply(&self, intake: &Intake, parsed: FeedMessage, message: &Message) {
        let received_at = RealTime::now();
        let now = MarketTime::from_millis(self.clock.at_real_micros(received_at.micros()));
        let as_of = parsed.as_of();
        if as_of.is_ahead_of(now) {
            self.warned_of_clock_skew.call_once(|| warn!(
                messaging.destination.name = %message.subject,
                "dropped a message as of {as_of}, in the future: did a replay with another clock publish it?"
            ));
        }
        let meta = message::meta(message, as_of, received_at);
        let traceparent = nats::producer_of(message);
        let is_applied = self.state.write().apply(parsed, meta, traceparent, now);
        // A watermark ends a round of levels: one span per round, linked to the trace that published it.
        if is_applied && matches!(parsed.content, Content::Watermark(_)) && traceparent.is_some() {
            intake.process_span(message);
        }
    }

    async fn dead_letter(&self, stream: Stream, message: &Message, malformed: &Malformed) {
        warn!(
            messaging.destination.name = %message.subject,
            error.message = %malformed,
            "moved a message of stream {} to the dead letters: {malformed}", stream.name
        );
        let jetstream = nats::jetstream(self.nats.clone());
        let subject = subjects::dead_letter(stream);
        let kept = nats::bury(
            &jetstream,
            DEAD.name,
            DEAD.subjects,
            self.stream_replicas,
            subject,
            message,
            malformed,
        );
        if let Err(error) = kept.await {
            warn!(error.message = %error, "the dead letter could not be kept: {error}");
        }
    }
}
