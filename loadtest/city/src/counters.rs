//! What happened in the city so far, counted.

use std::collections::BTreeMap;

use marketplace::{MarketTime, Multiplier};
use serde::{Serialize, Serializer};

/// The state of a city at one moment. Every rider gets a quote or an error; who accepts it requests a ride; a request is
/// open until it is completed, unserved or lost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CityProgress {
    /// Market time of this count.
    #[serde(serialize_with = "rfc3339")]
    pub market_time: MarketTime,
    /// Riders who were quoted a price.
    pub quotes: u64,
    /// Riders who found the price too high.
    pub priced_out: u64,
    /// Ride requests that were taken.
    pub requests: u64,
    /// Requests to which a driver was sent.
    pub matched: u64,
    /// Requests without a driver, or whose rider did not want to wait so long.
    pub unserved: u64,
    /// Rides driven to their end.
    pub completed: u64,
    /// Rides that the city lost track of, because a service was away for too long.
    pub lost: u64,
    /// Requests under way.
    pub open: u64,
    /// The mean multiplier that riders were quoted; `None` before the first quote.
    pub mean_multiplier: Option<f64>,
    /// Failed calls, by what was asked and how it went, such as `quote: 503`.
    pub errors_by_kind: BTreeMap<String, u64>,
}

impl CityProgress {
    /// Failed calls of all kinds.
    pub fn errors(&self) -> u64 {
        self.errors_by_kind.values().sum()
    }
}

/// The counters behind [`CityProgress`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) quotes: u64,
    pub(crate) priced_out: u64,
    pub(crate) requests: u64,
    pub(crate) matched: u64,
    pub(crate) unserved: u64,
    pub(crate) completed: u64,
    pub(crate) lost: u64,
    tenths: u64,
    errors_by_kind: BTreeMap<String, u64>,
}

impl Counters {
    pub(crate) fn quoted(&mut self, multiplier: Multiplier) {
        self.quotes += 1;
        self.tenths += u64::from(multiplier.tenths());
    }

    pub(crate) fn failed(&mut self, kind: String) {
        *self.errors_by_kind.entry(kind).or_default() += 1;
    }

    pub(crate) fn progress(&self, market_time: MarketTime) -> CityProgress {
        let over = self.completed + self.unserved + self.lost;
        CityProgress {
            market_time,
            quotes: self.quotes,
            priced_out: self.priced_out,
            requests: self.requests,
            matched: self.matched,
            unserved: self.unserved,
            completed: self.completed,
            lost: self.lost,
            open: self.requests.saturating_sub(over),
            mean_multiplier: (self.quotes > 0)
                .then(|| self.tenths as f64 / 10.0 / self.quotes as f64),
            errors_by_kind: self.errors_by_kind.clone(),
        }
    }
}

fn rfc3339<S: Serializer>(time: &MarketTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_driven_nor_given_up_is_open() {
        let mut counters = Counters {
            requests: 5,
            unserved: 1,
            completed: 2,
            ..Counters::default()
        };
        counters.quoted(Multiplier::ONE);
        counters.quoted(Multiplier::rounded(1.5));
        counters.failed("quote: 503".into());
        let progress = counters.progress(MarketTime::from_millis(0));
        assert_eq!(progress.open, 2);
        assert_eq!(progress.mean_multiplier, Some(1.25));
        assert_eq!(progress.errors(), 1);
        let json = serde_json::to_value(&progress).unwrap();
        assert_eq!(json["market_time"], "1970-01-01T00:00:00.000Z");
    }
}
