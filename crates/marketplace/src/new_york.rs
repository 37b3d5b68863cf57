//! The civil time of New York: what the city's clocks show, in summer and in winter.
//!
//! People live by these clocks, so demand repeats by them: a profile's *slot of the week* is the
//! civil time of an instant. Files of pickups are written in them, without an offset.
//!
//! Two nights of the year have no simple answer. The rules, for all of Surge:
//!
//! ```text
//! March     01:59 EST -> 03:00 EDT   02:30 is shown never: an instant cannot be read from it
//! November  01:59 EDT -> 01:00 EST   01:30 is shown twice: read as the first, in summer time
//! ```
//!
//! The other way, from an instant to civil time, has always one answer: the slots of the lost hour
//! are left out, and those of the repeated hour happen twice.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDateTime, NaiveTime, Offset, TimeZone};
use chrono_tz::{America::New_York, Tz};

use crate::time::{DAY_MILLIS, MarketTime, TimeError, WEEK_MILLIS, millis_of};

/// Reads a civil time such as `2014-04-04T17:00`, with or without seconds.
///
/// # Errors
/// Another text, or a time that New York's clocks never showed.
pub fn read(text: &str) -> Result<MarketTime, TimeError> {
    const FORMS: [&str; 2] = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"];
    let civil = FORMS
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
        .ok_or_else(|| TimeError::NotCivil(text.to_owned()))?;
    instant_of(civil).ok_or_else(|| TimeError::Skipped(text.to_owned()))
}

/// Reads an instant, RFC 3339 with its offset, or else a civil time.
///
/// # Errors
/// As [`read`].
pub fn read_any(text: &str) -> Result<MarketTime, TimeError> {
    text.parse().or_else(|_| read(text))
}

/// The civil time in a format of chrono, such as `%a %H:%M` for `Fri 17:42`.
pub fn show(time: MarketTime, form: &str) -> String {
    match DateTime::from_timestamp_millis(time.millis()) {
        Some(instant) => instant.with_timezone(&New_York).format(form).to_string(),
        None => time.to_string(),
    }
}

/// Which window of the week holds `time`; slot 0 starts on Monday at 00:00.
pub fn slot_of_week(time: MarketTime, window: Duration) -> usize {
    usize::try_from(millis_into_week(time) / millis_of(window).max(1))
        .expect("a remainder by a positive week is not negative")
}

/// Milliseconds since Monday 00:00, as the clocks count them.
pub fn millis_into_week(time: MarketTime) -> i64 {
    civil_millis(time)
        .saturating_sub(FIRST_MONDAY_MILLIS)
        .rem_euclid(WEEK_MILLIS)
}

/// The last midnight that is not after `time`.
pub fn start_of_day(time: MarketTime) -> MarketTime {
    at_time_of_day(time, Duration::ZERO)
}

/// The instant of the day of `time` at which the clocks show this time since midnight; in the hour
/// that they skip, the instant this long after midnight.
pub fn at_time_of_day(time: MarketTime, since_midnight: Duration) -> MarketTime {
    let midnight = civil(time).map(|civil| civil.date().and_time(NaiveTime::MIN));
    let instant = |civil: NaiveDateTime| {
        instant_of(civil.checked_add_signed(chrono::TimeDelta::from_std(since_midnight).ok()?)?)
    };
    midnight
        .and_then(|midnight| {
            instant(midnight).or_else(|| Some(instant_of(midnight)? + since_midnight))
        })
        .unwrap_or(time)
}

/// The same civil time some days earlier; in the hour that the clocks skip, that many times 24
/// hours earlier.
pub fn days_before(time: MarketTime, days: u32) -> MarketTime {
    civil(time)
        .and_then(|civil| instant_of(civil.checked_sub_days(Days::new(days.into()))?))
        .unwrap_or(time - Duration::from_millis(DAY_MILLIS as u64) * days)
}

/// The civil time as milliseconds: those since the epoch if it were the time in UTC.
pub fn civil_millis(time: MarketTime) -> i64 {
    time.millis().saturating_add(utc_offset_millis(time))
}

/// Milliseconds to add to UTC for civil time; negative, for New York is west of Greenwich.
pub fn utc_offset_millis(time: MarketTime) -> i64 {
    let utc = DateTime::from_timestamp_millis(time.millis()).unwrap_or_default();
    let offset = New_York.offset_from_utc_datetime(&utc.naive_utc()).fix();
    i64::from(offset.local_minus_utc()) * 1000
}

/// Monday 00:00 of a week in which the clocks do not change: where a walk through the slots of the
/// week starts.
pub(crate) fn a_monday() -> MarketTime {
    let midnight_utc = MarketTime::from_millis(FIRST_MONDAY_MILLIS);
    MarketTime::from_millis(FIRST_MONDAY_MILLIS - utc_offset_millis(midnight_utc))
}

fn civil(time: MarketTime) -> Option<NaiveDateTime> {
    let instant = DateTime::from_timestamp_millis(time.millis())?;
    Some(instant.with_timezone(&New_York).naive_local())
}

fn instant_of(civil: NaiveDateTime) -> Option<MarketTime> {
    let first: DateTime<Tz> = civil.and_local_timezone(New_York).earliest()?;
    Some(MarketTime::from_millis(first.timestamp_millis()))
}

/// The Unix epoch was a Thursday; the first Monday came four days later.
const FIRST_MONDAY_MILLIS: i64 = 4 * DAY_MILLIS;

#[cfg(test)]
mod tests {
    use super::*;

    const QUARTER: Duration = Duration::from_secs(15 * 60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn at(text: &str) -> MarketTime {
        text.parse().unwrap()
    }

    fn shown(time: MarketTime) -> String {
        show(time, "%A %Y-%m-%d %H:%M")
    }

    #[test]
    fn clocks_follow_summer_and_winter() {
        for (civil, instant) in [
            ("2014-04-04T17:00", "2014-04-04T21:00:00Z"),
            ("2014-12-05T17:00:00", "2014-12-05T22:00:00Z"),
        ] {
            assert_eq!(read(civil), Ok(at(instant)));
            assert!(shown(at(instant)).ends_with("17:00"), "{civil}");
            assert_eq!(
                slot_of_week(at(instant), HOUR),
                4 * 24 + 17,
                "Friday, {civil}"
            );
        }
        assert_eq!(
            read_any("2014-12-05T17:00:00-05:00"),
            read("2014-12-05T17:00")
        );
    }

    #[test]
    fn lost_hour_cannot_be_read() {
        let before = at("2015-03-08T01:59:00-05:00");
        assert_eq!(shown(before), "Sunday 2015-03-08 01:59");
        assert_eq!(shown(before + QUARTER), "Sunday 2015-03-08 03:14");
        let refused = read("2015-03-08T02:30").unwrap_err().to_string();
        assert!(refused.contains("03:00"), "{refused}");
        assert_eq!(
            start_of_day(before + HOUR * 12),
            at("2015-03-08T00:00:00-05:00")
        );
        assert_eq!(
            at_time_of_day(before, HOUR * 22),
            at("2015-03-08T22:00:00-04:00")
        );
        assert_eq!(
            at_time_of_day(before, HOUR * 2),
            at("2015-03-08T03:00:00-04:00")
        );
        assert_eq!(
            days_before(at("2015-03-09T02:30:00-04:00"), 1),
            at("2015-03-08T01:30:00-05:00")
        );
    }

    #[test]
    fn repeated_hour_is_read_as_first() {
        let first = at("2014-11-02T01:30:00-04:00");
        assert_eq!(read("2014-11-02T01:30"), Ok(first));
        for twice in [first, first + HOUR] {
            assert_eq!(shown(twice), "Sunday 2014-11-02 01:30");
            assert_eq!(slot_of_week(twice, QUARTER), 6 * 96 + 6);
        }
        assert_eq!(days_before(first + HOUR * 24, 1), first - HOUR);
    }

    #[test]
    fn week_starts_on_monday_at_midnight() {
        let slot = |text| slot_of_week(at(text), QUARTER);
        assert_eq!(slot("2014-04-07T00:00:00-04:00"), 0);
        assert_eq!(slot("2014-12-01T00:15:00-05:00"), 1);
        assert_eq!(slot("2014-04-06T23:59:59-04:00"), 7 * 96 - 1);
        assert_eq!(slot_of_week(a_monday(), QUARTER), 0);
        slot_of_week(MarketTime::from_millis(i64::MAX), QUARTER);
    }

    #[test]
    fn refuses_offsets_and_other_texts() {
        for text in ["2014-04-04T17:00Z", "five o'clock"] {
            assert_eq!(read(text), Err(TimeError::NotCivil(text.to_owned())));
        }
    }
}
