//! What driver-management tells on NATS: the supply of every zone as a feed of levels and watermarks, and the progress
//! of trips through the outbox. Levels may be repeated or lost and are simply sent anew; trip events may not be lost.

use std::{collections::HashMap, time::Duration};

use async_nats::{Client, jetstream::Context};
use futures::future::try_join_all;
use marketplace::{time::MarketTime, view::Level, zone::Zone};
use platform::{
    nats::{self, NatsError},
    outage::Outage,
    outbox::Event,
};
use prost::Message;
use surge_proto::{
    convert::timestamp,
    subjects::{self, SUPPLY, SUPPLY_WATERMARK, TRIPS},
    v1::{SupplyLevel, TripProgress, TripStage, Watermark},
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};
use uuid::Uuid;

use crate::{app::App, fleet::Supply};

/// Levels closer together than this are the same to every price.
const NOTICEABLE: f64 = 0.005;

/// The event that a trip reached a stage.
pub fn trip_progress(stage: TripStage, ride_id: Uuid, driver_id: Uuid, at: MarketTime) -> Event {
    let progress = TripProgress {
        ride_id: ride_id.to_string(),
        driver_id: driver_id.to_string(),
        stage: stage.into(),
        at: Some(timestamp(at)),
    };
    Event {
        subject: format!("surge.v1.trips.{}", stage_word(stage)),
        schema: "surge.v1.TripProgress",
        payload: progress.encode_to_vec(),
    }
}

fn stage_word(stage: TripStage) -> &'static str {
    match stage {
        TripStage::Unspecified => "unspecified",
        TripStage::PickedUp => "picked_up",
        TripStage::DroppedOff => "dropped_off",
    }
}

/// Publishes the supply feed: the levels that changed, then the watermark that says they are all.
#[derive(Debug)]
pub struct SupplyFeed {
    app: App,
    client: Client,
    jetstream: Context,
    every: Duration,
    tell_again_every: Duration,
    /// When everything has to be told again, changed or not.
    tell_again_at: Instant,
    /// What subscribers know. Empty at first and after a failure, so that the next step tells everything.
    told: HashMap<Zone, f64>,
}

/// Why a step of the feed failed. The next one begins anew.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// There is no connection.
    #[error("NATS is away: {0}")]
    Away(String),
    /// A stream could not be had.
    #[error(transparent)]
    Stream(#[from] NatsError),
    /// A message was not acknowledged.
    #[error("JetStream did not take a level: {0}")]
    Publish(#[from] async_nats::jetstream::context::PublishError),
}

impl SupplyFeed {
    /// A feed that ticks `every` so often, in real time.
    pub fn new(app: App, client: Client, jetstream: Context, every: Duration) -> Self {
        Self {
            app,
            client,
            jetstream,
            every,
            tell_again_every: nats::TELL_AGAIN_EVERY,
            tell_again_at: Instant::now(),
            told: HashMap::new(),
        }
    }

    /// The same feed, telling everything again `every` so often, in real time.
    #[must_use]
    pub const fn telling_again(mut self, every: Duration) -> Self {
        self.tell_again_every = every;
        self
    }

    /// Publishes what has changed since the last step; returns how many levels that were.
    ///
    /// # Errors
    /// See [`FeedError`].
    pub async fn step(&mut self) -> Result<usize, FeedError> {
        let told = self.known();
        nats::probe(&self.client).map_err(FeedError::Away)?;
        if told.is_empty() {
            self.ensure_streams().await?;
        }
        let supply = self.app.supply_everywhere();
        let changed = changes(&supply, &told);
        let span = publish_span(changed.len());
        self.publish(&changed, supply.as_of)
            .instrument(span)
            .await?;
        let count = changed.len();
        self.told = told;
        self.told.extend(changed);
        Ok(count)
    }

    /// Steps until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut outage = Outage::of("the supply feed");
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let Some(outcome) = shutdown.run_until_cancelled(self.step()).await else {
                return;
            };
            outage.note(&outcome);
        }
    }

    /// What need not be told, taken out: a step that fails leaves nothing known.
    fn known(&mut self) -> HashMap<Zone, f64> {
        let told = std::mem::take(&mut self.told);
        let now = Instant::now();
        if !told.is_empty() && now < self.tell_again_at {
            return told;
        }
        self.tell_again_at = now + self.tell_again_every;
        HashMap::new()
    }

    async fn ensure_streams(&self) -> Result<(), FeedError> {
        for stream in [SUPPLY, TRIPS] {
            nats::ensure_stream(&self.jetstream, stream.name, stream.subjects).await?;
        }
        Ok(())
    }

    /// The watermark leaves only after every level was acknowledged: it vouches for them.
    async fn publish(&self, levels: &[(Zone, f64)], as_of: MarketTime) -> Result<(), FeedError> {
        let mut acknowledgements = Vec::with_capacity(levels.len());
        for (zone, value) in levels {
            let level = SupplyLevel::new(
                *zone,
                Level {
                    value: *value,
                    as_of,
                },
            );
            let message = nats::message("surge.v1.SupplyLevel", level.encode_to_vec());
            let sent = self
                .jetstream
                .send_publish(subjects::supply_of(*zone), message)
                .await?;
            acknowledgements.push(sent.into_future());
        }
        try_join_all(acknowledgements).await?;

        let watermark = Watermark {
            as_of: Some(timestamp(as_of)),
        };
        let message = nats::message("surge.v1.Watermark", watermark.encode_to_vec());
        self.jetstream
            .send_publish(SUPPLY_WATERMARK, message)
            .await?
            .await?;
        Ok(())
    }
}

fn changes(supply: &Supply, told: &HashMap<Zone, f64>) -> Vec<(Zone, f64)> {
    let is_news = |(zone, value): &(Zone, f64)| {
        told.get(zone)
            .is_none_or(|known| (value - known).abs() > NOTICEABLE)
    };
    let levels = supply
        .zones
        .iter()
        .map(|level| (level.zone, level.predicted));
    levels.filter(is_news).collect()
}

fn publish_span(levels: usize) -> Span {
    info_span!(
        "NATS",
        otel.name = "publish surge.v1.supply",
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "publish",
        messaging.destination.name = "surge.v1.supply",
        messaging.batch.message_count = levels + 1,
    )
}

#[cfg(test)]
mod tests {
    use marketplace::zone::Position;

    use super::*;
    use crate::fleet::ZoneSupply;

    #[test]
    fn only_news_is_told() {
        let zone = Zone::at(Position::new(40.75, -73.98).unwrap());
        let supply = |predicted| Supply {
            as_of: MarketTime::from_millis(0),
            zones: vec![ZoneSupply {
                zone,
                predicted,
                idle: 0,
            }],
        };
        let told = HashMap::from([(zone, 3.0)]);
        assert!(changes(&supply(3.004), &told).is_empty());
        assert_eq!(changes(&supply(4.0), &told), [(zone, 4.0)]);
        assert_eq!(changes(&supply(3.0), &HashMap::new()), [(zone, 3.0)]);
    }
}
