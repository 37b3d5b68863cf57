//! The ground truth on the wire: the answer of `GET /v1/truth` and the body of `POST /v1/crowds`.

use std::time::Duration;

use marketplace::{MarketTime, Multiplier, Position, Zone};
use serde::{Deserialize, Serialize};

use crate::counters::CityProgress;
use crate::crowd::Crowd;
use crate::rfc3339;

/// The market as the city knows it, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MarketTruth {
    /// The moment, in market time.
    #[serde(with = "rfc3339")]
    pub(crate) market_time: MarketTime,
    /// The seed of the city.
    pub(crate) seed: u64,
    /// The number of drivers.
    pub(crate) fleet: usize,
    /// Whether the services agree with the city.
    pub(crate) trusted: bool,
    /// Why not.
    pub(crate) distrust: Vec<String>,
    /// Every zone of the service area.
    pub(crate) zones: Vec<ZoneTruth>,
    /// The counts so far.
    pub(crate) progress: CityProgress,
}

/// One zone. The fields are named as in the answer of `GET /v1/surge`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct ZoneTruth {
    pub(crate) zone: Zone,
    pub(crate) surge_multiplier: Multiplier,
    pub(crate) supply: f64,
    pub(crate) demand: f64,
}

/// Riders to add, such as the visitors of a concert at its end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CrowdRequest {
    /// The pickup of all of them.
    pub(crate) place: Position,
    /// When the first appears, in market time; now, if missing.
    #[serde(default, with = "rfc3339::if_any")]
    pub(crate) starts_at: Option<MarketTime>,
    /// How many.
    pub(crate) riders: u32,
    /// They appear evenly within this time, in market minutes.
    pub(crate) within_minutes: f64,
}

impl CrowdRequest {
    /// The crowd, or the reason why there can be no such crowd.
    pub(crate) fn crowd(self, now: MarketTime) -> Result<Crowd, &'static str> {
        if !(1..=MOST_RIDERS).contains(&self.riders) {
            return Err("riders must be a number from 1 to 10000");
        }
        if !(1.0..=24.0 * 60.0).contains(&self.within_minutes) {
            return Err("within_minutes must be a number from 1 to 1440");
        }
        Ok(Crowd {
            place: self.place,
            starts_at: self.starts_at.unwrap_or(now),
            riders: self.riders,
            within: Duration::from_secs_f64(self.within_minutes * 60.0),
        })
    }
}

impl From<&Crowd> for CrowdRequest {
    fn from(crowd: &Crowd) -> Self {
        Self {
            place: crowd.place,
            starts_at: Some(crowd.starts_at),
            riders: crowd.riders,
            within_minutes: crowd.within.as_secs_f64() / 60.0,
        }
    }
}

const MOST_RIDERS: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crowd_survives_the_wire() {
        let crowd = Crowd {
            place: Position::new(40.7505, -73.9934).unwrap(),
            starts_at: "2014-04-04T22:30:00-04:00".parse().unwrap(),
            riders: 300,
            within: Duration::from_secs(20 * 60),
        };
        let text = serde_json::to_string(&CrowdRequest::from(&crowd)).unwrap();
        let request: CrowdRequest = serde_json::from_str(&text).unwrap();
        assert_eq!(request.crowd(MarketTime::from_millis(0)), Ok(crowd));
    }

    #[test]
    fn impossible_crowds_are_refused() {
        let request = |riders, within_minutes| CrowdRequest {
            place: Position::new(40.7505, -73.9934).unwrap(),
            starts_at: None,
            riders,
            within_minutes,
        };
        let now = MarketTime::from_millis(5);
        assert_eq!(request(10, 5.0).crowd(now).unwrap().starts_at, now);
        assert!(request(0, 5.0).crowd(now).is_err());
        assert!(request(10, f64::NAN).crowd(now).is_err());
    }
}
