//! Dataflow through events: both services publish levels and watermarks to JetStream; a subscriber keeps the newest of
//! each in memory, and the quote reads that. Nothing is waited for and nobody has to be there; while the broker or a
//! producer is away the data grows old, and says so.

use std::{
    sync::{Arc, Once, OnceLock, PoisonError, RwLock, atomic::Ordering},
    time::Duration,
};

use async_nats::jetstream::{
    Message,
    consumer::{DeliverPolicy, pull::OrderedConfig},
};
use async_trait::async_trait;
use futures::StreamExt;
use marketplace::{
    quote::Freshness,
    time::MarketTime,
    view::{Level, LevelBoard, MarketView, ZoneLevels},
    zone::{ServiceArea, Zone},
};
use platform::{
    background::WorkLoop,
    clock::{MarketClock, RealTime},
    nats::{self, Intake, Processed},
    propagation,
};
use prost::Message as _;
use surge_proto::{
    convert::{Malformed, market_time},
    subjects::{self, DEAD, DEMAND, DEMAND_WATERMARK, SUPPLY, SUPPLY_WATERMARK, Stream},
    v1::{DemandLevel, SupplyLevel, Watermark},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Span, warn};

use crate::{
    dataflow::{
        Dataflow,
        passage::{Deliveries, Delivery, Heard, Messages, Passage, Told},
    },
    error::DataflowError,
};

/// Producers speak several times a second. When one has been silent for this long, the subscription itself is doubted
/// and made anew.
const SILENCE: Duration = Duration::from_secs(10);

/// How often a silent subscription looks up whether its connection is still the same.
const LOOK_UP: Duration = Duration::from_millis(500);

/// How long to wait before subscribing again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(250);

/// What was heard last. A plain lock is right here: two writers a few hundred times a second, readers that look up one ring,
/// and nobody holds it across an await.
type State = Arc<RwLock<Memory>>;

#[derive(Debug)]
struct Memory {
    board: LevelBoard,
    area: Arc<ServiceArea>,
    /// The messages that the board is made of: the newest level of each zone of the area, and the newest watermarks.
    levels: Vec<Deliveries>,
    watermarks: Deliveries,
    /// What quotes are told of the ring around each zone: made for the first that asks, and shared by all until something new is
    /// heard of the ring. Between two watermarks these are thousands.
    rings: Vec<OnceLock<Known>>,
    /// Traces that published the newest watermarks.
    supply_traceparent: Option<String>,
    demand_traceparent: Option<String>,
    /// News from the future is told of once: the streams may hold all of another replay.
    told_of_future: Once,
}

/// A view of the market and the messages behind it.
type Known = (Arc<MarketView>, Arc<Messages>);

impl Memory {
    /// Has heard of nothing yet.
    fn of(area: Arc<ServiceArea>) -> Self {
        Self {
            board: LevelBoard::new(&area),
            levels: vec![Deliveries::default(); area.len()],
            rings: vec![OnceLock::new(); area.len()],
            area,
            watermarks: Deliveries::default(),
            supply_traceparent: None,
            demand_traceparent: None,
            told_of_future: Once::new(),
        }
    }

    fn told(&self, zones: &[Zone]) -> Told {
        let (view, messages) = match self.ring(zones) {
            Some(known) => known.get_or_init(|| self.known(zones)).clone(),
            None => self.known(zones),
        };
        let heard = Heard {
            read_at: RealTime::now(),
            messages,
        };
        Told {
            view,
            passage: Passage::Events(heard),
        }
    }

    /// Where it is kept what is known of `zones`; nowhere, if they are not the ring around their first.
    fn ring(&self, zones: &[Zone]) -> Option<&OnceLock<Known>> {
        let centre = *zones.first()?;
        let is_ring = self.area.k_ring(centre)?.zones() == zones;
        let index = self.area.index_of(centre)?;
        is_ring.then(|| &self.rings[index])
    }

    /// The levels of `zones` and the messages behind them, as they are here and now.
    fn known(&self, zones: &[Zone]) -> Known {
        let known_of = |zone: &Zone| match self.area.index_of(*zone) {
            Some(index) => (self.board.levels_at(index), self.levels[index]),
            None => (ZoneLevels::unknown(*zone), Deliveries::default()),
        };
        let (zones, levels) = zones.iter().map(known_of).unzip();
        let watermarks = self.watermarks;
        let messages = Messages { watermarks, levels };
        (Arc::new(MarketView { zones }), Arc::new(messages))
    }

    /// The messages that tell of a zone, of which something new was heard.
    fn renewed(&mut self, zone: Zone) -> Option<&mut Deliveries> {
        for neighbour in self.area.k_ring(zone)?.zones() {
            let index = self.area.index_of(*neighbour)?;
            self.rings[index].take();
        }
        let index = self.area.index_of(zone)?;
        self.levels.get_mut(index)
    }

    /// The messages that tell of all zones, of which something new was heard.
    fn all_renewed(&mut self) -> &mut Deliveries {
        self.rings.fill_with(OnceLock::new);
        &mut self.watermarks
    }
}

/// Reads local state.
#[derive(Debug)]
pub struct EventsDataflow {
    state: State,
}

impl EventsDataflow {
    /// Reads what `subscriber` hears.
    pub fn new(subscriber: &Subscriber) -> Self {
        Self {
            state: Arc::clone(&subscriber.state),
        }
    }

    /// What was heard of `zones`.
    pub(crate) fn heard(&self, zones: &[Zone]) -> MarketView {
        let heard = self.state.read().unwrap_or_else(PoisonError::into_inner);
        heard.board.view(zones)
    }

    /// Whether what was heard may still set a price at `now`.
    ///
    /// # Errors
    /// Says why not, for whoever reads `/readyz`.
    pub(crate) fn is_usable(&self, now: MarketTime, freshness: Freshness) -> Result<(), String> {
        let heard = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let as_of = heard.board.complete_as_of();
        let as_of = as_of.ok_or("supply and demand were not both heard of yet")?;
        if freshness.is_usable(as_of.age_of(now)) {
            return Ok(());
        }
        Err(format!("the older feed ended at {as_of}, market time"))
    }
}

#[async_trait]
impl Dataflow for EventsDataflow {
    async fn market_view(&self, zones: &[Zone]) -> Result<Told, DataflowError> {
        let heard = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let traceparents = [&heard.supply_traceparent, &heard.demand_traceparent];
        for traceparent in traceparents.into_iter().flatten() {
            propagation::link(&Span::current(), traceparent);
        }
        Ok(heard.told(zones))
    }
}

/// Follows the streams of supply and demand.
#[derive(Clone, Debug)]
pub struct Subscriber {
    nats: async_nats::Client,
    stream_replicas: usize,
    clock: MarketClock,
    state: State,
}

/// One message, parsed.
enum News {
    Supply(Zone, Level),
    Demand(Zone, Level),
    SupplyWatermark(MarketTime),
    DemandWatermark(MarketTime),
}

impl News {
    fn as_of(&self) -> MarketTime {
        match self {
            Self::Supply(_, level) | Self::Demand(_, level) => level.as_of,
            Self::SupplyWatermark(as_of) | Self::DemandWatermark(as_of) => *as_of,
        }
    }
}

impl Subscriber {
    /// A subscriber that has heard of nothing yet.
    pub fn new(nats: async_nats::Client, area: Arc<ServiceArea>, clock: MarketClock) -> Self {
        Self {
            nats,
            stream_replicas: 1,
            clock,
            state: Arc::new(RwLock::new(Memory::of(area))),
        }
    }

    /// The same, keeping dead letters on so many nodes of NATS.
    #[must_use]
    pub const fn on_nodes(mut self, stream_replicas: usize) -> Self {
        self.stream_replicas = stream_replicas;
        self
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

    /// Starts from the last message of every subject, then takes what comes, until the subscription breaks.
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
        let mut heard_at = Instant::now();
        while connection == self.connects() && heard_at.elapsed() < SILENCE {
            match tokio::time::timeout(LOOK_UP, messages.next()).await {
                Ok(Some(message)) => {
                    self.step(stream, &message?).await;
                    heard_at = Instant::now();
                }
                Ok(None) => break,
                Err(_nothing_said) => {}
            }
        }
        Ok(())
    }

    /// How often a connection was made. A subscription does not survive the broker's restart, whatever it looks like.
    fn connects(&self) -> u64 {
        self.nats.statistics().connects.load(Ordering::Relaxed)
    }

    /// Takes in one message. What cannot be read is put aside, and the stream goes on.
    pub async fn step(&self, stream: Stream, message: &Message) {
        let intake = Intake::of(stream.name, stream.subjects);
        intake.received(message);
        let started = Instant::now();
        let what = match parse(message) {
            Ok(news) => {
                self.apply(news, message);
                Processed::Done
            }
            Err(malformed) => {
                self.bury(stream, message, &malformed).await;
                Processed::Dead
            }
        };
        intake.processed(what, started.elapsed(), &Span::none());
    }

    /// Each feed with the age of its newest watermark, in real time; `None` if it was never heard of.
    pub(crate) fn feed_ages(&self) -> [(&'static str, Option<Duration>); 2] {
        let now = MarketTime::from_millis(self.clock.now_millis());
        let heard = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let age = |as_of: MarketTime| self.clock.real_duration(as_of.age_of(now));
        let [supply, demand] = heard.board.watermarks();
        [("supply", supply.map(age)), ("demand", demand.map(age))]
    }

    fn apply(&self, news: News, message: &Message) {
        let received_at = RealTime::now();
        let now = MarketTime::from_millis(self.clock.at_real_micros(received_at.micros()));
        let delivery = delivery(message, news.as_of(), received_at);
        let mut heard = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if news.as_of().is_ahead_of(now) {
            heard
                .told_of_future
                .call_once(|| tell_of_future(&news, message));
        }
        match news {
            News::Supply(zone, level) => {
                if heard.board.apply_supply(zone, level, now)
                    && let Some(known) = heard.renewed(zone)
                {
                    known.supply = delivery;
                }
            }
            News::Demand(zone, level) => {
                if heard.board.apply_demand(zone, level, now)
                    && let Some(known) = heard.renewed(zone)
                {
                    known.demand = delivery;
                }
            }
            News::SupplyWatermark(as_of) => {
                if heard.board.supply_watermark(as_of, now) {
                    heard.all_renewed().supply = delivery;
                    heard.supply_traceparent = process_span(SUPPLY, message);
                }
            }
            News::DemandWatermark(as_of) => {
                if heard.board.demand_watermark(as_of, now) {
                    heard.all_renewed().demand = delivery;
                    heard.demand_traceparent = process_span(DEMAND, message);
                }
            }
        }
    }

    async fn bury(&self, stream: Stream, message: &Message, malformed: &Malformed) {
        warn!(
            messaging.destination.name = %message.subject,
            error.message = %malformed,
            "put a message of stream {} aside: {malformed}", stream.name
        );
        let jetstream = nats::jetstream(self.nats.clone());
        let subject = subjects::dead_letter(stream);
        if let Err(error) = nats::bury(
            &jetstream,
            DEAD.name,
            DEAD.subjects,
            self.stream_replicas,
            subject,
            message,
            malformed,
        )
        .await
        {
            warn!(error.message = %error, "and it could not be kept: {error}");
        }
    }
}

fn tell_of_future(news: &News, message: &Message) {
    let as_of = news.as_of();
    warn!(
        messaging.destination.name = %message.subject,
        "news as of {as_of}, in the future, is not taken in: was it published by a replay with another clock?"
    );
}

/// What to remember of a message for the journeys of the quotes that are made of it; none if JetStream did not number it.
fn delivery(message: &Message, as_of: MarketTime, received_at: RealTime) -> Option<Delivery> {
    let info = message.info().ok()?;
    let published_micros = info.published.unix_timestamp_nanos() / 1_000;
    let traceparent = message.headers.as_ref();
    let traceparent = traceparent.and_then(|headers| headers.get(propagation::TRACEPARENT));
    Some(Delivery {
        as_of,
        sequence: info.stream_sequence,
        published_at: RealTime::from_micros(i64::try_from(published_micros).unwrap_or_default()),
        received_at,
        trace: traceparent.and_then(|value| propagation::trace_left_in(value.as_str())),
    })
}

/// A watermark ends a round of levels: one span for the round, linked to the trace that published it.
fn process_span(stream: Stream, message: &Message) -> Option<String> {
    let producer = nats::producer_of(message)?;
    Intake::of(stream.name, stream.subjects).process_span(message);
    Some(producer.to_owned())
}

fn parse(message: &Message) -> Result<News, Malformed> {
    let payload = &message.payload;
    match message.subject.as_str() {
        SUPPLY_WATERMARK => watermark(payload).map(News::SupplyWatermark),
        DEMAND_WATERMARK => watermark(payload).map(News::DemandWatermark),
        subject if subject.starts_with("surge.v1.supply.zone.") => {
            let level = SupplyLevel::decode(payload.as_ref()).map_err(undecodable)?;
            let (zone, level) = (&level).try_into()?;
            Ok(News::Supply(zone, level))
        }
        subject if subject.starts_with("surge.v1.demand.zone.") => {
            let level = DemandLevel::decode(payload.as_ref()).map_err(undecodable)?;
            let (zone, level) = (&level).try_into()?;
            Ok(News::Demand(zone, level))
        }
        _ => Err(Malformed::new(
            "subject",
            "is not one that this service knows",
        )),
    }
}

fn watermark(payload: &[u8]) -> Result<MarketTime, Malformed> {
    let watermark = Watermark::decode(payload).map_err(undecodable)?;
    market_time("as_of", watermark.as_of)
}

fn undecodable(error: prost::DecodeError) -> Malformed {
    Malformed::new("payload", error)
}

#[cfg(test)]
mod tests {
    use marketplace::zone::Bounds;

    use super::*;

    const NOW: MarketTime = MarketTime::from_millis(60_000);

    fn memory() -> Memory {
        Memory::of(Arc::new(ServiceArea::new(Bounds::NEW_YORK)))
    }

    fn hear(memory: &mut Memory, zone: Zone, value: f64) {
        let level = Level { value, as_of: NOW };
        assert!(memory.board.apply_supply(zone, level, NOW));
        assert!(memory.renewed(zone).is_some());
    }

    fn ring_of(memory: &Memory, index: usize) -> Vec<Zone> {
        let centre = memory.area.zones()[index];
        memory.area.k_ring(centre).unwrap().zones().to_vec()
    }

    #[test]
    fn quotes_share_what_they_are_told_until_something_is_heard_of_their_ring() {
        let mut memory = memory();
        let ring = ring_of(&memory, 40);
        let all = memory.area.zones().to_vec();
        let elsewhere = all.iter().find(|zone| !ring.contains(zone)).unwrap();
        let first = memory.told(&ring).view;
        hear(&mut memory, *elsewhere, 3.0);
        assert!(Arc::ptr_eq(&first, &memory.told(&ring).view));

        for (index, zone) in ring.iter().enumerate() {
            let value = index as f64;
            hear(&mut memory, *zone, value);
            let level = memory.told(&ring).view.zones[index].supply.unwrap();
            assert_eq!(level.value, value, "{zone}");
        }
        let before = memory.told(&ring).view;
        memory.all_renewed();
        assert!(!Arc::ptr_eq(&before, &memory.told(&ring).view));
    }

    #[test]
    fn what_is_told_of_other_zones_than_a_ring_is_as_new() {
        let mut memory = memory();
        let all = memory.area.zones().to_vec();
        for value in [1.0, 2.0] {
            hear(&mut memory, all[3], value);
            let told = memory.told(&all);
            assert_eq!(told.view.zones[3].supply.unwrap().value, value);
            assert_eq!(told.view.zones.len(), all.len());
        }
        let nowhere = Zone::at(marketplace::zone::Position::new(42.36, -71.06).unwrap());
        assert_eq!(
            memory.told(&[nowhere]).view.zones,
            [ZoneLevels::unknown(nowhere)]
        );
    }
}
