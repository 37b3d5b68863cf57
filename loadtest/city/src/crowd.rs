//! A crowd: many riders who leave one place at about the same time, as after a concert.

use std::time::Duration;

use marketplace::{MarketTime, Position};

use super::replay::{MINUTE, ReplayedPickup};

/// Riders in addition to the record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crowd {
    /// The pickup of all of them.
    pub place: Position,
    /// When the first of them appears, in market time.
    pub starts_at: MarketTime,
    /// How many there are.
    pub riders: u32,
    /// They appear evenly within this time, in market time.
    pub within: Duration,
}

impl Crowd {
    /// Its riders, as if they were on record. `number` is that of the crowd within its city.
    pub(super) fn pickups(&self, number: u32) -> impl Iterator<Item = ReplayedPickup> {
        let Self { place, riders, .. } = *self;
        // Each rider appears at a random second of a minute, so the last minute begins one before
        // the end.
        let span = self.within.saturating_sub(MINUTE);
        let starts_at = self.starts_at;
        (0..riders).map(move |rider| ReplayedPickup {
            number: NOT_ON_RECORD | u64::from(number) << 32 | u64::from(rider),
            minute: starts_at + span.mul_f64(f64::from(rider) / f64::from(riders)),
            position: place,
        })
    }
}

/// No pickup on record has such a high number.
const NOT_ON_RECORD: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crowd_appears_evenly_within_its_time() {
        let crowd = Crowd {
            place: Position::new(40.7505, -73.9934).unwrap(),
            starts_at: MarketTime::from_millis(0),
            riders: 300,
            within: MINUTE * 21,
        };
        let replayed: Vec<ReplayedPickup> = crowd.pickups(0).collect();
        assert_eq!(replayed.len(), 300);
        let last = replayed.last().unwrap().minute + MINUTE;
        assert!(last <= MarketTime::from_millis(0) + MINUTE * 21);
        let early = replayed
            .iter()
            .filter(|replayed| replayed.minute < crowd.starts_at + MINUTE * 10);
        assert_eq!(early.count(), 150);
    }
}
