//! A feed of levels on JetStream: at every tick those that changed and then a watermark, which says that all others are
//! as they were. Levels may be repeated or lost and are simply told anew: all of them after a failure, and every few
//! minutes, because a stream forgets. What the levels are of is the business of the service that implements [`Levels`].
//!
//! Of several replicas the holder of a [`Lease`] tells. Its predecessor may have told of a later instant than its own first
//! one, and what is older than that is no news to anybody; so it tells everything until it has got past its own beginning.

use std::{future::IntoFuture, time::Duration};

use async_nats::{
    Client,
    jetstream::{Context, context::PublishError, message::PublishMessage},
};
use futures::future::try_join_all;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field::Empty, info_span};

use crate::{lease::Lease, origins::Origins};
use platform::{
    background::WorkLoop,
    metrics::clients,
    nats::{self, NatsError},
    sampling,
};

/// A level that moved no more than this is no news: it changes no price by a visible amount.
const NOTICEABLE: f64 = 0.005;

/// How often all levels are told again, in real time. A stream forgets even the newest level of something that never
/// changes, and whoever subscribes after that would miss it for ever. Far less than any stream keeps, and so seldom
/// that it costs nothing.
const TELL_AGAIN_EVERY: Duration = Duration::from_secs(5 * 60);

/// How long one step may take. Longer than NATS needs for anything, so that its own errors come first.
const STEP_DEADLINE: Duration = Duration::from_secs(5);

/// Levels that a feed can tell.
pub trait Levels: Send + Sync {
    /// What the subjects of the feed begin with, such as `surge.v1.supply`.
    const FEED: &'static str;

    /// The streams that the service writes, this feed's among them: name and subjects.
    const STREAMS: &'static [(&'static str, &'static str)];

    /// An instant of market time.
    type AsOf: Copy + PartialOrd + Send + Sync;

    /// Market time, now: as of when the levels are at best.
    fn now(&self) -> Self::AsOf;

    /// All levels at one instant, always as many and in the same order.
    fn levels(&self) -> (Self::AsOf, Vec<f64>);

    /// Subject and message that tell the level at `index`.
    fn level(&self, index: usize, value: f64, as_of: Self::AsOf) -> (String, PublishMessage);

    /// The requests that changed the levels.
    fn origins(&self) -> &Origins;

    /// Subject and message that say how far the levels are complete.
    fn watermark(&self, as_of: Self::AsOf) -> (String, PublishMessage);
}

/// Why a step of the feed failed. The next one tells everything.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// There is no connection.
    #[error("NATS is away: {0}")]
    Away(String),
    /// A stream is missing and cannot be made.
    #[error(transparent)]
    Stream(#[from] NatsError),
    /// A message was not acknowledged.
    #[error("JetStream did not take a level: {0}")]
    Publish(#[from] PublishError),
    /// Nothing came back.
    #[error("JetStream did not answer within {STEP_DEADLINE:?}")]
    Overdue(#[from] tokio::time::error::Elapsed),
}

/// Publishes levels.
#[derive(Debug)]
pub struct LevelFeed<L: Levels> {
    source: L,
    client: Client,
    jetstream: Context,
    every: Duration,
    stream_replicas: usize,
    tell_again_every: Duration,
    /// When everything has to be told again, changed or not.
    tell_again_at: Instant,
    /// The values that JetStream acknowledged last; none where readers may have anything.
    told: Vec<f64>,
    /// As of when those were.
    told_as_of: Option<L::AsOf>,
    /// Who of several replicas tells; without it this one.
    lease: Option<Lease>,
    /// The furthest instant of which anything may have been told: by this replica, or, when it began, by another. None while
    /// another tells.
    furthest: Option<L::AsOf>,
}

impl<L: Levels> LevelFeed<L> {
    /// A feed of `source` that ticks `every` so often, in real time.
    pub fn new(source: L, client: Client, every: Duration) -> Self {
        Self {
            source,
            jetstream: nats::jetstream(client.clone()),
            client,
            every,
            stream_replicas: 1,
            tell_again_every: TELL_AGAIN_EVERY,
            tell_again_at: Instant::now(),
            told: Vec::new(),
            told_as_of: None,
            lease: None,
            furthest: None,
        }
    }

    /// The same feed, on streams that are kept on so many nodes of NATS.
    #[must_use]
    pub fn on_nodes(mut self, stream_replicas: usize) -> Self {
        self.stream_replicas = stream_replicas;
        self
    }

    /// The same feed, telling only while `lease` is held.
    #[must_use]
    pub fn while_held(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }

    /// The same feed, telling everything again `every` so often, in real time.
    #[must_use]
    pub fn telling_again(mut self, every: Duration) -> Self {
        self.tell_again_every = every;
        self
    }

    /// Publishes the levels that changed as of now and, once all of them are acknowledged, the watermark. Returns how
    /// many levels that were.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub async fn step(&mut self) -> Result<usize, FeedError> {
        let furthest = *self.furthest.get_or_insert_with(|| self.source.now());
        let (as_of, values) = self.source.levels();
        // Of one instant nothing can be told twice: readers would take the greater of two values for the newer.
        if self.told_as_of == Some(as_of) {
            return Ok(0);
        }
        // It goes back when a replica is heard of that is behind. Readers ignore what is older than what they have, so none of
        // it counts as told.
        let is_behind = as_of < furthest;
        if !is_behind {
            self.furthest = Some(as_of);
        }
        let mut told = self.known();
        let news = news(&values, &told);
        let publishing = self.publish(told.is_empty(), &news, as_of);
        let span = publish_span(L::FEED, news.len() + 1);
        self.source.origins().link_feed(&span);
        let started = Instant::now();
        let published = timeout(STEP_DEADLINE, publishing)
            .instrument(span.clone())
            .await;
        let acknowledged = matches!(published, Ok(Ok(())));
        if !acknowledged {
            span.record("otel.status_code", "ERROR");
        }
        // Without a connection nothing was sent.
        if !matches!(published, Ok(Err(FeedError::Away(_)))) {
            let took = started.elapsed();
            clients::published(L::FEED, news.len() + 1, acknowledged, took, &span);
        }
        published??;
        told.resize(values.len(), 0.0);
        for (index, value) in &news {
            told[*index] = *value;
        }
        self.told = if is_behind { Vec::new() } else { told };
        self.told_as_of = Some(as_of);
        Ok(news.len())
    }

    /// Steps until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new(format!("the feed {}", L::FEED), &shutdown);
        while work.next_step(self.every).await {
            if self.lease.as_ref().is_some_and(|lease| !lease.is_held()) {
                self.leave_it_to_another();
            } else {
                work.run(self.step()).await;
            }
        }
    }

    fn leave_it_to_another(&mut self) {
        self.told.clear();
        self.told_as_of = None;
        self.furthest = None;
        // The holder hears from the table of what came in here, and tells it without a link.
        self.source.origins().link_feed(&Span::none());
    }

    /// What need not be told, taken out: a step that does not come to its end leaves nothing known.
    fn known(&mut self) -> Vec<f64> {
        let told = std::mem::take(&mut self.told);
        let now = Instant::now();
        if !told.is_empty() && now < self.tell_again_at {
            return told;
        }
        self.tell_again_at = now + self.tell_again_every;
        Vec::new()
    }

    /// The watermark leaves only after every level was acknowledged: it vouches for them.
    async fn publish(
        &self,
        is_everything: bool,
        news: &[(usize, f64)],
        as_of: L::AsOf,
    ) -> Result<(), FeedError> {
        // Asked first, because a client without a connection queues what it is given.
        nats::probe(&self.client).map_err(FeedError::Away)?;
        if is_everything {
            self.ensure_streams().await?;
        }
        let levels = news
            .iter()
            .map(|(index, value)| self.source.level(*index, *value, as_of));
        self.send(levels.collect()).await?;
        self.send(vec![self.source.watermark(as_of)]).await?;
        Ok(())
    }

    /// They are there unless the server is new.
    async fn ensure_streams(&self) -> Result<(), NatsError> {
        for (name, subjects) in L::STREAMS {
            nats::ensure_stream(&self.jetstream, name, subjects, self.stream_replicas).await?;
        }
        Ok(())
    }

    /// Sends all messages before waiting for the first acknowledgement; there are never more than levels.
    async fn send(&self, messages: Vec<(String, PublishMessage)>) -> Result<(), PublishError> {
        let mut acknowledgements = Vec::with_capacity(messages.len());
        for (subject, message) in messages {
            let sent = self.jetstream.send_publish(subject, message).await?;
            acknowledgements.push(sent.into_future());
        }
        try_join_all(acknowledgements).await?;
        Ok(())
    }
}

/// The values worth telling, each with its index.
fn news(values: &[f64], told: &[f64]) -> Vec<(usize, f64)> {
    let is_news = |(index, value): &(usize, f64)| {
        told.get(*index)
            .is_none_or(|known| (value - known).abs() > NOTICEABLE)
    };
    let values = values.iter().copied().enumerate();
    values.filter(is_news).collect()
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
    fn only_news_is_told() {
        assert_eq!(news(&[3.004, 4.0], &[3.0, 3.0]), [(1, 4.0)]);
        assert_eq!(news(&[3.0], &[]), [(0, 3.0)]);
    }
}
