//! The messages of the streams SUPPLY and DEMAND. What is parsed here is not checked again; what
//! cannot be parsed becomes a dead letter.

use async_nats::jetstream::Message;
use marketplace::{time::MarketTime, view::Level, zone::Zone};
use platform::{clock::RealTime, nats, propagation};
use prost::Message as _;
use surge_proto::{
    convert::{Malformed, market_time},
    subjects::{self, DEAD, DEMAND_WATERMARK, SUPPLY_WATERMARK, Stream},
    v1::{DemandLevel, SupplyLevel, Watermark},
};
use tracing::warn;

use crate::dataflow::provenance::{
    FeedName::{self, Demand, Supply},
    MessageMeta,
};

/// One message of a feed.
#[derive(Clone, Debug)]
pub(super) struct FeedMessage {
    pub(super) feed: FeedName,
    pub(super) content: Content,
    /// `None` where JetStream gave the message no number.
    pub(super) meta: Option<MessageMeta>,
    /// The trace that published it.
    pub(super) traceparent: Option<String>,
}

/// What a message of a feed says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// The level of one zone.
    Level(Zone, Level),
    /// All zones of the feed are complete as of this market time.
    Watermark(MarketTime),
}

impl FeedMessage {
    /// Parses a message by its subject.
    ///
    /// # Errors
    /// When the subject is unknown, or the payload is not what the subject promises.
    pub(super) fn parse(message: &Message, received_at: RealTime) -> Result<Self, Malformed> {
        let payload = message.payload.as_ref();
        let (feed, content) = match message.subject.as_str() {
            SUPPLY_WATERMARK => (Supply, watermark(payload)?),
            DEMAND_WATERMARK => (Demand, watermark(payload)?),
            subject if subject.starts_with("surge.v1.supply.zone.") => {
                let level = SupplyLevel::decode(payload).map_err(undecodable)?;
                (Supply, level_of((&level).try_into()?))
            }
            subject if subject.starts_with("surge.v1.demand.zone.") => {
                let level = DemandLevel::decode(payload).map_err(undecodable)?;
                (Demand, level_of((&level).try_into()?))
            }
            _ => {
                let problem = "is not one that this service knows";
                return Err(Malformed::new("subject", problem));
            }
        };
        Ok(Self {
            feed,
            content,
            meta: meta(message, content.as_of(), received_at),
            traceparent: nats::producer_of(message).map(str::to_owned),
        })
    }
}

impl Content {
    /// Market time that the message describes.
    pub(super) const fn as_of(&self) -> MarketTime {
        match self {
            Self::Level(_, level) => level.as_of,
            Self::Watermark(as_of) => *as_of,
        }
    }
}

fn level_of((zone, level): (Zone, Level)) -> Content {
    Content::Level(zone, level)
}

fn watermark(payload: &[u8]) -> Result<Content, Malformed> {
    let watermark = Watermark::decode(payload).map_err(undecodable)?;
    market_time("as_of", watermark.as_of).map(Content::Watermark)
}

fn undecodable(error: prost::DecodeError) -> Malformed {
    Malformed::new("payload", error)
}

fn meta(message: &Message, as_of: MarketTime, received_at: RealTime) -> Option<MessageMeta> {
    let info = message.info().ok()?;
    let published_micros = info.published.unix_timestamp_nanos() / 1_000;
    Some(MessageMeta {
        as_of,
        sequence: info.stream_sequence,
        published_at: RealTime::from_micros(i64::try_from(published_micros).unwrap_or_default()),
        received_at,
        trace: nats::producer_of(message).and_then(propagation::trace_left_in),
    })
}

/// Moves a message that cannot be parsed to the dead letters, with the reason.
pub(super) async fn dead_letter(
    nats: &async_nats::Client,
    stream_replicas: usize,
    stream: Stream,
    message: &Message,
    malformed: &Malformed,
) {
    warn!(
        messaging.destination.name = %message.subject,
        error.message = %malformed,
        "moved a message of stream {} to the dead letters: {malformed}", stream.name
    );
    let jetstream = nats::jetstream(nats.clone());
    let kept = nats::dead_letter(
        &jetstream,
        DEAD.name,
        DEAD.subjects,
        stream_replicas,
        subjects::dead_letter(stream),
        message,
        malformed,
    );
    if let Err(error) = kept.await {
        warn!(error.message = %error, "the dead letter could not be kept: {error}");
    }
}
