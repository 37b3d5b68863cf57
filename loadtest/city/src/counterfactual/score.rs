//! What came of an evening: for riders, for drivers, and for the price.

use marketplace::{FareSchedule, Multiplier, Trip};

use crate::rider::Rider;

/// The outcome of one evening.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Score {
    /// Riders who asked for a quote.
    pub quotes: u64,
    /// Riders who requested a ride at the price quoted.
    pub requests: u64,
    /// Riders who found the price too high.
    pub priced_out: u64,
    /// Requests without a driver soon enough.
    pub unserved: u64,
    /// Requests that were driven.
    pub completed: u64,
    /// Wait of the riders who were driven, all together, minutes.
    wait_minutes: f64,
    /// What they would have paid at most, cents; at most five times the normal fare each, because some would pay anything.
    pub value_cents: f64,
    /// What they paid, cents.
    pub revenue_cents: f64,
    /// Distance between the multiplier quoted and the right one, summed over the quotes.
    multiplier_error: f64,
    /// Quotes off by 0.2 or more.
    off_by_0_2: u64,
    /// Multipliers quoted, summed.
    multipliers: f64,
}

impl Score {
    /// A rider was quoted this multiplier, and that one was right.
    pub(super) fn quoted(&mut self, multiplier: Multiplier, oracle: Multiplier) {
        let tenths_off = multiplier.tenths().abs_diff(oracle.tenths());
        self.quotes += 1;
        self.multipliers += multiplier.as_f64();
        self.multiplier_error += f64::from(tenths_off) / 10.0;
        self.off_by_0_2 += u64::from(tenths_off >= 2);
    }

    /// A rider was driven who waited so many minutes.
    pub(super) fn driven(&mut self, rider: &Rider, multiplier: Multiplier, wait_minutes: f64) {
        const MOST_TIMES_THE_FARE: f64 = 5.0;
        let trip = Trip::estimate(rider.trip.pickup, rider.trip.dropoff);
        let fare = |multiplier| FareSchedule::default().fare_cents(&trip, multiplier) as f64;
        self.completed += 1;
        self.wait_minutes += wait_minutes;
        self.value_cents += rider.willingness.min(MOST_TIMES_THE_FARE) * fare(Multiplier::ONE);
        self.revenue_cents += fare(multiplier);
    }

    /// Mean wait of the riders who were driven, minutes; `None` if nobody was.
    pub fn mean_wait_minutes(&self) -> Option<f64> {
        mean(self.wait_minutes, self.completed)
    }

    /// Mean distance between the multiplier quoted and the right one.
    pub fn mean_multiplier_error(&self) -> Option<f64> {
        mean(self.multiplier_error, self.quotes)
    }

    /// Share of the quotes that were off by 0.2 or more, 0 to 1.
    pub fn share_off_by_0_2(&self) -> Option<f64> {
        mean(self.off_by_0_2 as f64, self.quotes)
    }

    /// Mean multiplier quoted.
    pub fn mean_multiplier(&self) -> Option<f64> {
        mean(self.multipliers, self.quotes)
    }
}

fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}
