//! Fares in whole cents, and the estimate of a trip before it is driven.
//!
//! Money is integer cents and rounded exactly once, at the end. The fare itself uses only
//! additions, multiplications and one rounding, which IEEE 754 defines to the last bit: the same
//! trip costs the same cents on every machine.

use serde::{Deserialize, Serialize};

use crate::surge::{DETOUR, Multiplier};
use crate::zone::Position;

/// Length and duration of a trip.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trip {
    /// Miles driven.
    pub miles: f64,
    /// Minutes from pickup to drop-off.
    pub minutes: f64,
}

impl Trip {
    /// The trip to expect between two points: the straight line times the detour of a street grid,
    /// and the duration that New York taxi trips of March 2019 took for that length, `6.92 *
    /// miles^0.716` minutes.
    pub fn estimate(pickup: Position, dropoff: Position) -> Self {
        let miles = pickup.miles_to(dropoff) * DETOUR;
        Self {
            miles,
            minutes: 6.92 * miles.powf(0.716),
        }
    }
}

/// Minutes until a car at `from` picks up a rider at `to`: the detour at 10 mph, and half a minute
/// to stop and meet.
pub fn pickup_minutes(from: Position, to: Position) -> f64 {
    const PICKUP_MPH: f64 = 10.0;
    const MEETING_MINUTES: f64 = 0.5;
    from.miles_to(to) * DETOUR / PICKUP_MPH * 60.0 + MEETING_MINUTES
}

/// The versioned set of fares, in cents. The default is uberX in New York from July 2014 to January
/// 2016.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FareSchedule {
    /// Cents for getting in.
    pub base_cents: u32,
    /// Cents per mile.
    pub per_mile_cents: u32,
    /// Cents per minute.
    pub per_minute_cents: u32,
    /// The least fare in cents, before surge.
    pub minimum_cents: u32,
}

impl FareSchedule {
    /// The fare in cents: multiplier times the schedule's fare or its minimum, rounded once, halves
    /// up.
    pub fn fare_cents(&self, trip: &Trip, multiplier: Multiplier) -> i64 {
        let metered = f64::from(self.base_cents)
            + f64::from(self.per_mile_cents) * trip.miles
            + f64::from(self.per_minute_cents) * trip.minutes;
        let unsurged = metered.max(f64::from(self.minimum_cents));
        (unsurged * f64::from(multiplier.tenths()) / 10.0).round() as i64
    }
}

impl Default for FareSchedule {
    fn default() -> Self {
        Self {
            base_cents: 300,
            per_mile_cents: 215,
            per_minute_cents: 40,
            minimum_cents: 800,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fare(tenths: u16) -> i64 {
        let trip = Trip {
            miles: 2.5,
            minutes: 14.0,
        };
        FareSchedule::default().fare_cents(&trip, Multiplier::from_tenths(tenths).unwrap())
    }

    #[test]
    fn schedule_gives_the_worked_fares() {
        let worked = [(10, 1398), (13, 1817), (14, 1957), (17, 2376), (22, 3075)];
        for (tenths, cents) in worked {
            assert_eq!(fare(tenths), cents);
        }
    }

    #[test]
    fn short_trip_costs_the_surged_minimum() {
        let trip = Trip {
            miles: 0.2,
            minutes: 1.0,
        };
        let surged = Multiplier::from_tenths(15).unwrap();
        assert_eq!(FareSchedule::default().fare_cents(&trip, surged), 1200);
    }

    #[test]
    fn trip_downtown_costs_about_22_dollars() {
        let grand_central = Position::new(40.7527, -73.9772).unwrap();
        let wall_street = Position::new(40.7060, -74.0088).unwrap();
        let trip = Trip::estimate(grand_central, wall_street);
        let cents = FareSchedule::default().fare_cents(&trip, Multiplier::ONE);
        assert!((1900..2500).contains(&cents), "{trip:?} costs {cents}");
    }

    #[test]
    fn pickup_one_mile_away_takes_time() {
        let here = Position::new(40.75, -73.97).unwrap();
        let mile_north = Position::new(40.75 + 1.0 / DETOUR / 69.09, -73.97).unwrap();
        assert!((pickup_minutes(mile_north, here) - 6.5).abs() < 0.01);
        assert_eq!(pickup_minutes(here, here), 0.5);
    }
}
