//! Puts a journey into words, when somebody asks. Each mode has its own stops; ages and hops follow from their moments alike.

use chrono::{DateTime, Utc};
use marketplace::{
    fare::Trip,
    quote::PricingPolicy,
    surge::{self, Multiplier},
    time::MarketTime,
    view::{Level, ZoneLevels},
    zone::Zone,
};
use platform::{
    clock::{MarketClock, RealTime},
    propagation::{self, TraceId},
};
use surge_proto::subjects::{self, DEMAND, DEMAND_WATERMARK, SUPPLY, SUPPLY_WATERMARK};

use super::{
    CostliestHop, Fare, FeedName, FeedStory, Formula, Journey, LevelStory, MessageStory, Record,
    Stage, Stop, TraceLink, ZoneStory,
};
use crate::{
    BATCH_IDENTITY, IDENTITY,
    dataflow::passage::{Call, Calls, Deliveries, Delivery, Heard, Passage, RowRead},
    store::BatchRun,
};

/// By which clock and which rules the quote was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Market<'a> {
    pub(crate) clock: &'a MarketClock,
    pub(crate) policy: &'a PricingPolicy,
}

/// What is known of the batch run that wrote the rows of a quote.
#[derive(Debug)]
pub(crate) enum RunFound {
    /// The quote was not made of rows.
    NotNeeded,
    /// All.
    Found(i64, BatchRun),
    /// The rows do not say which run it was.
    Unnumbered,
    /// Too many runs came after it.
    Forgotten(i64),
    /// PostgreSQL does not answer.
    Away(i64),
}

/// Tells the journey that `record` was taken down of.
pub(super) fn tell(
    record: &Record,
    run: RunFound,
    market: Market<'_>,
    traces_url: Option<&str>,
) -> Journey {
    let teller = Teller {
        record,
        run,
        market,
        traces_url,
    };
    teller.journey()
}

struct Teller<'a> {
    record: &'a Record,
    run: RunFound,
    market: Market<'a>,
    traces_url: Option<&'a str>,
}

/// A stop before its hop and its age are computed.
struct Passed {
    stage: Stage,
    at: RealTime,
    by: &'static str,
    how: String,
    message: Option<MessageStory>,
    run: Option<i64>,
    trace: Option<TraceId>,
}

impl Passed {
    fn new(stage: Stage, at: RealTime, by: &'static str, how: impl ToString) -> Self {
        Self {
            stage,
            at,
            by,
            how: how.to_string(),
            message: None,
            run: None,
            trace: None,
        }
    }
}

impl Teller<'_> {
    fn journey(&self) -> Journey {
        let Record {
            quote,
            price,
            dataflow,
            epoch,
            told,
            priced_at,
            took,
            trace,
        } = self.record;
        let feeds = self.feeds();
        Journey {
            quote_id: quote.quote_id,
            dataflow: *dataflow,
            epoch: *epoch,
            pickup: quote.pickup,
            dropoff: quote.dropoff,
            priced_at: (*priced_at).into(),
            priced_at_market_time: self.on_market_clock(*priced_at),
            market_speed: self.market.clock.speed(),
            took_ms: took.as_secs_f64() * 1_000.0,
            data_age_ms: price.data_age.map(|age| {
                let real = self.market.clock.real_duration(age);
                real.as_secs_f64() * 1_000.0
            }),
            degraded: price.degraded,
            costliest_hop: feeds.iter().find_map(costliest_hop),
            notes: self.notes(&feeds),
            feeds,
            zones: told
                .view
                .zones
                .iter()
                .enumerate()
                .map(|at| self.zone(at))
                .collect(),
            formula: self.formula(),
            fare: self.fare(),
            trace: trace.map(|trace| self.link(trace)),
        }
    }

    fn feeds(&self) -> Vec<FeedStory> {
        let oldest = [FeedName::Supply, FeedName::Demand].map(|feed| (feed, self.oldest(feed)));
        let [(_, supply), (_, demand)] = oldest;
        let older = supply
            .zip(demand)
            .map(|((_, supply), (_, demand))| supply.min(demand));
        let story = |(feed, oldest): (FeedName, Option<(usize, MarketTime)>)| {
            let stops = oldest.map_or_else(Vec::new, |(zone, as_of)| self.stops(feed, zone, as_of));
            FeedStory {
                feed,
                producer: feed.producer().to_owned(),
                age_ms: stops.last().and_then(|priced| priced.age_ms),
                is_older: oldest.is_some_and(|(_, as_of)| Some(as_of) == older),
                stops,
            }
        };
        oldest.map(story).into()
    }

    /// The zone of the feed's oldest level, and the instant that it describes; none while a level is missing.
    fn oldest(&self, feed: FeedName) -> Option<(usize, MarketTime)> {
        let zones = self.record.told.view.zones.iter().enumerate();
        let as_of = zones.map(|(zone, levels)| Some((zone, feed.of(levels)?.as_of)));
        let as_of: Option<Vec<_>> = as_of.collect();
        as_of?.into_iter().min_by_key(|(_, as_of)| *as_of)
    }

    fn stops(&self, feed: FeedName, zone: usize, as_of: MarketTime) -> Vec<Stop> {
        let observed_at = self.in_real_time(as_of);
        let mut passed = match &self.record.told.passage {
            Passage::Database(read) => self.by_rows(feed, observed_at, read),
            Passage::Request(calls) => by_call(feed, observed_at, calls),
            Passage::Events(heard) => self.by_messages(feed, observed_at, heard, zone, as_of),
        };
        passed.push(Passed::new(
            Stage::Priced,
            self.record.priced_at,
            IDENTITY.name,
            format!("both feeds, at {}", self.record.price.multiplier),
        ));
        let mut before = None;
        let stop = |passed: Passed| {
            let hop_ms = before.map(|before| passed.at.millis_since(before));
            before = Some(passed.at);
            Stop {
                stage: passed.stage,
                at: passed.at.into(),
                market_time: self.on_market_clock(passed.at),
                by: passed.by.to_owned(),
                how: passed.how,
                hop_ms,
                age_ms: (passed.stage >= Stage::Observed)
                    .then(|| passed.at.millis_since(observed_at)),
                message: passed.message,
                run: passed.run,
                trace: passed.trace.map(|trace| self.link(trace)),
            }
        };
        passed.into_iter().map(stop).collect()
    }

    fn by_rows(&self, feed: FeedName, observed_at: RealTime, read: &RowRead) -> Vec<Passed> {
        let observed = "the market, as its tables describe it";
        let mut passed = vec![Passed::new(
            Stage::Observed,
            observed_at,
            feed.producer(),
            observed,
        )];
        let selected = format!(
            "one SELECT for {} zones, {:.1} ms",
            self.record.told.view.zones.len(),
            read.read_at.millis_since(read.asked_at)
        );
        let mut taken_up = Passed::new(Stage::Read, read.read_at, IDENTITY.name, selected);
        match &self.run {
            RunFound::Found(number, run) => passed.extend(through_batch(feed, *number, run)),
            _ => taken_up.trace = left_in(read.traceparent.as_deref()),
        }
        passed.push(taken_up);
        passed
    }

    fn by_messages(
        &self,
        feed: FeedName,
        observed_at: RealTime,
        heard: &Heard,
        zone: usize,
        as_of: MarketTime,
    ) -> Vec<Passed> {
        let observed = Passed::new(
            Stage::Observed,
            observed_at,
            feed.producer(),
            "all levels, counted in memory",
        );
        let read = format!("{} zones, looked up in memory", heard.messages.levels.len());
        let read = Passed::new(Stage::Read, heard.read_at, IDENTITY.name, read);
        let carried = self.carrier(feed, heard, zone, as_of);
        let carried = carried.map(|(subject, delivery)| {
            let message = self.message(feed, subject, &delivery);
            let how = format!("message {} of stream {}", message.sequence, message.stream);
            let mut published = Passed::new(
                Stage::Published,
                delivery.published_at,
                feed.producer(),
                how,
            );
            published.message = Some(message);
            published.trace = delivery.trace;
            let taken_in = "its subscriber, into memory";
            let received = Passed::new(
                Stage::Received,
                delivery.received_at,
                IDENTITY.name,
                taken_in,
            );
            [published, received]
        });
        let carried = carried.into_iter().flatten();
        [observed]
            .into_iter()
            .chain(carried)
            .chain([read])
            .collect()
    }

    /// The message that says how old the level is: the watermark, or the level itself where it is newer.
    fn carrier(
        &self,
        feed: FeedName,
        heard: &Heard,
        zone: usize,
        as_of: MarketTime,
    ) -> Option<(String, Delivery)> {
        let watermark = feed.delivered(&heard.messages.watermarks);
        let watermark = watermark.map(|delivery| (feed.watermark().to_owned(), delivery));
        let level = heard
            .messages
            .levels
            .get(zone)
            .and_then(|level| feed.delivered(level));
        let level = level.map(|delivery| (feed.subject(self.zone_at(zone)), delivery));
        [watermark, level]
            .into_iter()
            .flatten()
            .find(|(_, delivery)| delivery.as_of == as_of)
    }

    fn zone(&self, (index, levels): (usize, &ZoneLevels)) -> ZoneStory {
        ZoneStory {
            zone: levels.zone.to_string(),
            supply: self.level(FeedName::Supply, index, levels),
            demand: self.level(FeedName::Demand, index, levels),
        }
    }

    fn level(&self, feed: FeedName, index: usize, levels: &ZoneLevels) -> Option<LevelStory> {
        let level = feed.of(levels)?;
        let observed_at = self.in_real_time(level.as_of);
        let message = match &self.record.told.passage {
            Passage::Events(heard) => heard.messages.levels.get(index),
            Passage::Database(_) | Passage::Request(_) => None,
        };
        let message = message.and_then(|deliveries| feed.delivered(deliveries));
        Some(LevelStory {
            value: level.value,
            as_of: date(level.as_of),
            observed_at: observed_at.into(),
            age_ms: self.record.priced_at.millis_since(observed_at),
            message: message
                .map(|delivery| self.message(feed, feed.subject(levels.zone), &delivery)),
        })
    }

    fn message(&self, feed: FeedName, subject: String, delivery: &Delivery) -> MessageStory {
        MessageStory {
            stream: feed.stream().to_owned(),
            subject,
            sequence: delivery.sequence,
            as_of: date(delivery.as_of),
            published_at: delivery.published_at.into(),
            received_at: delivery.received_at.into(),
            trace: delivery.trace.map(|trace| self.link(trace)),
        }
    }

    fn formula(&self) -> Option<Formula> {
        let policy = &self.market.policy.surge;
        let workings = surge::workings(&self.record.told.view, policy)?;
        Some(Formula {
            smoothed_supply: workings.supply,
            smoothed_demand: workings.demand,
            neighbour_weight: policy.neighbour_weight,
            driver_reserve: surge::driver_reserve(workings.demand, policy),
            pseudo_drivers: policy.pseudo_drivers,
            load_ratio: workings.load_ratio,
            exponent: policy.exponent,
            cap: policy.effective_cap().as_f64(),
            target: workings.target,
        })
    }

    fn fare(&self) -> Fare {
        let Record { quote, price, .. } = self.record;
        let trip = Trip::estimate(quote.pickup, quote.dropoff);
        let fares = &self.market.policy.fares;
        Fare {
            miles: trip.miles,
            minutes: trip.minutes,
            unsurged_cents: fares.fare_cents(&trip, Multiplier::ONE),
            surge_multiplier: price.multiplier.as_f64(),
            fare_cents: price.fare_cents,
            currency: "USD".to_owned(),
        }
    }

    fn notes(&self, feeds: &[FeedStory]) -> Vec<String> {
        let zones = &self.record.told.view.zones;
        let missing = feeds.iter().filter(|story| story.stops.is_empty());
        let missing = missing.map(|story| {
            let unknown = zones.iter().filter(|zone| story.feed.of(zone).is_none());
            let (unknown, all) = (unknown.count(), zones.len());
            let producer = &story.producer;
            format!(
                "of {unknown} of {all} zones {producer} had told nothing that reached this replica"
            )
        });
        let lacks_message = |story: &&FeedStory| {
            matches!(self.record.told.passage, Passage::Events(_))
                && !story.stops.is_empty()
                && story.stops.iter().all(|stop| stop.message.is_none())
        };
        let unnumbered = feeds.iter().filter(lacks_message).map(|story| {
            let producer = &story.producer;
            format!("the message of {producer} came without a number from JetStream")
        });
        let mut notes: Vec<String> = missing.chain(unnumbered).collect();
        notes.extend(self.note_on_run());
        notes.extend(self.note_on_price());
        notes
    }

    fn note_on_run(&self) -> Option<String> {
        match &self.run {
            RunFound::NotNeeded | RunFound::Found(..) => None,
            RunFound::Unnumbered => {
                Some("the rows do not say which batch run wrote them".to_owned())
            }
            RunFound::Forgotten(run) => Some(format!(
                "batch run {run}, which wrote the rows, is so long ago that it was forgotten"
            )),
            RunFound::Away(run) => Some(format!(
                "PostgreSQL is away, and only it knows when batch run {run} read and wrote"
            )),
        }
    }

    fn note_on_price(&self) -> Option<String> {
        let Record { told, price, .. } = self.record;
        let now = MarketTime::from_millis(
            self.market
                .clock
                .at_real_micros(self.record.priced_at.micros()),
        );
        match price.data_age {
            _ if !price.degraded => None,
            None if told.view.is_ahead_of(now) => {
                Some("a level is from the future, as another market's clock tells it".to_owned())
            }
            None => None,
            Some(_) => Some(format!(
                "data older than {} min of market time sets no price",
                self.market.policy.freshness.stale.as_secs() / 60
            )),
        }
    }

    fn zone_at(&self, index: usize) -> Zone {
        self.record.told.view.zones[index].zone
    }

    fn link(&self, trace: TraceId) -> TraceLink {
        let trace_id = trace.to_string();
        TraceLink {
            url: self
                .traces_url
                .map(|base| format!("{base}/trace/{trace_id}")),
            trace_id,
        }
    }

    fn in_real_time(&self, time: MarketTime) -> RealTime {
        self.market.clock.real_time_of(time.millis())
    }

    fn on_market_clock(&self, time: RealTime) -> DateTime<Utc> {
        let millis = self.market.clock.at_real_micros(time.micros());
        date(MarketTime::from_millis(millis))
    }
}

/// From the producer's commit to the rows that quotes read.
fn through_batch(feed: FeedName, number: i64, run: &BatchRun) -> Vec<Passed> {
    let (written_at, traceparent) = match feed {
        FeedName::Supply => (run.supply_written_at, &run.supply_traceparent),
        FeedName::Demand => (run.demand_written_at, &run.demand_traceparent),
    };
    let published = written_at.map(|written_at| Passed {
        trace: left_in(traceparent.as_deref()),
        ..Passed::new(
            Stage::Published,
            written_at.into(),
            feed.producer(),
            format!("behind the view {}", feed.view()),
        )
    });
    let by_batch = |stage, at: DateTime<Utc>, how: String| Passed {
        run: Some(number),
        trace: left_in(run.traceparent.as_deref()),
        ..Passed::new(stage, at.into(), BATCH_IDENTITY.name, how)
    };
    let reading = (run.read_at - run.started_at).as_seconds_f64() * 1_000.0;
    let received = format!("run {number}, from the views, in {reading:.1} ms");
    let written = format!("run {number}, to pricing.zone_market");
    let by_batch = [
        by_batch(Stage::Received, run.read_at, received),
        by_batch(Stage::Written, run.written_at, written),
    ];
    published.into_iter().chain(by_batch).collect()
}

fn by_call(feed: FeedName, observed_at: RealTime, calls: &Calls) -> Vec<Passed> {
    let Call {
        asked_at,
        answered_at,
    } = match feed {
        FeedName::Supply => calls.supply,
        FeedName::Demand => calls.demand,
    };
    let took = answered_at.millis_since(asked_at);
    vec![
        Passed::new(Stage::Asked, asked_at, IDENTITY.name, feed.method()),
        Passed::new(
            Stage::Observed,
            observed_at,
            feed.producer(),
            "counted in memory, for this call",
        ),
        Passed::new(
            Stage::Received,
            answered_at,
            IDENTITY.name,
            format!("the answer, {took:.1} ms after the call"),
        ),
    ]
}

fn costliest_hop(feed: &FeedStory) -> Option<CostliestHop> {
    let age_ms = feed.age_ms.filter(|_| feed.is_older)?;
    let after_observed = feed.stops.windows(2).filter_map(|hop| match hop {
        [from, to] if from.stage >= Stage::Observed => Some((from.stage, to.stage, to.hop_ms?)),
        _ => None,
    });
    let longest = after_observed.max_by(|(.., one), (.., other)| one.total_cmp(other));
    longest.map(|(from, to, hop_ms)| CostliestHop {
        feed: feed.feed,
        from,
        to,
        hop_ms,
        share_of_age: if age_ms > 0.0 { hop_ms / age_ms } else { 0.0 },
    })
}

fn left_in(traceparent: Option<&str>) -> Option<TraceId> {
    traceparent.and_then(propagation::trace_left_in)
}

fn date(time: MarketTime) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time.millis()).unwrap_or_default()
}

impl FeedName {
    fn of(self, levels: &ZoneLevels) -> Option<Level> {
        match self {
            Self::Supply => levels.supply,
            Self::Demand => levels.demand,
        }
    }

    fn delivered(self, deliveries: &Deliveries) -> Option<Delivery> {
        match self {
            Self::Supply => deliveries.supply,
            Self::Demand => deliveries.demand,
        }
    }

    fn producer(self) -> &'static str {
        match self {
            Self::Supply => "driver-management",
            Self::Demand => "ride-management",
        }
    }

    fn view(self) -> &'static str {
        match self {
            Self::Supply => "driver.supply_by_zone",
            Self::Demand => "ride.demand_by_zone_window",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Supply => "surge.v1.SupplyService/GetSupply",
            Self::Demand => "surge.v1.DemandService/GetDemand",
        }
    }

    fn stream(self) -> &'static str {
        match self {
            Self::Supply => SUPPLY.name,
            Self::Demand => DEMAND.name,
        }
    }

    fn watermark(self) -> &'static str {
        match self {
            Self::Supply => SUPPLY_WATERMARK,
            Self::Demand => DEMAND_WATERMARK,
        }
    }

    fn subject(self, zone: Zone) -> String {
        match self {
            Self::Supply => subjects::supply_of(zone),
            Self::Demand => subjects::demand_of(zone),
        }
    }
}
