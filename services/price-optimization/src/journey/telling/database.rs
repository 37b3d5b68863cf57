//! The stops of a quote that was made of rows: what the batch run left of itself, and the read.

use chrono::{DateTime, Utc};
use platform::{
    clock::RealTime,
    propagation::{self, TraceId},
};

use super::{Passed, RunFound, Teller};
use crate::{
    BATCH_IDENTITY, IDENTITY,
    dataflow::passage::RowRead,
    journey::{FeedName, Stage},
    store::BatchRun,
};

impl Teller<'_> {
    pub(super) fn by_rows(
        &self,
        feed: FeedName,
        observed_at: RealTime,
        read: &RowRead,
    ) -> Vec<Passed> {
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

fn left_in(traceparent: Option<&str>) -> Option<TraceId> {
    traceparent.and_then(propagation::trace_left_in)
}
