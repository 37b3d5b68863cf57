//! The replay of recorded pickups, in market time.
//!
//! Each pickup stands for one rider who would ride at the normal price. If the market clock shows a
//! time that the record does not cover, the replay moves the record by whole weeks of civil time:
//! weekday and time of day stay true, also in winter, and after its end the record starts again at
//! the right hour. In the two nights in which the clocks change, the replay follows them: it leaves
//! the lost hour out and plays the repeated hour twice, as a demand profile does.

use std::time::Duration;

use marketplace::backtest::Pickup;
use marketplace::{MarketTime, Position, new_york};

/// One market minute: the resolution of the record.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A record of pickups, and the position of the replay.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Sorted by civil time, in milliseconds; never empty.
    pickups: Vec<(i64, Position)>,
    /// The next pickup.
    next: usize,
    /// The number of weeks by which the record is moved.
    weeks: i64,
    /// Everything before this is played, and the offset from UTC that the clocks have here.
    played: MarketTime,
    utc_offset_millis: i64,
}

/// A pickup whose time has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ReplayedPickup {
    /// Its number in the record; repetitions of the record count on.
    pub(crate) number: u64,
    /// The minute of the pickup, in market time.
    pub(crate) minute: MarketTime,
    /// The place.
    pub(crate) position: Position,
}

impl Replay {
    /// A replay that starts at `now`; `None` if there is no pickup to play.
    pub(crate) fn starting(pickups: &[Pickup], now: MarketTime) -> Option<Self> {
        let mut pickups: Vec<_> = pickups
            .iter()
            .map(|pickup| (new_york::civil_millis(pickup.at), pickup.position))
            .collect();
        pickups.sort_by_key(|(at, _)| *at);
        let mut replay = Self {
            next: 0,
            weeks: 0,
            pickups,
            played: now,
            utc_offset_millis: 0,
        };
        replay.seek(now)?;
        Some(replay)
    }

    /// The next pickups, up to the market minute `until`.
    pub(crate) fn play(&mut self, until: MarketTime) -> Vec<ReplayedPickup> {
        let mut replayed = Vec::new();
        while self.played < until {
            // The clocks change at a full hour.
            let hour = MarketTime::of_window(self.played.window_index(HOUR) + 1, HOUR);
            self.play_within_hour(hour.min(until), &mut replayed);
        }
        replayed
    }

    fn play_within_hour(&mut self, until: MarketTime, replayed: &mut Vec<ReplayedPickup>) {
        while self.next < self.pickups.len() && self.next_at() < until {
            replayed.push(self.current());
            self.next += 1;
        }
        let is_over = self.next == self.pickups.len();
        if is_over || new_york::utc_offset_millis(until) != self.utc_offset_millis {
            self.seek(until);
        }
        self.played = until;
    }

    /// Skips the pickups before `now`: a suspended city does not catch up on hours.
    pub(crate) fn skip_to(&mut self, now: MarketTime) {
        if self.next_at() < now {
            self.seek(now);
        }
    }

    /// The places of all pickups: what drivers know of the city.
    pub(crate) fn places(&self) -> Vec<Position> {
        self.pickups.iter().map(|(_, position)| *position).collect()
    }

    /// Finds the first pickup at or after `now`, in the record as it is, or moved by whole weeks to
    /// the earliest week that fits.
    fn seek(&mut self, now: MarketTime) -> Option<()> {
        let (first, last) = (self.pickups.first()?.0, self.pickups.last()?.0);
        let civil = new_york::civil_millis(now);
        let is_covered = (first..last + MINUTE_MILLIS).contains(&civil);
        self.weeks = if is_covered {
            0
        } else {
            (civil - first).div_euclid(WEEK_MILLIS)
        };
        let recorded = civil - self.weeks * WEEK_MILLIS;
        self.next = self.pickups.partition_point(|(at, _)| *at < recorded);
        if self.next == self.pickups.len() {
            // The record ends before this hour of the week; the next one is a week after its start.
            self.weeks += 1;
            self.next = 0;
        }
        self.utc_offset_millis = new_york::utc_offset_millis(now);
        self.played = now;
        Some(())
    }

    fn next_at(&self) -> MarketTime {
        let civil = self.pickups[self.next].0 + self.weeks * WEEK_MILLIS;
        MarketTime::from_millis(civil - self.utc_offset_millis)
    }

    fn current(&self) -> ReplayedPickup {
        // A pickup that is replayed again, in another week or as the clocks repeat an hour, is
        // another rider.
        let minute = self.next_at();
        let week = self.weeks.unsigned_abs() << 32;
        let is_repeated = new_york::days_before(minute, 0) != minute;
        ReplayedPickup {
            number: week | u64::from(is_repeated) << 31 | self.next as u64,
            minute,
            position: self.pickups[self.next].1,
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE_MILLIS: i64 = 60 * 1000;
const WEEK_MILLIS: i64 = 7 * 24 * 3600 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> MarketTime {
        text.parse().unwrap()
    }

    /// Pickups at these times; each has another longitude.
    fn record(times: &[&str]) -> Vec<Pickup> {
        let pickup = |(index, time): (usize, &&str)| Pickup {
            at: at(time),
            position: Position::new(40.7, -74.0 + index as f64 / 100.0).unwrap(),
            base: "B02512".to_owned(),
        };
        times.iter().enumerate().map(pickup).collect()
    }

    fn minutes(replayed: &[ReplayedPickup]) -> Vec<String> {
        replayed
            .iter()
            .map(|replayed| replayed.minute.to_string())
            .collect()
    }

    const EVENING: [&str; 3] = [
        "2014-04-04T16:00:00-04:00",
        "2014-04-04T17:30:00-04:00",
        "2014-04-04T23:59:00-04:00",
    ];

    #[test]
    fn recorded_times_play_unchanged() {
        let mut replay =
            Replay::starting(&record(&EVENING), at("2014-04-04T17:00:00-04:00")).unwrap();
        assert_eq!(replay.weeks, 0);
        assert_eq!(replay.play(at("2014-04-04T17:30:00-04:00")), []);
        let replayed = replay.play(at("2014-04-04T17:31:00-04:00"));
        assert_eq!(minutes(&replayed), ["2014-04-04T21:30:00.000Z"]);
    }

    #[test]
    fn winter_friday_plays_the_same_hours() {
        let friday = at("2026-11-20T17:00:00-05:00");
        let mut replay = Replay::starting(&record(&EVENING), friday).unwrap();
        let replayed = replay.play(at("2026-11-20T18:00:00-05:00"));
        assert_eq!(minutes(&replayed), ["2026-11-20T22:30:00.000Z"]);
    }

    #[test]
    fn replay_follows_clocks_that_change() {
        let sunday = [
            "2014-04-06T01:30:00-04:00",
            "2014-04-06T02:30:00-04:00",
            "2014-04-06T03:30:00-04:00",
        ];
        let played = |from, until| {
            let mut replay = Replay::starting(&record(&sunday), at(from)).unwrap();
            replay.play(at(until))
        };
        let march = played("2014-03-09T00:00:00-05:00", "2014-03-09T12:00:00-04:00");
        assert_eq!(
            minutes(&march),
            ["2014-03-09T06:30:00.000Z", "2014-03-09T07:30:00.000Z"]
        );
        let november = played("2014-11-02T00:00:00-04:00", "2014-11-02T12:00:00-05:00");
        assert_eq!(
            minutes(&november),
            [5, 6, 7, 8].map(|hour| format!("2014-11-02T0{hour}:30:00.000Z"))
        );
        assert_ne!(november[0].number, november[1].number);
    }

    #[test]
    fn record_restarts_a_week_after_its_start() {
        let midnight = at("2014-04-05T00:00:00-04:00");
        let mut replay =
            Replay::starting(&record(&EVENING), at("2014-04-04T23:00:00-04:00")).unwrap();
        let last = replay.play(midnight);
        assert_eq!(last.len(), 1);
        assert_eq!(replay.play(at("2014-04-11T16:00:00-04:00")), []);
        let again = replay.play(at("2014-04-11T16:01:00-04:00"));
        assert_eq!(minutes(&again), ["2014-04-11T20:00:00.000Z"]);
        assert_ne!(
            again[0].number, 0,
            "a rider of another week is another rider"
        );
    }

    #[test]
    fn skipped_time_is_not_replayed() {
        let mut replay =
            Replay::starting(&record(&EVENING), at("2014-04-04T16:00:00-04:00")).unwrap();
        replay.skip_to(at("2014-04-04T18:00:00-04:00"));
        let replayed = replay.play(at("2014-04-05T00:00:00-04:00"));
        assert_eq!(minutes(&replayed), ["2014-04-05T03:59:00.000Z"]);
    }

    #[test]
    fn empty_record_has_no_replay() {
        assert!(Replay::starting(&[], at(EVENING[0])).is_none());
    }
}
