//! Puts a journey into words, when somebody asks. Each mode has its own stops; ages and hops follow from their moments alike.

mod database;
mod events;
mod feed;
mod notes;
mod request;

use chrono::{DateTime, Utc};
use marketplace::{
    fare::Trip,
    quote::PricingPolicy,
    surge::{self, Multiplier},
    time::MarketTime,
    view::ZoneLevels,
    zone::Zone,
};
use platform::{
    clock::{MarketClock, RealTime},
    propagation::TraceId,
};

use super::{
    CostliestHop, Fare, FeedName, FeedStory, Formula, Journey, LevelStory, MessageStory, Record,
    Stage, Stop, TraceLink, ZoneStory,
};
use crate::{
    IDENTITY,
    dataflow::passage::{Delivery, Passage},
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
            Passage::Request(calls) => request::by_call(feed, observed_at, calls),
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

fn date(time: MarketTime) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time.millis()).unwrap_or_default()
}
