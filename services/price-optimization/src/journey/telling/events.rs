//! The stops of a quote that was made of messages.

use marketplace::time::MarketTime;
use platform::clock::RealTime;

use super::{Passed, Teller};
use crate::{
    IDENTITY,
    dataflow::passage::{Delivery, Heard},
    journey::{FeedName, Stage},
};

impl Teller<'_> {
    pub(super) fn by_messages(
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
}
