//! Notes: what is missing from an explanation or unusual, and why.

use chrono::{DateTime, Utc};

use super::{Explanation, FeedPath, RunRecord};
use crate::dataflow::provenance::Provenance;

/// A batch run is overdue this many periods, and a second, after the run before.
const OVERDUE_AFTER_PERIODS: f64 = 2.0;

impl Explanation<'_> {
    pub(super) fn notes(&self, feeds: &[FeedPath]) -> Vec<String> {
        let mut notes: Vec<String> = feeds
            .iter()
            .filter_map(|feed| self.note_on_feed(feed))
            .collect();
        notes.extend(self.note_on_run());
        notes.extend(self.note_on_price());
        notes
    }

    fn note_on_feed(&self, path: &FeedPath) -> Option<String> {
        let producer = &path.producer;
        if path.stops.is_empty() {
            let zones = &self.record.market.view.zones;
            let unknown = zones
                .iter()
                .filter(|zone| path.feed.level_of(zone).is_none());
            let (unknown, all) = (unknown.count(), zones.len());
            return Some(format!(
                "for {unknown} of {all} zones no level of {producer} has reached this replica"
            ));
        }
        let is_events = matches!(self.record.market.provenance, Provenance::Events(_));
        let has_message = path.stops.iter().any(|stop| stop.message.is_some());
        (is_events && !has_message)
            .then(|| format!("the message of {producer} came without a number from JetStream"))
    }

    fn note_on_run(&self) -> Option<String> {
        match &self.run {
            RunRecord::NotNeeded => None,
            RunRecord::Found(number, (run, previous_read_at)) => {
                let period = (run.read_at - (*previous_read_at)?).as_seconds_f64();
                let priced_at = DateTime::<Utc>::from(self.record.priced_at);
                let waited = (priced_at - run.read_at).as_seconds_f64();
                let is_overdue = waited > OVERDUE_AFTER_PERIODS * period + 1.0;
                is_overdue.then(|| {
                    format!(
                        "batch run {number} came {period:.1} s after the one before, and none \
                         has come in the {waited:.1} s since: the batch job may be down"
                    )
                })
            }
            RunRecord::Unnumbered => {
                Some("the rows do not say which batch run wrote them".to_owned())
            }
            RunRecord::Deleted(run) => Some(format!(
                "batch run {run}, which wrote the rows, is so long ago that its record was deleted"
            )),
            RunRecord::Unavailable(run) => Some(format!(
                "PostgreSQL is away, and only it knows when batch run {run} read and wrote"
            )),
        }
    }

    fn note_on_price(&self) -> Option<String> {
        let price = &self.record.price;
        let now = self.on_market_clock(self.record.priced_at);
        match price.data_age {
            _ if !price.degraded => None,
            None if self.record.market.view.is_ahead_of(now) => Some(
                "a level is from the future: its producer uses another market clock".to_owned(),
            ),
            None => None,
            Some(_) => Some(format!(
                "data older than {} min of market time does not set a price",
                self.policy.freshness.stale.as_secs() / 60
            )),
        }
    }
}
