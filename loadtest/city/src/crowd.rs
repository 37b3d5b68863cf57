//! A crowd: many riders who leave one place at about the same time, as after a concert.

use std::time::Duration;

use marketplace::{MarketTime, Position};

use super::replay::{MINUTE, ReplayedPickup};

/// Riders who come on top of the record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crowd {
    /// Where they get in.
    pub place: Position,
    /// When the first of them appears.
    pub starts_at: MarketTime,
    /// How many there are.
    pub riders: u32,
    /// They appear evenly within this time, in market time.
    pub within: Duration,
}

impl Crowd {
    /// Its riders, as if they were on record: each with the minute in which they appear.
    pub(super) fn replayed(&self) -> impl Iterator<Item = ReplayedPickup> {
        let Self { place, riders, .. } = *self;
        // A second is drawn for each rider within their minute, so the last minute begins one before the end.
        let span = self.within.saturating_sub(MINUTE);
        let starts_at = self.starts_at;
        (0..riders).map(move |rider| ReplayedPickup {
            number: OFF_THE_RECORD | u64::from(rider),
            minute: starts_at + span.mul_f64(f64::from(rider) / f64::from(riders)),
            position: place,
        })
    }
}

/// No pickup on record has a number as high.
const OFF_THE_RECORD: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_comes_evenly_and_within_its_time() {
        let crowd = Crowd {
            place: Position::new(40.7505, -73.9934).unwrap(),
            starts_at: MarketTime::from_millis(0),
            riders: 300,
            within: MINUTE * 21,
        };
        let replayed: Vec<ReplayedPickup> = crowd.replayed().collect();
        assert_eq!(replayed.len(), 300);
        let last = replayed.last().unwrap().minute + MINUTE;
        assert!(last <= MarketTime::from_millis(0) + MINUTE * 21);
        let early = replayed
            .iter()
            .filter(|replayed| replayed.minute < crowd.starts_at + MINUTE * 10);
        assert_eq!(early.count(), 150);
    }
}
