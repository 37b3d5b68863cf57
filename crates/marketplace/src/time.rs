//! Market time.
//!
//! Replays run faster than life, so no code here asks a system clock: every function takes `now` in
//! market time. What the city's clocks show at an instant is the matter of [`new_york`].
//!
//! [`new_york`]: crate::new_york

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// An instant of the market clock: milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MarketTime(i64);

impl MarketTime {
    /// The instant `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// How old something that describes this instant is at `now`. Zero if it lies in the future,
    /// which small clock differences between processes make possible; see
    /// [`is_ahead_of`](Self::is_ahead_of) for large ones.
    pub fn age_of(self, now: MarketTime) -> Duration {
        Duration::from_millis(u64::try_from(now.0.saturating_sub(self.0)).unwrap_or(0))
    }

    /// Whether this time is further ahead of `now` than the clocks of one market differ. A level
    /// with such a time comes from another market, such as a replay of another evening, and says
    /// nothing about this one.
    pub fn is_ahead_of(self, now: MarketTime) -> bool {
        self > now + CLOCK_DIFFERENCE
    }

    /// The index of the window of the calendar grid that holds this instant. Windows are `[start,
    /// end)` and counted from the Unix epoch, as `date_bin` counts them in SQL.
    pub fn window_index(self, window: Duration) -> i64 {
        self.0.div_euclid(millis_of(window).max(1))
    }

    /// The start of the window with this index.
    pub fn of_window(index: i64, window: Duration) -> Self {
        Self(index.saturating_mul(millis_of(window)))
    }
}

impl Add<Duration> for MarketTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis_of(duration)))
    }
}

impl Sub<Duration> for MarketTime {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis_of(duration)))
    }
}

/// RFC 3339 in UTC with milliseconds, for example `2014-04-04T20:00:00.000Z`; a time outside the
/// years 1970 to 9999 belongs to no market and is shown as a number.
impl fmt::Display for MarketTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if (0..END_OF_YEARS_MILLIS).contains(&self.0) {
            let since_epoch = Duration::from_millis(self.0.unsigned_abs());
            humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch).fmt(f)
        } else {
            write!(f, "{} ms", self.0)
        }
    }
}

/// The begin of the year 10000, which RFC 3339 cannot write.
const END_OF_YEARS_MILLIS: i64 = 253_402_300_800_000;

impl FromStr for MarketTime {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        DateTime::parse_from_rfc3339(text)
            .map(|instant| Self(instant.timestamp_millis()))
            .map_err(|_| TimeError::NotRfc3339(text.to_owned()))
    }
}

impl From<DateTime<Utc>> for MarketTime {
    fn from(instant: DateTime<Utc>) -> Self {
        Self(instant.timestamp_millis())
    }
}

/// For JSON and PostgreSQL. A time that no calendar can hold becomes the epoch; a market clock
/// never shows one.
impl From<MarketTime> for DateTime<Utc> {
    fn from(time: MarketTime) -> Self {
        DateTime::from_timestamp_millis(time.0).unwrap_or_default()
    }
}

/// A text that names no instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Not RFC 3339.
    #[error("`{0}` is not an RFC 3339 time such as 2014-04-04T16:00:00-04:00")]
    NotRfc3339(String),
    /// Not a civil time.
    #[error("`{0}` is not a New York time such as 2014-04-04T17:00")]
    NotCivil(String),
    /// In the hour that the clocks leave out when summer time begins.
    #[error("New York's clocks never showed {0}: in that night they went from 01:59 to 03:00")]
    Skipped(String),
}

/// Most that the clocks of two processes in one market may differ, in market time: at sixty times
/// the speed of life, one real second.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);

/// One week in milliseconds.
pub(crate) const WEEK_MILLIS: i64 = 7 * DAY_MILLIS;

/// One day in milliseconds.
pub(crate) const DAY_MILLIS: i64 = 24 * 3600 * 1000;

/// Whole milliseconds of a duration, at most `i64::MAX`.
pub(crate) fn millis_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE_MINUTES: Duration = Duration::from_secs(300);

    fn at(text: &str) -> MarketTime {
        text.parse().unwrap()
    }

    #[test]
    fn time_reads_and_writes_rfc_3339() {
        assert_eq!(
            at("2014-04-04T16:00:00-04:00").to_string(),
            "2014-04-04T20:00:00.000Z"
        );
        let last = MarketTime::from_millis(END_OF_YEARS_MILLIS - 1);
        assert_eq!(last.to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(at(&last.to_string()), last);
        assert_eq!(MarketTime(i64::MAX).to_string(), format!("{} ms", i64::MAX));
        assert_eq!(MarketTime(-1).to_string(), "-1 ms");
        let refused = "yesterday".parse::<MarketTime>().unwrap_err();
        assert!(refused.to_string().contains("RFC 3339"));
    }

    #[test]
    fn future_time_has_age_zero() {
        let then = MarketTime::from_millis(1_000);
        assert_eq!(
            then.age_of(MarketTime::from_millis(3_500)),
            Duration::from_millis(2_500)
        );
        assert_eq!(then.age_of(MarketTime::from_millis(500)), Duration::ZERO);
    }

    #[test]
    fn over_one_minute_ahead_is_another_market() {
        let now = at("2014-04-04T20:00:00Z");
        assert!(!at("2014-04-04T20:01:00Z").is_ahead_of(now));
        assert!(at("2014-04-04T20:01:00.001Z").is_ahead_of(now));
        assert!(!at("1970-01-01T00:00:00Z").is_ahead_of(now));
        assert!(!MarketTime(i64::MAX).is_ahead_of(MarketTime(i64::MAX)));
    }

    #[test]
    fn windows_include_start_but_not_end() {
        let start = MarketTime::of_window(-1, FIVE_MINUTES);
        assert_eq!(start.window_index(FIVE_MINUTES), -1);
        assert_eq!((start + FIVE_MINUTES).window_index(FIVE_MINUTES), 0);
    }
}
