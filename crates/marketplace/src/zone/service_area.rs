//! The service area: all zones with rides, and the k-ring of each (the zone and its neighbours
//! inside the area).
//!
//! Both are computed once at the start, so that a quote only looks them up.

use std::fmt;
use std::str::FromStr;

use super::position::LEAST_MILES_PER_DEGREE;
use super::{Position, Zone};

/// A box of latitudes and longitudes in degrees, written `south,west,north,east`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    south: f64,
    west: f64,
    north: f64,
    east: f64,
}

impl Bounds {
    /// The inner city of New York: Manhattan with the near parts of Brooklyn, Queens and the Bronx.
    pub const NEW_YORK: Self = Self {
        south: 40.63,
        west: -74.03,
        north: 40.85,
        east: -73.75,
    };

    /// The city with its airports and the near part of New Jersey: where recorded pickups count.
    pub const NEW_YORK_REGION: Self = Self {
        south: 40.45,
        west: -74.30,
        north: 41.00,
        east: -73.65,
    };

    /// The widest side of a box in degrees. It bounds the number of zones at start; a metropolis
    /// fits easily.
    pub const MAX_SIDE_DEGREES: f64 = 3.0;

    /// A box from its four sides.
    ///
    /// # Errors
    /// [`BoundsError`] if a side is no coordinate, if sides are the wrong way round, or if the box
    /// is too large.
    pub fn new(south: f64, west: f64, north: f64, east: f64) -> Result<Self, BoundsError> {
        let on_earth = Position::new(south, west)
            .and(Position::new(north, east))
            .is_ok();
        let height = north - south;
        let width = east - west;
        if !on_earth || height.min(width) <= 0.0 || height.max(width) > Self::MAX_SIDE_DEGREES {
            return Err(BoundsError::NoBox {
                text: format!("{south},{west},{north},{east}"),
            });
        }
        Ok(Self {
            south,
            west,
            north,
            east,
        })
    }

    /// Whether the point lies in the box, its border included.
    pub fn contains(self, position: Position) -> bool {
        (self.south..=self.north).contains(&position.lat())
            && (self.west..=self.east).contains(&position.lon())
    }

    /// The middle of the box.
    pub fn centre(self) -> Position {
        self.point(
            (self.south + self.north) / 2.0,
            (self.west + self.east) / 2.0,
        )
    }

    /// Every zone whose centre lies in the box, the middle ones first.
    fn zones(self) -> impl Iterator<Item = Zone> {
        let steps = (self.reach_miles() / LEAST_MILES_PER_STEP).ceil() as u32 + 1;
        let near = Zone::at(self.centre()).disk(steps);
        near.filter(move |zone| self.contains(zone.centre()))
    }

    /// The longest way from the middle to the border, in miles: to one of the corners nearer to the
    /// equator.
    fn reach_miles(self) -> f64 {
        let corners = [
            self.point(self.south, self.west),
            self.point(self.north, self.west),
        ];
        corners
            .into_iter()
            .map(|corner| self.centre().miles_to(corner))
            .fold(0.0, f64::max)
    }

    /// The box without a margin of at least `miles` on each side; `None` if nothing is left.
    fn without_margin(self, miles: f64) -> Option<Self> {
        let nearest_to_a_pole = self.south.abs().max(self.north.abs()).to_radians();
        let lat = miles / LEAST_MILES_PER_DEGREE;
        let lon = lat / nearest_to_a_pole.cos();
        let (south, north) = (self.south + lat, self.north - lat);
        Self::new(south, self.west + lon, north, self.east - lon).ok()
    }

    fn point(self, lat: f64, lon: f64) -> Position {
        Position::new(lat, lon).expect("bounds hold coordinates only")
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::NEW_YORK
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{},{},{},{}",
            self.south, self.west, self.north, self.east
        )
    }
}

impl FromStr for Bounds {
    type Err = BoundsError;

    fn from_str(text: &str) -> Result<Self, BoundsError> {
        let error = || BoundsError::NoBox {
            text: text.to_owned(),
        };
        let sides: Vec<f64> = text
            .split(',')
            .map(|side| side.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| error())?;
        let [south, west, north, east] = sides[..] else {
            return Err(error());
        };
        let bounds = Self::new(south, west, north, east)?;
        if bounds.zones().next().is_none() {
            return Err(BoundsError::NoZone {
                text: text.to_owned(),
            });
        }
        Ok(bounds)
    }
}

/// The text or the numbers do not make an area.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoundsError {
    /// They do not make a box.
    #[error(
        "bounds `{text}` must be south,west,north,east in degrees, each side at most {} wide, \
         such as {}",
        Bounds::MAX_SIDE_DEGREES,
        Bounds::NEW_YORK
    )]
    NoBox {
        /// What was written.
        text: String,
    },
    /// The box is smaller than a zone and holds the centre of none.
    #[error("bounds `{text}` hold the centre of no zone: a zone is about 1.5 miles wide")]
    NoZone {
        /// What was written.
        text: String,
    },
}

/// All zones whose centre lies in the bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceArea {
    zones: Vec<Zone>,
    rings: Vec<KRing>,
    /// A box inside which every position is served, so that its zone need not be computed.
    interior: Option<Bounds>,
    /// Centres, and the longest reach of a zone, for the search for the nearest driver.
    centres: Vec<Position>,
    zone_reach_miles: f64,
}

impl ServiceArea {
    /// The area of all zones whose centre lies in the bounds.
    pub fn new(bounds: Bounds) -> Self {
        let mut zones: Vec<Zone> = bounds.zones().collect();
        zones.sort_unstable();
        Self::of(zones, bounds)
    }

    /// The zones, sorted.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// How many zones there are.
    pub fn len(&self) -> usize {
        self.zones.len()
    }

    /// Whether the bounds were too small to hold the centre of any zone.
    pub fn is_empty(&self) -> bool {
        self.zones.is_empty()
    }

    /// Whether the zone is served.
    pub fn contains(&self, zone: Zone) -> bool {
        self.index_of(zone).is_some()
    }

    /// The place of the zone in [`zones`](Self::zones).
    pub fn index_of(&self, zone: Zone) -> Option<usize> {
        self.zones.binary_search(&zone).ok()
    }

    /// The served zone that holds `position`.
    ///
    /// # Errors
    /// [`OutsideServiceArea`] if the position lies in no zone of the area.
    pub fn zone_of(&self, position: Position) -> Result<Zone, OutsideServiceArea> {
        let zone = Zone::at(position);
        if self.contains(zone) {
            Ok(zone)
        } else {
            Err(OutsideServiceArea { position })
        }
    }

    /// Whether some zone of the area holds `position`: [`zone_of`](Self::zone_of) for a caller that
    /// does not need the zone, and many times faster nearly everywhere.
    ///
    /// # Errors
    /// [`OutsideServiceArea`] if the position lies in no zone of the area.
    pub fn admit(&self, position: Position) -> Result<(), OutsideServiceArea> {
        let is_inside = |interior: Bounds| interior.contains(position);
        if self.interior.is_some_and(is_inside) {
            return Ok(());
        }
        self.zone_of(position).map(|_| ())
    }

    /// The zone and its neighbours inside the area; `None` if the zone is not served.
    pub fn k_ring(&self, zone: Zone) -> Option<&KRing> {
        self.index_of(zone).map(|index| &self.rings[index])
    }

    /// Indices of all zones, nearest first, each with the least distance in miles between `from`
    /// and any point of the zone.
    pub(crate) fn outward_from(&self, from: Position) -> Vec<(usize, f64)> {
        let least_miles =
            |centre: &Position| (from.miles_to(*centre) - self.zone_reach_miles).max(0.0);
        let mut outward: Vec<_> = self.centres.iter().map(least_miles).enumerate().collect();
        outward.sort_unstable_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        outward
    }

    /// The area of these sorted zones, which are those whose centre lies in `bounds`.
    fn of(zones: Vec<Zone>, bounds: Bounds) -> Self {
        let rings = zones
            .iter()
            .map(|zone| KRing::clipped(*zone, &zones))
            .collect();
        let centres = zones.iter().map(|zone| zone.centre()).collect();
        let zone_reach_miles = zones
            .iter()
            .map(|zone| zone.reach_miles())
            .fold(0.0, f64::max);
        Self {
            zones,
            rings,
            interior: bounds.without_margin(zone_reach_miles * REACH_ELSEWHERE),
            centres,
            zone_reach_miles,
        }
    }
}

/// One step of a k-ring reaches at least this far anywhere on the globe. Low on purpose: too many
/// steps only cost time at start, too few would lose zones at the corners.
const LEAST_MILES_PER_STEP: f64 = 0.75;

/// Factor by which zones around an area may be larger than those in it: neighbours differ by less
/// than one percent.
const REACH_ELSEWHERE: f64 = 1.05;

/// The position lies outside the service area.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("position {}, {} lies outside the service area", position.lat(), position.lon())]
pub struct OutsideServiceArea {
    /// The position that no zone of the area holds.
    pub position: Position,
}

/// A zone and those of its six neighbours that are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KRing {
    zones: Vec<Zone>,
}

impl KRing {
    /// The centre first, then the neighbours sorted.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// The zone in the middle.
    pub fn centre(&self) -> Zone {
        self.zones[0]
    }

    /// The neighbours, sorted.
    pub fn neighbours(&self) -> &[Zone] {
        &self.zones[1..]
    }

    /// The ring of `centre` without the zones that are not among `served`, which are sorted.
    fn clipped(centre: Zone, served: &[Zone]) -> Self {
        let mut neighbours: Vec<Zone> = centre
            .disk(1)
            .filter(|zone| *zone != centre && served.binary_search(zone).is_ok())
            .collect();
        neighbours.sort_unstable();
        Self {
            zones: std::iter::once(centre).chain(neighbours).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_new_york_has_110_zones() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        assert_eq!(area.len(), 110);
        assert!(area.zones().is_sorted());
    }

    #[test]
    fn every_zone_has_index_and_ring() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        for (index, zone) in area.zones().iter().enumerate() {
            assert_eq!(area.index_of(*zone), Some(index));
            assert_eq!(area.zone_of(zone.centre()), Ok(*zone));
            let ring = area.k_ring(*zone).unwrap();
            assert_eq!(ring.centre(), *zone);
            assert!(
                ring.neighbours()
                    .iter()
                    .all(|neighbour| area.contains(*neighbour))
            );
            assert!(ring.neighbours().len() <= 6);
        }
    }

    #[test]
    fn area_without_zone_is_refused() {
        let refused = "40.7,-74.0,40.7001,-73.9999".parse::<Bounds>();
        assert!(matches!(refused, Err(BoundsError::NoZone { .. })));
    }

    #[test]
    fn nothing_outside_is_served() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let boston = Position::new(42.36, -71.06).unwrap();
        assert_eq!(
            area.zone_of(boston),
            Err(OutsideServiceArea { position: boston })
        );
        assert_eq!(area.k_ring(Zone::at(boston)), None);
    }

    #[test]
    fn admits_exactly_positions_in_served_zones() {
        for bounds in [
            Bounds::NEW_YORK,
            Bounds::new(59.9, 10.6, 60.1, 10.8).unwrap(),
        ] {
            let area = ServiceArea::new(bounds);
            let step = 0.004;
            for north in -10..90 {
                for east in -10..90 {
                    let lat = bounds.south + step * f64::from(north);
                    let lon = bounds.west + step * f64::from(east);
                    let position = Position::new(lat, lon).unwrap();
                    let zone = area.zone_of(position).map(|_| ());
                    assert_eq!(area.admit(position), zone, "{lat}, {lon}");
                }
            }
        }
    }

    #[test]
    fn bounds_read_back_as_written() {
        assert_eq!("40.63,-74.03,40.85,-73.75".parse(), Ok(Bounds::NEW_YORK));
        assert_eq!(Bounds::NEW_YORK.to_string().parse(), Ok(Bounds::NEW_YORK));
        for wrong in [
            "",
            "1,2,3",
            "40.85,-74.03,40.63,-73.75",
            "0,0,NaN,1",
            "-80,-170,80,170",
        ] {
            assert!(wrong.parse::<Bounds>().is_err(), "{wrong}");
        }
    }
}
