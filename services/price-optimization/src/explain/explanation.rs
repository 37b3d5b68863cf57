//! Turns a recorded quote into its explanation. Each dataflow has its own stops (`stops.rs`); hops
//! and ages follow from their times in the same way for all.

use marketplace::{
    fare::Trip,
    surge::{self, Multiplier},
    time::MarketTime,
    view::ZoneLevels,
};
use platform::{clock::RealTime, propagation::TraceId};

use super::{
    CostliestHop, Explanation, Fare, FeedName, FeedPath, Formula, Journey, LevelDetail,
    MessageDetail, Stage, Stop, TraceLink, ZoneDetail, recent::QuoteRecord, stops::BareStop,
};
use crate::dataflow::provenance::{MessageMeta, Provenance};

impl Explanation<'_> {
    /// All of the explanation.
    pub(super) fn journey(&self) -> Journey {
        let QuoteRecord {
            quote,
            price,
            dataflow,
            epoch,
            market,
            priced_at,
            took,
            trace,
        } = self.record;
        let feeds = self.feeds();
        let zones = market.view.zones.iter().enumerate();
        Journey {
            quote_id: quote.quote_id,
            dataflow: *dataflow,
            epoch: *epoch,
            pickup: quote.pickup,
            dropoff: quote.dropoff,
            priced_at: (*priced_at).into(),
            priced_at_market_time: self.on_market_clock(*priced_at).into(),
            market_speed: self.clock.speed(),
            took_ms: took.as_secs_f64() * 1_000.0,
            data_age_ms: price
                .data_age
                .map(|age| self.clock.real_duration(age).as_secs_f64() * 1_000.0),
            degraded: price.degraded,
            costliest_hop: feeds.iter().find_map(costliest_hop),
            notes: self.notes(&feeds),
            feeds,
            zones: zones
                .map(|(index, levels)| self.zone(index, levels))
                .collect(),
            formula: self.formula(),
            fare: self.fare(),
            trace: trace.map(|trace| self.link(trace)),
        }
    }

    fn feeds(&self) -> Vec<FeedPath> {
        let oldest = FeedName::BOTH.map(|feed| (feed, self.oldest(feed)));
        let [(_, supply), (_, demand)] = oldest;
        let older = supply
            .zip(demand)
            .map(|((_, supply), (_, demand))| supply.min(demand));
        let path = |(feed, oldest): (FeedName, Option<(usize, MarketTime)>)| {
            let stops = oldest.map(|(zone, as_of)| self.timed_stops(feed, zone, as_of));
            let stops = stops.unwrap_or_default();
            FeedPath {
                feed,
                producer: feed.names().producer.to_owned(),
                age_ms: stops.last().and_then(|priced| priced.age_ms),
                is_older: oldest.is_some_and(|(_, as_of)| Some(as_of) == older),
                stops,
            }
        };
        oldest.map(path).into()
    }

    /// The index of the zone with the feed's oldest level, and the market time of that level;
    /// `None` while a level is missing.
    fn oldest(&self, feed: FeedName) -> Option<(usize, MarketTime)> {
        let zones = self.record.market.view.zones.iter().enumerate();
        let as_of = zones.map(|(zone, levels)| Some((zone, feed.level_of(levels)?.as_of)));
        let as_of: Option<Vec<_>> = as_of.collect();
        as_of?.into_iter().min_by_key(|(_, as_of)| *as_of)
    }

    /// The stops of `feed`, each with its hop and the age of the level.
    fn timed_stops(&self, feed: FeedName, zone: usize, as_of: MarketTime) -> Vec<Stop> {
        let observed_at = self.in_real_time(as_of);
        let mut previous = None;
        let timed = |stop: BareStop| {
            let is_observed = stop.stage >= Stage::Observed;
            Stop {
                hop_ms: previous.replace(stop.at).map(|at| stop.at.millis_since(at)),
                age_ms: is_observed.then(|| stop.at.millis_since(observed_at)),
                stage: stop.stage,
                at: stop.at.into(),
                market_time: self.on_market_clock(stop.at).into(),
                by: stop.by.to_owned(),
                how: stop.how,
                message: stop.message,
                run: stop.run,
                trace: stop.trace.map(|trace| self.link(trace)),
            }
        };
        self.stops(feed, zone, as_of)
            .into_iter()
            .map(timed)
            .collect()
    }

    fn zone(&self, index: usize, levels: &ZoneLevels) -> ZoneDetail {
        ZoneDetail {
            zone: levels.zone.to_string(),
            supply: self.level(FeedName::Supply, index, levels),
            demand: self.level(FeedName::Demand, index, levels),
        }
    }

    fn level(&self, feed: FeedName, index: usize, levels: &ZoneLevels) -> Option<LevelDetail> {
        let level = feed.level_of(levels)?;
        let observed_at = self.in_real_time(level.as_of);
        let message = match &self.record.market.provenance {
            Provenance::Events(events) => events.messages.levels.get(index),
            _ => None,
        };
        let message = message.and_then(|levels| levels.of(feed).as_ref());
        Some(LevelDetail {
            value: level.value,
            as_of: level.as_of.into(),
            observed_at: observed_at.into(),
            age_ms: self.record.priced_at.millis_since(observed_at),
            message: message.map(|meta| self.message(feed, feed.subject(levels.zone), meta)),
        })
    }

    pub(super) fn message(
        &self,
        feed: FeedName,
        subject: String,
        meta: &MessageMeta,
    ) -> MessageDetail {
        MessageDetail {
            stream: feed.names().stream.to_owned(),
            subject,
            sequence: meta.sequence,
            as_of: meta.as_of.into(),
            published_at: meta.published_at.into(),
            received_at: meta.received_at.into(),
            trace: meta.trace.map(|trace| self.link(trace)),
        }
    }

    fn formula(&self) -> Option<Formula> {
        let policy = &self.policy.surge;
        let workings = surge::workings(&self.record.market.view, policy)?;
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
        let QuoteRecord { quote, price, .. } = self.record;
        let trip = Trip::estimate(quote.pickup, quote.dropoff);
        let fares = &self.policy.fares;
        Fare {
            miles: trip.miles,
            minutes: trip.minutes,
            unsurged_cents: fares.fare_cents(&trip, Multiplier::ONE),
            surge_multiplier: price.multiplier.as_f64(),
            fare_cents: price.fare_cents,
            currency: "USD".to_owned(),
        }
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

    pub(super) fn in_real_time(&self, time: MarketTime) -> RealTime {
        self.clock.real_time_of(time.millis())
    }

    pub(super) fn on_market_clock(&self, time: RealTime) -> MarketTime {
        MarketTime::from_millis(self.clock.at_real_micros(time.micros()))
    }
}

fn costliest_hop(feed: &FeedPath) -> Option<CostliestHop> {
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
