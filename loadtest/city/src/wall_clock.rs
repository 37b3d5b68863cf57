//! The wall clock of New York in summer: the record is written in it, and people see it.

use chrono::{DateTime, FixedOffset, NaiveDateTime};
use marketplace::{Calendar, MarketTime};

const FORMS: [&str; 2] = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"];

/// Reads a time such as `2014-04-04T17:00`, with or without seconds; `None` for another text.
pub fn read(text: &str) -> Option<MarketTime> {
    let local = FORMS
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())?;
    let instant = local.and_local_timezone(new_york()?).single()?;
    Some(MarketTime::from_millis(instant.timestamp_millis()))
}

/// The moment in a format of chrono, such as `%a %H:%M` for `Fri 17:42`.
pub fn show(time: MarketTime, form: &str) -> String {
    let instant = DateTime::from_timestamp_millis(time.millis());
    match instant.zip(new_york()) {
        Some((instant, new_york)) => instant.with_timezone(&new_york).format(form).to_string(),
        None => time.to_string(),
    }
}

fn new_york() -> Option<FixedOffset> {
    FixedOffset::east_opt(Calendar::NEW_YORK_SUMMER.utc_offset_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_new_york_time() {
        let five: MarketTime = "2014-04-04T21:00:00Z".parse().unwrap();
        assert_eq!(read("2014-04-04T17:00"), Some(five));
        assert_eq!(read("2014-04-04T17:00:00"), Some(five));
        assert_eq!(show(five, "%A %Y-%m-%d %H:%M"), "Friday 2014-04-04 17:00");
    }

    #[test]
    fn refuses_zones_and_other_texts() {
        assert_eq!(read("2014-04-04T17:00Z"), None);
        assert_eq!(read("five o'clock"), None);
    }
}
