//! The market clock of the services, as the city reads it once.
//!
//! Every service shows the start, the anchor and the speed of its clock on `/readyz`. The city
//! computes market time from the same numbers, so both sides agree on when a ride is due.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use marketplace::MarketTime;
use serde::Deserialize;

use crate::{Client, Target};

/// Maps real time to market time: `start + (now - anchor) * speed`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CityClock {
    start_millis: i64,
    anchor_millis: i64,
    speed: f64,
}

impl CityClock {
    /// A clock that shows `start` at `anchor_millis` (real milliseconds since the Unix epoch) and
    /// runs `speed` market seconds per real second.
    pub const fn new(start: MarketTime, anchor_millis: i64, speed: f64) -> Self {
        Self {
            start_millis: start.millis(),
            anchor_millis,
            speed,
        }
    }

    /// Reads the clock of the services.
    ///
    /// # Errors
    /// If a service does not answer, or if the three do not show the same time: then ages and due
    /// times would make no sense.
    pub async fn read(client: &Client, target: &Target) -> anyhow::Result<Self> {
        let price = Self::of_service(client, &target.price).await?;
        for sibling in [&target.driver, &target.ride] {
            let other = Self::of_service(client, sibling).await?;
            ensure!(
                other.shows_the_time_of(&price),
                "{sibling} and {} run on different market clocks; give all services the same \
                 MARKET_CLOCK_START, MARKET_CLOCK_SPEED and MARKET_CLOCK_ANCHOR",
                target.price
            );
        }
        Ok(price)
    }

    /// Market time, now.
    pub fn now(&self) -> MarketTime {
        self.at_real_millis(real_now_millis())
    }

    /// Market seconds per real second.
    pub const fn speed(&self) -> f64 {
        self.speed
    }

    /// How long a stretch of market time takes in real time.
    pub fn real(&self, market: Duration) -> Duration {
        market.div_f64(self.speed)
    }

    /// How much market time passes in a stretch of real time.
    pub fn market(&self, real: Duration) -> Duration {
        real.mul_f64(self.speed)
    }

    /// Real seconds by which somebody set the clock between two readings, if this much real time
    /// has `passed`; negative if the clock was set back.
    pub fn set_by(&self, from: MarketTime, until: MarketTime, passed: Duration) -> f64 {
        let shown = (until.millis() - from.millis()) as f64 / 1_000.0 / self.speed;
        shown - passed.as_secs_f64()
    }

    /// The real time until the clock shows `at`; zero if that has passed.
    pub fn until(&self, at: MarketTime) -> Duration {
        self.real(self.now().age_of(at))
    }

    fn at_real_millis(&self, real_millis: i64) -> MarketTime {
        let elapsed = (real_millis - self.anchor_millis) as f64 * self.speed;
        MarketTime::from_millis(self.start_millis + elapsed as i64)
    }

    async fn of_service(client: &Client, base: &str) -> anyhow::Result<Self> {
        let url = format!("{base}/readyz");
        let answer = client.get(&url).await.with_context(|| url.clone())?;
        let ready: ServiceReadiness = answer
            .json()
            .with_context(|| format!("{url} shows no market clock: {}", answer.excerpt()))?;
        let reading = ready.market_clock;
        ensure!(
            reading.speed.is_finite() && reading.speed > 0.0,
            "{url}: a market clock of speed {} does not run",
            reading.speed
        );
        let start = MarketTime::from_millis(reading.start.timestamp_millis());
        Ok(Self::new(
            start,
            reading.anchor.timestamp_millis(),
            reading.speed,
        ))
    }

    /// Whether both clocks show the same time now and in an hour.
    fn shows_the_time_of(&self, other: &Self) -> bool {
        const AN_HOUR_MILLIS: i64 = 3_600_000;
        const TOLERANCE_MILLIS: i64 = 1_000;
        let now = real_now_millis();
        [now, now + AN_HOUR_MILLIS].into_iter().all(|real| {
            let ours = self.at_real_millis(real).millis();
            ours.abs_diff(other.at_real_millis(real).millis()) <= TOLERANCE_MILLIS as u64
        })
    }
}

/// The part of a service's `/readyz` that the city reads.
#[derive(Deserialize)]
struct ServiceReadiness {
    market_clock: Reading,
}

#[derive(Deserialize)]
struct Reading {
    start: DateTime<Utc>,
    anchor: DateTime<Utc>,
    speed: f64,
}

fn real_now_millis() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn market_hour_takes_a_minute_at_sixty() {
        let clock = CityClock::new(MarketTime::from_millis(1_000_000), 500, 60.0);
        assert_eq!(clock.at_real_millis(500).millis(), 1_000_000);
        assert_eq!(clock.at_real_millis(60_500).millis(), 4_600_000);
        let hour = Duration::from_secs(3_600);
        assert_eq!(clock.real(hour), Duration::from_secs(60));
        assert_eq!(clock.market(Duration::from_secs(60)), hour);
    }

    #[test]
    fn notices_a_clock_that_was_set() {
        let clock = CityClock::new(MarketTime::from_millis(0), 0, 60.0);
        let (from, passed) = (MarketTime::from_millis(3_600_000), Duration::from_secs(10));
        let set_by = |until| clock.set_by(from, MarketTime::from_millis(until), passed);
        assert_eq!(set_by(4_200_000), 0.0);
        assert_eq!(set_by(3_000_000), -20.0);
        assert_eq!(set_by(7_800_000), 60.0);
    }

    #[test]
    fn clocks_of_other_speeds_differ() {
        let clock = |speed| CityClock::new(MarketTime::from_millis(0), real_now_millis(), speed);
        assert!(clock(60.0).shows_the_time_of(&clock(60.0)));
        assert!(!clock(60.0).shows_the_time_of(&clock(61.0)));
    }
}
