//! The counts of a city.

use std::collections::BTreeMap;

use marketplace::{MarketTime, Multiplier};
use serde::{Deserialize, Serialize};

use crate::rfc3339;

/// The counts of a city at one moment. Every rider receives a quote or an error; a rider who
/// accepts the price requests a ride; a request is open until it is completed, unserved or lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CityProgress {
    /// Market time of these counts.
    #[serde(with = "rfc3339")]
    pub market_time: MarketTime,
    /// Riders who received a quote.
    pub quotes: u64,
    /// Riders who found the price too high.
    pub priced_out: u64,
    /// Ride requests that the service accepted.
    pub requests: u64,
    /// Requests with a driver.
    pub matched: u64,
    /// Requests without a driver, or whose rider did not accept the wait.
    pub unserved: u64,
    /// Rides that reached their dropoff.
    pub completed: u64,
    /// Rides that the city lost, because a service was away for too long.
    pub lost: u64,
    /// Open requests.
    pub open: u64,
    /// The mean multiplier of all quotes; `None` before the first quote.
    pub mean_multiplier: Option<f64>,
    /// Failed calls by call and failure, such as `quote: 503`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_requests_are_open() {
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
