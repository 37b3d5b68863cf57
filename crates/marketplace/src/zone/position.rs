//! A point on the map, checked once when it enters the system.

use h3o::LatLng;
use serde::{Deserialize, Serialize};

/// Kilometres in a mile; the fare schedule speaks miles.
pub(super) const KM_PER_MILE: f64 = 1.609_344;

/// A point in WGS 84 degrees, known to be finite and in range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "Degrees", into = "Degrees")]
pub struct Position {
    lat: f64,
    lon: f64,
}

impl Position {
    /// A point from latitude and longitude in degrees.
    ///
    /// # Errors
    /// [`PositionError`] names the coordinate that is not a number or out of range.
    pub fn new(lat: f64, lon: f64) -> Result<Self, PositionError> {
        let (lat, lon) = (Latitude::try_from(lat)?, Longitude::try_from(lon)?);
        Ok(Degrees { lat, lon }.into())
    }

    /// Latitude in degrees.
    pub fn lat(self) -> f64 {
        self.lat
    }

    /// Longitude in degrees.
    pub fn lon(self) -> f64 {
        self.lon
    }

    /// Great-circle distance in miles.
    pub fn miles_to(self, other: Position) -> f64 {
        LatLng::from(self).distance_km(other.into()) / KM_PER_MILE
    }

    /// A distance that [`miles_to`](Self::miles_to) never falls below, from the difference in
    /// latitude alone.
    pub(crate) fn least_miles_to(self, other: Position) -> f64 {
        (self.lat - other.lat).abs() * LEAST_MILES_PER_DEGREE
    }

    /// Whether both name the same spot, to about ten centimetres: a coordinate that went through
    /// JSON may come back different in its last bit, and that must not make it another place.
    pub fn is_same_spot(self, other: Position) -> bool {
        (self.lat - other.lat).abs() <= SPOT_DEGREES && (self.lon - other.lon).abs() <= SPOT_DEGREES
    }
}

const SPOT_DEGREES: f64 = 1e-6;

/// A degree of latitude is 69.09 miles on the sphere that `miles_to` measures on; a little less is
/// safely less.
pub(super) const LEAST_MILES_PER_DEGREE: f64 = 69.0;

impl From<Position> for LatLng {
    fn from(position: Position) -> Self {
        LatLng::new(position.lat, position.lon).expect("a position is finite")
    }
}

/// A coordinate that is no place on earth. The message names the field and its allowed range.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum PositionError {
    /// The latitude is not a number or out of range.
    #[error("lat must be between -90 and 90 degrees, not {0}")]
    Latitude(f64),
    /// The longitude is not a number or out of range.
    #[error("lon must be between -180 and 180 degrees, not {0}")]
    Longitude(f64),
}

impl PositionError {
    /// The offending field: `lat` or `lon`.
    pub fn field(self) -> &'static str {
        match self {
            Self::Latitude(_) => "lat",
            Self::Longitude(_) => "lon",
        }
    }
}

/// A position as it stands in JSON. Each coordinate checks itself, so that a refusal can name it by
/// its path.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Degrees {
    lat: Latitude,
    lon: Longitude,
}

#[derive(Serialize, Deserialize)]
#[serde(try_from = "f64")]
struct Latitude(f64);

#[derive(Serialize, Deserialize)]
#[serde(try_from = "f64")]
struct Longitude(f64);

impl TryFrom<f64> for Latitude {
    type Error = PositionError;

    fn try_from(lat: f64) -> Result<Self, PositionError> {
        let is_one = (-90.0..=90.0).contains(&lat);
        is_one
            .then_some(Self(lat))
            .ok_or(PositionError::Latitude(lat))
    }
}

impl TryFrom<f64> for Longitude {
    type Error = PositionError;

    fn try_from(lon: f64) -> Result<Self, PositionError> {
        let is_one = (-180.0..=180.0).contains(&lon);
        is_one
            .then_some(Self(lon))
            .ok_or(PositionError::Longitude(lon))
    }
}

impl From<Degrees> for Position {
    fn from(Degrees { lat, lon }: Degrees) -> Self {
        Self {
            lat: lat.0,
            lon: lon.0,
        }
    }
}

impl From<Position> for Degrees {
    fn from(Position { lat, lon }: Position) -> Self {
        Self {
            lat: Latitude(lat),
            lon: Longitude(lon),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_impossible_coordinate_by_name() {
        for lat in [f64::NAN, f64::INFINITY, 90.1, -91.0] {
            assert_eq!(Position::new(lat, 0.0).unwrap_err().field(), "lat");
        }
        for lon in [f64::NAN, f64::NEG_INFINITY, 180.1, -181.0] {
            assert_eq!(Position::new(0.0, lon).unwrap_err().field(), "lon");
        }
        let message = serde_json::from_str::<Position>(r#"{"lat":40.7,"lon":200}"#)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("lon must be between -180 and 180"),
            "{message}"
        );
    }

    #[test]
    fn degree_of_latitude_is_69_miles() {
        let miles = Position::new(40.0, -74.0)
            .unwrap()
            .miles_to(Position::new(41.0, -74.0).unwrap());
        assert!((miles - 69.1).abs() < 0.1, "{miles}");
    }

    #[test]
    fn last_bit_makes_no_other_spot() {
        let here = Position::new(40.7527, -73.9772).unwrap();
        assert!(here.is_same_spot(Position::new(40.752_700_000_000_004, -73.9772).unwrap()));
        assert!(!here.is_same_spot(Position::new(40.7528, -73.9772).unwrap()));
    }
}
