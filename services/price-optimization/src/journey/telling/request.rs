//! The stops of a quote that was made of two answers.

use platform::clock::RealTime;

use super::Passed;
use crate::{
    IDENTITY,
    dataflow::passage::{Call, Calls},
    journey::{FeedName, Stage},
};

pub(super) fn by_call(feed: FeedName, observed_at: RealTime, calls: &Calls) -> Vec<Passed> {
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
