//! The stops of one feed on its path to the price, for each dataflow.
//!
//! ```text
//! database   observed ─► published ─► received ─► written ─► read ─► priced
//! request    asked ─► observed ─► received ─► priced
//! events     observed ─► published ─► received ─► read ─► priced
//! ```

use marketplace::time::MarketTime;
use platform::{
    clock::RealTime,
    propagation::{self, TraceId},
};

use super::{Explanation, FeedName, MessageDetail, RunRecord, Stage};
use crate::{
    BATCH_IDENTITY, IDENTITY,
    dataflow::provenance::{
        CallTimes, DatabaseProvenance, EventProvenance, MessageMeta, PerFeed, Provenance,
    },
    store::BatchRun,
};

/// A stop before its hop and its age are computed.
pub(super) struct BareStop {
    pub(super) stage: Stage,
    pub(super) at: RealTime,
    pub(super) by: &'static str,
    pub(super) how: String,
    pub(super) message: Option<MessageDetail>,
    pub(super) run: Option<i64>,
    pub(super) trace: Option<TraceId>,
}

impl BareStop {
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

impl Explanation<'_> {
    /// The stops of `feed`, whose oldest level is that of the zone at index `zone`.
    pub(super) fn stops(&self, feed: FeedName, zone: usize, as_of: MarketTime) -> Vec<BareStop> {
        let observed_at = self.in_real_time(as_of);
        let observed = |how: &str| {
            let producer = feed.names().producer;
            BareStop::new(Stage::Observed, observed_at, producer, how)
        };
        let mut stops = match &self.record.market.provenance {
            Provenance::Database(read) => {
                let mut stops = vec![observed("the market, as its tables describe it")];
                stops.extend(self.through_rows(feed, read));
                stops
            }
            Provenance::Request(calls) => {
                let [asked, received] = through_call(feed, calls);
                vec![
                    asked,
                    observed("counted in memory, for this call"),
                    received,
                ]
            }
            Provenance::Events(events) => {
                let mut stops = vec![observed("all levels, counted in memory")];
                stops.extend(self.through_messages(feed, events, zone, as_of));
                stops
            }
        };
        let how = format!("both feeds, at {}", self.record.price.multiplier);
        let priced_at = self.record.priced_at;
        stops.push(BareStop::new(Stage::Priced, priced_at, IDENTITY.name, how));
        stops
    }

    fn through_rows(&self, feed: FeedName, read: &DatabaseProvenance) -> Vec<BareStop> {
        let mut stops = Vec::new();
        let how = format!(
            "one SELECT for {} zones, {:.1} ms",
            self.record.market.view.zones.len(),
            read.read_at.millis_since(read.asked_at)
        );
        let mut selected = BareStop::new(Stage::Read, read.read_at, IDENTITY.name, how);
        match &self.run {
            RunRecord::Found(number, (run, _)) => stops.extend(through_batch(feed, *number, run)),
            _ => selected.trace = trace_of(read.traceparent.as_deref()),
        }
        stops.push(selected);
        stops
    }

    fn through_messages(
        &self,
        feed: FeedName,
        events: &EventProvenance,
        zone: usize,
        as_of: MarketTime,
    ) -> Vec<BareStop> {
        let mut stops = Vec::new();
        if let Some((subject, meta)) = self.carrier(feed, events, zone, as_of) {
            let message = self.message(feed, subject, &meta);
            let how = format!("message {} of stream {}", message.sequence, message.stream);
            stops.push(BareStop {
                message: Some(message),
                trace: meta.trace,
                ..BareStop::new(
                    Stage::Published,
                    meta.published_at,
                    feed.names().producer,
                    how,
                )
            });
            let how = "its subscriber, into memory";
            stops.push(BareStop::new(
                Stage::Received,
                meta.received_at,
                IDENTITY.name,
                how,
            ));
        }
        let how = format!(
            "{} zones, looked up in memory",
            events.messages.levels.len()
        );
        stops.push(BareStop::new(
            Stage::Read,
            events.read_at,
            IDENTITY.name,
            how,
        ));
        stops
    }

    /// The message that sets the age of the level: the watermark, or the level itself where it is
    /// newer.
    fn carrier(
        &self,
        feed: FeedName,
        events: &EventProvenance,
        zone: usize,
        as_of: MarketTime,
    ) -> Option<(String, MessageMeta)> {
        let watermark = *events.messages.watermarks.of(feed);
        let watermark = watermark.map(|meta| (feed.names().watermark.to_owned(), meta));
        let level = *events.messages.levels.get(zone)?.of(feed);
        let subject = feed.subject(self.record.market.view.zones[zone].zone);
        let level = level.map(|meta| (subject, meta));
        let mut carriers = [watermark, level].into_iter().flatten();
        carriers.find(|(_, meta)| meta.as_of == as_of)
    }
}

/// From the producer's commit to the rows that quotes read.
fn through_batch(feed: FeedName, number: i64, run: &BatchRun) -> Vec<BareStop> {
    let (written_at, traceparent) = match feed {
        FeedName::Supply => (run.supply_written_at, &run.supply_traceparent),
        FeedName::Demand => (run.demand_written_at, &run.demand_traceparent),
    };
    let names = feed.names();
    let published = written_at.map(|written_at| {
        let how = format!("behind the view {}", names.view);
        BareStop {
            trace: trace_of(traceparent.as_deref()),
            ..BareStop::new(Stage::Published, written_at.into(), names.producer, how)
        }
    });
    let by_batch = |stage, at: RealTime, how: String| BareStop {
        run: Some(number),
        trace: trace_of(run.traceparent.as_deref()),
        ..BareStop::new(stage, at, BATCH_IDENTITY.name, how)
    };
    let reading = (run.read_at - run.started_at).as_seconds_f64() * 1_000.0;
    let received = format!("run {number}, from the views, in {reading:.1} ms");
    let written = format!("run {number}, to pricing.zone_market");
    let by_batch = [
        by_batch(Stage::Received, run.read_at.into(), received),
        by_batch(Stage::Written, run.written_at.into(), written),
    ];
    published.into_iter().chain(by_batch).collect()
}

fn through_call(feed: FeedName, calls: &PerFeed<CallTimes>) -> [BareStop; 2] {
    let times = calls.of(feed);
    let took = times.answered_at.millis_since(times.asked_at);
    let how = format!("the answer, {took:.1} ms after the call");
    let (name, method) = (IDENTITY.name, feed.names().method);
    [
        BareStop::new(Stage::Asked, times.asked_at, name, method),
        BareStop::new(Stage::Received, times.answered_at, name, how),
    ]
}

fn trace_of(traceparent: Option<&str>) -> Option<TraceId> {
    traceparent.and_then(propagation::trace_left_in)
}
