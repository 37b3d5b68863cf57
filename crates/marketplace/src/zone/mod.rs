//! Places: positions, the hexagonal zones that share a price, and the service area that they form.
//!
//! A zone is a cell of [H3](https://h3geo.org), a grid of hexagons over the globe, at resolution 7:
//! about 2 km across. That is small enough for a local price and large enough that counts of
//! drivers and requests are more than noise. The *k-ring* of a zone is the zone itself and its
//! neighbours:
//!
//! ```text
//!      n   n         All six neighbours are equally far away, so that the smoothing in
//!    n   z   n       `surge` is the same in every direction. On a square grid four of the
//!      n   n         eight neighbours would be further away.
//! ```

mod position;
mod service_area;

use std::fmt;
use std::str::FromStr;

use h3o::{CellIndex, LatLng, Resolution};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use position::{Position, PositionError};
pub use service_area::{Bounds, BoundsError, KRing, OutsideServiceArea, ServiceArea};

/// Mean area of an H3 cell of resolution 7 in square kilometres, from H3's own table of cell
/// statistics.
///
/// One number serves all zones: inside a city real areas differ by about a percent, far less than
/// the other assumptions of the driver reserve, and equal zones with equal markets must get equal
/// prices.
pub const ZONE_AREA_KM2: f64 = 5.161;

/// A pricing area: one H3 cell, written as its lowercase hexadecimal id, for example
/// `872a100d2ffffff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(CellIndex);

impl Zone {
    /// The zone (resolution 7) that holds `position`.
    pub fn at(position: Position) -> Self {
        Self::in_grid(position, Resolution::Seven)
    }

    /// The cell of another H3 resolution that holds `position`; forecasts are also scored on finer
    /// grids.
    ///
    /// # Errors
    /// [`ZoneError::Resolution`] above 15.
    pub fn at_resolution(position: Position, resolution: u8) -> Result<Self, ZoneError> {
        let grid =
            Resolution::try_from(resolution).map_err(|_| ZoneError::Resolution(resolution))?;
        Ok(Self::in_grid(position, grid))
    }

    /// The zone with this 64-bit H3 index.
    ///
    /// # Errors
    /// [`ZoneError::NotACell`] if the bits do not name a cell.
    pub fn from_u64(bits: u64) -> Result<Self, ZoneError> {
        CellIndex::try_from(bits)
            .map(Self)
            .map_err(|_| ZoneError::NotACell(format!("{bits:x}")))
    }

    /// The 64-bit H3 index.
    pub fn as_u64(self) -> u64 {
        self.0.into()
    }

    /// The middle of the cell.
    pub fn centre(self) -> Position {
        let centre = LatLng::from(self.0);
        Position::new(centre.lat(), centre.lng()).expect("the centre of a cell lies on the globe")
    }

    /// The corners of the cell, in order round it, to draw it on a map.
    pub fn corners(self) -> Vec<Position> {
        let corner = |corner: &LatLng| {
            Position::new(corner.lat(), corner.lng())
                .expect("the corner of a cell lies on the globe")
        };
        self.0.boundary().iter().map(corner).collect()
    }

    /// This zone and every zone within `steps` of it, in no particular order.
    fn disk(self, steps: u32) -> impl Iterator<Item = Zone> {
        self.0.grid_disk_safe(steps).map(Self)
    }

    /// The longest way from the centre to the border, in miles.
    fn reach_miles(self) -> f64 {
        let corner_miles =
            |corner: &LatLng| LatLng::from(self.0).distance_km(*corner) / position::KM_PER_MILE;
        self.0
            .boundary()
            .iter()
            .map(corner_miles)
            .fold(0.0, f64::max)
    }

    fn in_grid(position: Position, grid: Resolution) -> Self {
        Self(LatLng::from(position).to_cell(grid))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.as_u64())
    }
}

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        // The number alone would also be read with a sign, and with zeros before it.
        let is_name = text.len() == 15 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u64::from_str_radix(text, 16).ok().filter(|_| is_name);
        Self::from_u64(bits.ok_or_else(|| ZoneError::NotACell(text.to_owned()))?)
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The text or number does not name a zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// Not an H3 cell id.
    #[error("zone `{0}` is not an H3 cell id such as 872a100d2ffffff")]
    NotACell(String),
    /// Not an H3 resolution.
    #[error("H3 resolution {0} is not one of 0 to 15")]
    Resolution(u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grand_central() -> Position {
        Position::new(40.7527, -73.9772).unwrap()
    }

    #[test]
    fn zone_survives_text_json_and_bits() {
        let zone = Zone::at(grand_central());
        assert_eq!(zone.to_string().parse(), Ok(zone));
        assert_eq!(Zone::from_u64(zone.as_u64()), Ok(zone));
        let json = serde_json::to_string(&zone).unwrap();
        assert_eq!(serde_json::from_str::<Zone>(&json).unwrap(), zone);
        let name = zone.to_string();
        for other in [format!("+{name}"), format!("0{name}"), format!("{name} ")] {
            assert!(other.parse::<Zone>().is_err(), "{other}");
        }
    }

    #[test]
    fn zone_holds_its_centre() {
        let zone = Zone::at(grand_central());
        assert_eq!(Zone::at(zone.centre()), zone);
        assert!(grand_central().miles_to(zone.centre()) <= zone.reach_miles());
    }

    #[test]
    fn zone_has_six_corners_at_its_reach() {
        let zone = Zone::at(grand_central());
        let corners = zone.corners();
        assert_eq!(corners.len(), 6);
        let farthest = corners.iter().map(|corner| corner.miles_to(zone.centre()));
        assert!((farthest.fold(0.0, f64::max) - zone.reach_miles()).abs() < 0.01);
    }

    #[test]
    fn refuses_other_texts_with_an_example() {
        for wrong in ["", "manhattan", "ffffffffffffffff", "0"] {
            let refused = wrong.parse::<Zone>().unwrap_err();
            assert!(refused.to_string().contains("872a100d2ffffff"), "{refused}");
        }
        assert_eq!(
            Zone::at_resolution(grand_central(), 16),
            Err(ZoneError::Resolution(16))
        );
    }
}
