//! Converts wire types to domain types and back. Messages are parsed only here; behind this module
//! every value is valid.

use marketplace::{
    time::MarketTime,
    view::Level,
    zone::{Position, Zone},
};
use prost_types::Timestamp;
use uuid::{Uuid, fmt::Hyphenated};

use crate::v1;

/// A message with a wrong field. It names the field, so that the caller can correct it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Malformed {
    /// The field, as the caller wrote it.
    pub field: &'static str,
    /// The problem, and the allowed values.
    pub problem: String,
}

impl Malformed {
    /// An error of `field`.
    pub fn new(field: &'static str, problem: impl ToString) -> Self {
        Self {
            field,
            problem: problem.to_string(),
        }
    }
}

/// The most zones of one call: more than any service area of this suite has.
pub const MAX_ZONES_PER_CALL: usize = 1_000;

/// A required position.
///
/// # Errors
/// When it is missing, not finite or out of range.
pub fn position(field: &'static str, wire: Option<v1::Position>) -> Result<Position, Malformed> {
    let wire = wire.ok_or_else(|| Malformed::new(field, "is missing"))?;
    Position::new(wire.lat, wire.lon).map_err(|problem| Malformed::new(field, problem))
}

/// A zone from its hexadecimal name.
///
/// # Errors
/// When it is no H3 cell.
pub fn zone(field: &'static str, wire: &str) -> Result<Zone, Malformed> {
    wire.parse()
        .map_err(|problem| Malformed::new(field, problem))
}

/// The zones of a call, in its order.
///
/// # Errors
/// When there are none, more than [`MAX_ZONES_PER_CALL`], or one is no H3 cell.
pub fn zones(wire: &[String]) -> Result<Vec<Zone>, Malformed> {
    if wire.is_empty() || wire.len() > MAX_ZONES_PER_CALL {
        let problem = format!("{} given; allowed: 1 to {MAX_ZONES_PER_CALL}", wire.len());
        return Err(Malformed::new("zones", problem));
    }
    wire.iter().map(|name| zone("zones", name)).collect()
}

/// A UUID in the form that answers and messages show, of RFC 9562: with hyphens, without braces.
///
/// # Errors
/// When it is none.
pub fn id(field: &'static str, wire: &str) -> Result<Uuid, Malformed> {
    let id: Result<Hyphenated, _> = wire.parse();
    id.map(Hyphenated::into_uuid)
        .map_err(|_| Malformed::new(field, "must be a UUID with hyphens"))
}

/// A required market time.
///
/// # Errors
/// When it is missing, or outside of what a `Timestamp` may hold: the years 1 to 9999, and parts of
/// a second that are neither negative nor a whole one.
pub fn market_time(field: &'static str, wire: Option<Timestamp>) -> Result<MarketTime, Malformed> {
    let wire = wire.ok_or_else(|| Malformed::new(field, "is missing"))?;
    let years_1_to_9999 = -62_135_596_800..253_402_300_800;
    if !years_1_to_9999.contains(&wire.seconds) || !(0..1_000_000_000).contains(&wire.nanos) {
        return Err(Malformed::new(field, "is out of range"));
    }
    let millis = wire.seconds * 1_000 + i64::from(wire.nanos) / 1_000_000;
    Ok(MarketTime::from_millis(millis))
}

/// A market time for the wire.
pub fn timestamp(time: MarketTime) -> Timestamp {
    let millis = time.millis();
    Timestamp {
        seconds: millis.div_euclid(1_000),
        nanos: (millis.rem_euclid(1_000) * 1_000_000) as i32,
    }
}

impl From<Position> for v1::Position {
    fn from(position: Position) -> Self {
        Self {
            lat: position.lat(),
            lon: position.lon(),
        }
    }
}

impl v1::SupplyLevel {
    /// The wire form of a level of supply.
    pub fn new(zone: Zone, level: Level) -> Self {
        Self {
            zone: zone.to_string(),
            predicted_drivers: level.value,
            as_of: Some(timestamp(level.as_of)),
        }
    }
}

impl v1::DemandLevel {
    /// The wire form of a level of demand.
    pub fn new(zone: Zone, level: Level) -> Self {
        Self {
            zone: zone.to_string(),
            expected_requests: level.value,
            as_of: Some(timestamp(level.as_of)),
        }
    }
}

impl TryFrom<&v1::SupplyLevel> for (Zone, Level) {
    type Error = Malformed;

    fn try_from(wire: &v1::SupplyLevel) -> Result<Self, Malformed> {
        let value = amount("predicted_drivers", wire.predicted_drivers)?;
        let as_of = market_time("as_of", wire.as_of)?;
        Ok((zone("zone", &wire.zone)?, Level { value, as_of }))
    }
}

impl TryFrom<&v1::DemandLevel> for (Zone, Level) {
    type Error = Malformed;

    fn try_from(wire: &v1::DemandLevel) -> Result<Self, Malformed> {
        let value = amount("expected_requests", wire.expected_requests)?;
        let as_of = market_time("as_of", wire.as_of)?;
        Ok((zone("zone", &wire.zone)?, Level { value, as_of }))
    }
}

fn amount(field: &'static str, value: f64) -> Result<f64, Malformed> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(Malformed::new(field, "must be a finite number, 0 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn market_time_survives_the_wire() {
        for millis in [-1, 0, 999, 1_396_645_200_123] {
            let time = MarketTime::from_millis(millis);
            assert_eq!(market_time("at", Some(timestamp(time))), Ok(time));
        }
    }

    #[test]
    fn wrong_position_is_refused_by_name() {
        let wire = v1::Position {
            lat: f64::NAN,
            lon: -73.98,
        };
        let refused = position("pickup", Some(wire)).unwrap_err();
        assert_eq!(refused.field, "pickup");
        assert_eq!(position("pickup", None).unwrap_err().problem, "is missing");
    }

    #[test]
    fn refuses_negative_or_infinite_level() {
        for predicted_drivers in [-0.1, f64::INFINITY, f64::NAN] {
            let wire = v1::SupplyLevel {
                zone: "872a100d2ffffff".to_owned(),
                predicted_drivers,
                as_of: Some(Timestamp::default()),
            };
            assert!(<(Zone, Level)>::try_from(&wire).is_err());
        }
    }

    #[test]
    fn refuses_call_without_zones() {
        assert_eq!(zones(&[]).unwrap_err().field, "zones");
    }
}
