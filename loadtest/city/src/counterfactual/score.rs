//! The outcome of an offline run: for riders, for drivers, and for the price.

use marketplace::{FareSchedule, Multiplier, Trip};

use crate::rider::Rider;

/// The outcome of one run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Score {
    /// Riders who requested a quote.
    pub quotes: u64,
    /// Riders who requested a ride at the quoted price.
    pub requests: u64,
    /// Riders who found the price too high.
    pub priced_out: u64,
    /// Requests without a driver soon enough.
    pub unserved: u64,
    /// Completed rides.
    pub completed: u64,
    /// Sum of the waits of completed rides, minutes.
    wait_minutes: f64,
    /// The most that their riders would have paid, cents; for each at most five times the normal
    /// fare, because some accept any price.
    pub value_cents: f64,
    /// The sum of their fares, cents.
    pub revenue_cents: f64,
    /// Sum of the distances between quoted and right multiplier.
    multiplier_error: f64,
    /// Quotes wrong by 0.2 or more.
    off_by_0_2: u64,
    /// Sum of the quoted multipliers.
    multipliers: f64,
}

impl Score {
    /// Adds a quote: its multiplier and the right one.
    pub(super) fn quoted(&mut self, multiplier: Multiplier, oracle: Multiplier) {
        let tenths_off = multiplier.tenths().abs_diff(oracle.tenths());
        self.quotes += 1;
        self.multipliers += multiplier.as_f64();
        self.multiplier_error += f64::from(tenths_off) / 10.0;
        self.off_by_0_2 += u64::from(tenths_off >= 2);
    }

    /// Adds a completed ride.
    pub(super) fn driven(&mut self, rider: &Rider, multiplier: Multiplier, wait_minutes: f64) {
        const MOST_TIMES_THE_FARE: f64 = 5.0;
        let trip = Trip::estimate(rider.trip.pickup, rider.trip.dropoff);
        let fare = |multiplier| FareSchedule::default().fare_cents(&trip, multiplier) as f64;
        self.completed += 1;
        self.wait_minutes += wait_minutes;
        self.value_cents += rider.willingness.min(MOST_TIMES_THE_FARE) * fare(Multiplier::ONE);
        self.revenue_cents += fare(multiplier);
    }

    /// Mean wait of completed rides, minutes; `None` without any.
    pub fn mean_wait_minutes(&self) -> Option<f64> {
        mean(self.wait_minutes, self.completed)
    }

    /// Mean distance between quoted and right multiplier.
    pub fn mean_multiplier_error(&self) -> Option<f64> {
        mean(self.multiplier_error, self.quotes)
    }

    /// Share of the quotes that were wrong by 0.2 or more, 0 to 1.
    pub fn share_off_by_0_2(&self) -> Option<f64> {
        mean(self.off_by_0_2 as f64, self.quotes)
    }

    /// Mean quoted multiplier.
    pub fn mean_multiplier(&self) -> Option<f64> {
        mean(self.multipliers, self.quotes)
    }
}

fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}
