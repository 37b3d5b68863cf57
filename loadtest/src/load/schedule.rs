//! When requests are meant to leave: fixed before the first one does, and independent of every answer.

use std::time::Duration;

/// Arrivals at a constant rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    rate_per_second: u32,
    arrivals: u64,
}

impl Schedule {
    /// `rate_per_second` arrivals a second for as long as `length`; a rate of zero counts as one.
    pub fn constant(rate_per_second: u32, length: Duration) -> Self {
        let rate_per_second = rate_per_second.max(1);
        let arrivals = length.as_nanos() * u128::from(rate_per_second) / NANOS_PER_SECOND;
        Self {
            rate_per_second,
            arrivals: u64::try_from(arrivals).unwrap_or(u64::MAX),
        }
    }

    /// How many requests are meant to leave in all.
    pub const fn arrivals(self) -> u64 {
        self.arrivals
    }

    /// When arrival number `index` is meant to leave, after the start.
    pub fn offset(self, index: u64) -> Duration {
        let nanos = u128::from(index) * NANOS_PER_SECOND / u128::from(self.rate_per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// From the start to the moment at which one arrival more would leave.
    pub fn length(self) -> Duration {
        self.offset(self.arrivals)
    }
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_evenly_spread_and_do_not_drift() {
        let schedule = Schedule::constant(300, Duration::from_secs(60));
        assert_eq!(schedule.arrivals(), 18_000);
        assert_eq!(schedule.offset(0), Duration::ZERO);
        assert_eq!(schedule.offset(300), Duration::from_secs(1));
        assert_eq!(schedule.length(), Duration::from_secs(60));
    }
}
