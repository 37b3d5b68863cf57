//! What is missing from a journey, or out of the ordinary, and why.

use marketplace::time::MarketTime;

use super::{RunFound, Teller};
use crate::{
    dataflow::passage::Passage,
    journey::{FeedStory, Record},
};

impl Teller<'_> {
    pub(super) fn notes(&self, feeds: &[FeedStory]) -> Vec<String> {
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
}
