//! The two ways in which demand is published besides the gRPC answer: levels on JetStream for the `events` dataflow,
//! and a watermark beside the counts in PostgreSQL for the `database` dataflow. Two loops, because neither may wait
//! for the other's server.

use std::{future::IntoFuture, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        Context,
        context::{PublishAckFuture, PublishError},
    },
};
use futures::future::try_join_all;
use marketplace::{time::MarketTime, view::Level};
use platform::{
    nats::{self, NatsError},
    outage::Outage,
};
use prost::Message;
use surge_proto::{
    convert::timestamp,
    subjects::{DEMAND, DEMAND_WATERMARK, RIDES, demand_of},
    v1,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use crate::{app::App, error::Error};

/// A level that moved no more than this is no news: it changes no multiplier by a visible amount.
const NEWS: f64 = 0.005;

/// How long one step may take. Longer than NATS needs for anything, so that its own errors come first.
const STEP_DEADLINE: Duration = Duration::from_secs(5);

/// Why levels could not be published. The next step publishes all of them.
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

/// Publishes levels of demand: those that changed, then the watermark that makes the others as fresh.
#[derive(Debug)]
pub struct DemandFeed {
    app: App,
    client: Client,
    jetstream: Context,
    every: Duration,
    tell_again_every: Duration,
    /// When everything has to be told again, changed or not.
    tell_again_at: Instant,
    /// Per zone the value that JetStream acknowledged last; `None` where readers may have anything.
    acknowledged: Vec<Option<f64>>,
    streams_exist: bool,
}

impl DemandFeed {
    /// A feed of the demand that `app` forecasts, with a step `every` so often in real time.
    pub fn new(app: App, client: Client, every: Duration) -> Self {
        Self {
            acknowledged: vec![None; app.zones().len()],
            streams_exist: false,
            jetstream: nats::jetstream(client.clone()),
            client,
            app,
            every,
            tell_again_every: nats::TELL_AGAIN_EVERY,
            tell_again_at: Instant::now(),
        }
    }

    /// The same feed, telling everything again `every` so often, in real time.
    #[must_use]
    pub const fn telling_again(mut self, every: Duration) -> Self {
        self.tell_again_every = every;
        self
    }

    /// Publishes the levels that changed as of now and, once all of them are acknowledged, the watermark. Returns how
    /// many levels that were. After a failure nothing is taken for known.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub async fn step(&mut self) -> Result<usize, FeedError> {
        if Instant::now() >= self.tell_again_at {
            self.forget();
        }
        let as_of = self.app.now();
        let news = self.news(as_of);
        let span = publish_span("surge.v1.demand", news.len());
        let published = timeout(STEP_DEADLINE, self.publish(&news, as_of))
            .instrument(span)
            .await;
        if let Err(error) = published.map_err(FeedError::from).flatten() {
            self.forget();
            return Err(error);
        }
        for (index, level) in &news {
            self.acknowledged[*index] = Some(level.value);
        }
        Ok(news.len())
    }

    /// Goes on until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut outage = Outage::of("the demand feed");
        let mut ticks = unhurried(self.every);
        while next_tick(&mut ticks, &shutdown).await {
            tokio::select! {
                () = shutdown.cancelled() => return,
                step = self.step() => outage.note(&step),
            }
        }
    }

    /// Takes nothing for known, so that the next step tells everything.
    fn forget(&mut self) {
        self.acknowledged.fill(None);
        self.streams_exist = false;
        self.tell_again_at = Instant::now() + self.tell_again_every;
    }

    /// The levels worth telling, each with the index of its zone.
    fn news(&self, as_of: MarketTime) -> Vec<(usize, Level)> {
        let levels = self.app.all_demands(as_of);
        let is_news = |(index, level): &(usize, Level)| {
            self.acknowledged[*index].is_none_or(|known| (level.value - known).abs() > NEWS)
        };
        levels.into_iter().enumerate().filter(is_news).collect()
    }

    async fn publish(
        &mut self,
        news: &[(usize, Level)],
        as_of: MarketTime,
    ) -> Result<(), FeedError> {
        // Asked first, because a client without a connection queues what it is given.
        nats::probe(&self.client).map_err(FeedError::Away)?;
        self.ensure_streams().await?;
        self.publish_levels(news).await?;
        self.publish_watermark(as_of).await
    }

    /// The streams that this service writes. They are there unless the server is new.
    async fn ensure_streams(&mut self) -> Result<(), NatsError> {
        if !self.streams_exist {
            for stream in [DEMAND, RIDES] {
                nats::ensure_stream(&self.jetstream, stream.name, stream.subjects).await?;
            }
            self.streams_exist = true;
        }
        Ok(())
    }

    /// Sends all levels before waiting for the first acknowledgement; there are never more than zones.
    async fn publish_levels(&self, news: &[(usize, Level)]) -> Result<(), PublishError> {
        let mut acknowledgements = Vec::with_capacity(news.len());
        for (index, level) in news {
            let zone = self.app.zones()[*index];
            let payload = v1::DemandLevel::new(zone, *level).encode_to_vec();
            let sent = self.send(demand_of(zone), "surge.v1.DemandLevel", payload);
            acknowledgements.push(sent.await?.into_future());
        }
        try_join_all(acknowledgements).await?;
        Ok(())
    }

    async fn publish_watermark(&self, as_of: MarketTime) -> Result<(), FeedError> {
        let as_of = Some(timestamp(as_of));
        let payload = v1::Watermark { as_of }.encode_to_vec();
        let sent = self.send(DEMAND_WATERMARK.to_owned(), "surge.v1.Watermark", payload);
        sent.await?.await?;
        Ok(())
    }

    async fn send(
        &self,
        subject: String,
        schema: &str,
        payload: Vec<u8>,
    ) -> Result<PublishAckFuture, PublishError> {
        let message = nats::message(schema, payload);
        self.jetstream.send_publish(subject, message).await
    }
}

/// Keeps the watermark in the database moving, so that its readers can tell a quiet city from a dead service.
#[derive(Debug)]
pub struct WatermarkKeeper {
    app: App,
    every: Duration,
}

impl WatermarkKeeper {
    /// A keeper that moves the watermark `every` so often in real time.
    pub const fn new(app: App, every: Duration) -> Self {
        Self { app, every }
    }

    /// Moves the watermark to now.
    ///
    /// # Errors
    /// The database is away.
    pub async fn step(&self) -> Result<(), Error> {
        let span = info_span!("publish ride.demand_watermark");
        self.app.mark_demand().instrument(span).await
    }

    /// Goes on until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut outage = Outage::of("the watermark in PostgreSQL");
        let mut ticks = unhurried(self.every);
        while next_tick(&mut ticks, &shutdown).await {
            tokio::select! {
                () = shutdown.cancelled() => return,
                step = self.step() => outage.note(&step),
            }
        }
    }
}

/// Ticks that do not pile up behind a slow step.
fn unhurried(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for the next tick; false means that it is time to stop.
async fn next_tick(ticks: &mut Interval, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        _ = ticks.tick() => true,
    }
}

/// A producer span by the semantic conventions for messaging; its context travels in every message.
fn publish_span(feed: &'static str, messages: usize) -> Span {
    info_span!(
        "publish",
        otel.name = format!("publish {feed}"),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "publish",
        messaging.operation.type = "send",
        messaging.destination.name = feed,
        messaging.batch.message_count = messages,
    )
}
