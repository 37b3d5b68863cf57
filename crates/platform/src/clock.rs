//! The market clock. A replay runs faster than real time, and every process must show the same
//! market time without asking another. So each computes it from the same three settings:
//!
//! ```text
//!  market time = START + (real time - ANCHOR) * SPEED
//!
//!  real      12:00:00 (ANCHOR)      12:00:30        12:01:00
//!  market    17:00 (START)          17:30           18:00          at SPEED 60
//! ```
//!
//! Forecast windows, data ages and calendars are in market time; latencies, deadlines and periods
//! of loops in real time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use serde::Serialize;

/// The settings of the market clock.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClockConfig {
    /// Market time at the anchor, RFC 3339. Default: market time is real time.
    #[arg(long, env = "MARKET_CLOCK_START", value_name = "TIME", value_parser = rfc3339)]
    pub market_clock_start: Option<DateTime<Utc>>,

    /// Market seconds per real second.
    #[arg(long, env = "MARKET_CLOCK_SPEED", default_value_t = 1.0, value_parser = speed)]
    pub market_clock_speed: f64,

    /// Real time at which the market clock showed MARKET_CLOCK_START, RFC 3339, or @PATH of a file
    /// with that time. Give every process the same. Default: the start of this process, which suits
    /// a process that is alone.
    #[arg(
        long,
        env = "MARKET_CLOCK_ANCHOR",
        value_name = "TIME|@PATH",
        value_parser = anchor
    )]
    pub market_clock_anchor: Option<DateTime<Utc>>,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.001..=100_000.0).contains(&speed) => Ok(speed),
        _ => Err("must be a number from 0.001 to 100000".to_owned()),
    }
}

/// A time, or the file that holds it: containers that start at different times can share a file,
/// but no environment.
fn anchor(text: &str) -> Result<DateTime<Utc>, String> {
    let Some(path) = text.strip_prefix('@') else {
        return rfc3339(text);
    };
    let written = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    rfc3339(written.trim_end()).map_err(|error| format!("{path} holds no time: {error}"))
}

fn rfc3339(text: &str) -> Result<DateTime<Utc>, String> {
    let time = DateTime::parse_from_rfc3339(text);
    time.map(DateTime::into)
        .map_err(|error| format!("{error}; write it as 2014-04-04T16:00:00-04:00"))
}

/// An instant of real time, in microseconds since the Unix epoch. It takes eight bytes and no
/// conversion to keep one; it becomes a date when somebody reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RealTime(i64);

impl RealTime {
    /// The time on the clock of the operating system.
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(since_epoch.map_or(0, |since| since.as_micros() as i64))
    }

    /// The instant `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since `earlier`; negative when it was later.
    pub fn millis_since(self, earlier: Self) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1_000.0
    }
}

impl From<DateTime<Utc>> for RealTime {
    fn from(time: DateTime<Utc>) -> Self {
        Self(time.timestamp_micros())
    }
}

impl From<RealTime> for DateTime<Utc> {
    fn from(time: RealTime) -> Self {
        Self::from_timestamp_micros(time.0).unwrap_or_default()
    }
}

/// Converts real time to market time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MarketClock {
    start_millis: i64,
    anchor_millis: i64,
    speed: f64,
}

/// A reading of the clock, from which a replay can make the same clock.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ClockReading {
    /// Market time, now.
    pub now: DateTime<Utc>,
    /// Market time at the anchor.
    pub start: DateTime<Utc>,
    /// Real time at which the market clock showed `start`.
    pub anchor: DateTime<Utc>,
    /// Market seconds per real second.
    pub speed: f64,
}

impl MarketClock {
    /// A clock that shows `start_millis` (market) at `anchor_millis` (real), both since the Unix
    /// epoch.
    pub const fn new(start_millis: i64, anchor_millis: i64, speed: f64) -> Self {
        Self {
            start_millis,
            anchor_millis,
            speed,
        }
    }

    /// A clock whose market time is real time.
    pub const fn real_time() -> Self {
        Self::new(0, 0, 1.0)
    }

    /// The clock of a configuration.
    pub fn from_config(config: &ClockConfig) -> Self {
        let anchor = config.market_clock_anchor.unwrap_or_else(Utc::now);
        let (anchor, speed) = (anchor.timestamp_millis(), config.market_clock_speed);
        match config.market_clock_start {
            Some(start) => Self::new(start.timestamp_millis(), anchor, speed),
            None if speed == 1.0 => Self::real_time(),
            None => Self::new(anchor, anchor, speed),
        }
    }

    /// Market time in milliseconds since the Unix epoch.
    pub fn now_millis(&self) -> i64 {
        self.at_real_micros(RealTime::now().0)
    }

    /// Market time in milliseconds at a real time in microseconds. Microseconds, because a market
    /// millisecond at speed 60 has 17 of them.
    pub fn at_real_micros(&self, real_micros: i64) -> i64 {
        let elapsed_micros = (real_micros - self.anchor_millis * 1_000) as f64;
        self.start_millis + (elapsed_micros * self.speed / 1_000.0) as i64
    }

    /// The real time at which the market clock shows `market_millis`, exact to a market
    /// millisecond.
    pub fn real_time_of(&self, market_millis: i64) -> RealTime {
        let elapsed_millis = market_millis.saturating_sub(self.start_millis) as f64;
        let real_micros = (elapsed_millis * 1_000.0 / self.speed) as i64;
        RealTime((self.anchor_millis * 1_000).saturating_add(real_micros))
    }

    /// Market seconds per real second.
    pub const fn speed(&self) -> f64 {
        self.speed
    }

    /// The real time that a duration of market time takes.
    pub fn real_duration(&self, market: Duration) -> Duration {
        market.div_f64(self.speed)
    }

    /// The clock as `/readyz` shows it.
    pub fn reading(&self) -> ClockReading {
        let time = |millis| DateTime::from_timestamp_millis(millis).unwrap_or_default();
        ClockReading {
            now: time(self.now_millis()),
            start: time(self.start_millis),
            anchor: time(self.anchor_millis),
            speed: self.speed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn market_hour_takes_minute_at_speed_sixty() {
        let clock = MarketClock::new(1_000_000, 500, 60.0);
        assert_eq!(clock.at_real_micros(500_000), 1_000_000);
        assert_eq!(clock.at_real_micros(60_500_000), 1_000_000 + 3_600_000);
        let hour = Duration::from_secs(3_600);
        assert_eq!(clock.real_duration(hour), Duration::from_secs(60));
    }

    #[test]
    fn real_time_of_market_time_is_exact() {
        let clock = MarketClock::new(1_396_645_200_000, 1_700_000_000_000, 60.0);
        for real_micros in [1_700_000_000_000_000, 1_700_000_123_456_789] {
            let market = clock.at_real_micros(real_micros);
            let back = clock.real_time_of(market).micros();
            assert!((real_micros - back).abs() <= 17, "{real_micros} to {back}");
        }
        let real = MarketClock::real_time().real_time_of(1_700_000_000_123);
        assert_eq!(real.micros(), 1_700_000_000_123_000);
    }

    #[test]
    fn market_time_is_real_time_by_default() {
        let market = MarketClock::real_time().at_real_micros(1_700_000_000_123_000);
        assert_eq!(market, 1_700_000_000_123);
    }

    #[test]
    fn anchor_is_read_from_file() {
        let written = std::env::temp_dir().join(format!("surge-anchor-{}", std::process::id()));
        let by_path = format!("@{}", written.display());
        std::fs::write(&written, "2014-04-04T21:00:00Z\n").unwrap();
        assert_eq!(anchor(&by_path), anchor("2014-04-04T17:00:00-04:00"));

        std::fs::write(&written, "yesterday").unwrap();
        assert!(anchor(&by_path).unwrap_err().contains("holds no time"));
        std::fs::remove_file(&written).unwrap();
        let refused = anchor(&by_path).unwrap_err();
        assert!(refused.contains("surge-anchor-"), "{refused}");
    }

    #[test]
    fn rejects_speed_that_is_not_positive() {
        for text in ["0", "-1", "nan", "inf", "fast", "1e9"] {
            assert!(speed(text).is_err(), "{text}");
        }
        assert_eq!(speed("60"), Ok(60.0));
    }
}
