//! The surge multiplier: drivers needed over drivers available.
//!
//! # How this works
//!
//! The price of a zone rises when the requests expected there need more drivers than the zone will
//! have. A k-ring is the zone and its neighbours; `S` is the supply and `D` the demand of a zone in
//! the coming window (five minutes). For a zone z with the neighbours n:
//!
//! ```text
//! D~    = (1 - l) D_z + l mean(D_n), the same for S      smoothing in space, l = 0.5
//! R     = R_full (1 - exp(-D~ / R_full))                 driver reserve
//! R_full = area (b / T*)^2,  b = 0.5 detour / speed      drivers that keep pickups within T*
//! rho   = (D~ + R + k) / (S~ + k)                        load ratio, k = 2 pseudo-drivers
//! m     = clamp(rho^g, 1, cap), rounded to tenths
//! ```
//!
//! Each step has its source:
//!
//! * *Smoothing*: Uber smooths over the k-ring; the weight `l` is our choice. Without it the price
//!   has a cliff at a zone's border, and a rider walks across the street.
//! * *Reserve*: when idle cars get scarce, pickups get long, and long pickups use up the time of
//!   the remaining drivers (Castillo, Knoepfle, Weyl, "Surge Pricing Solves the Wild Goose Chase",
//!   EC 2018). The mean distance to the nearest of randomly spread cars is `0.5 / sqrt(density)`
//!   (Larson, Odoni, "Urban Operations Research", 3.7), so a target pickup time `T*` is a target
//!   density of idle cars.
//! * *Exponent*: `g` is one over the elasticity of demand plus the response of supply.
//! * *Rounding*: Cohen et al. report it of Uber ("Using Big Data to Estimate Consumer Surplus",
//!   NBER 22627): the app shows 1.249 as 1.2 and 1.251 as 1.3.
//!
//! Example: `S~` = 5 and `D~` = 10 give a reserve of 3.07, a load ratio of (10 + 3.07 + 2) / (5 +
//! 2) = 2.15, and the multiplier 2.2.
//!
//! Limits: one elasticity for all riders, one speed for all streets, no memory. Past prices are
//! left out on purpose: the forecasts smooth over time, and without memory every replica quotes the
//! same price.

use std::f64::consts::FRAC_PI_4;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::view::{Level, MarketView, ZoneLevels};
use crate::zone::ZONE_AREA_KM2;

/// Mean ratio of the way through a street grid to the straight line: 4/pi, about 1.27 (geometry:
/// the mean of `|cos| + |sin|` over all directions).
pub const DETOUR: f64 = 1.0 / FRAC_PI_4;

/// The multiplier to quote, on the grid of tenths. `None` when a level of the view is missing.
pub fn multiplier(view: &MarketView, policy: &SurgePolicy) -> Option<Multiplier> {
    target(view, policy).map(|target| Multiplier::rounded(target).min(policy.effective_cap()))
}

/// The multiplier before rounding, from 1 to the cap. `None` when a level of the view is missing.
pub fn target(view: &MarketView, policy: &SurgePolicy) -> Option<f64> {
    workings(view, policy).map(|workings| workings.target)
}

/// The formula, step by step. `None` when a level of the view is missing.
pub fn workings(view: &MarketView, policy: &SurgePolicy) -> Option<Workings> {
    let supply = smoothed(view, |zone| zone.supply, policy)?;
    let demand = smoothed(view, |zone| zone.demand, policy)?;
    let load_ratio = load_ratio(supply, demand, policy);
    // `max` before `min`: an undefined load (infinite supply and demand) prices at 1.
    let target = load_ratio.powf(policy.exponent).max(1.0);
    Some(Workings {
        supply,
        demand,
        load_ratio,
        target: target.min(policy.effective_cap().as_f64()),
    })
}

/// The intermediate results of the formula, which the journey of a quote shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workings {
    /// `S~`: supply, smoothed over the k-ring.
    pub supply: f64,
    /// `D~`: demand, smoothed over the k-ring.
    pub demand: f64,
    /// `rho`: drivers needed, with the reserve, over drivers available.
    pub load_ratio: f64,
    /// `m` before it is rounded: from 1 to the cap.
    pub target: f64,
}

/// Drivers needed, with the reserve, over drivers available. The pseudo-drivers keep sparse zones
/// near 1.
pub fn load_ratio(supply: f64, demand: f64, policy: &SurgePolicy) -> f64 {
    let needed = demand + driver_reserve(demand, policy);
    (needed + policy.pseudo_drivers) / (supply + policy.pseudo_drivers)
}

/// Idle drivers to keep so that the next rider still gets a car within the target pickup time: at
/// most one per expected request, at most [`full_reserve`].
pub fn driver_reserve(demand: f64, policy: &SurgePolicy) -> f64 {
    let full = full_reserve(policy);
    -full * (-demand / full).exp_m1()
}

/// Idle drivers per zone at which the mean pickup takes the target time.
pub fn full_reserve(policy: &SurgePolicy) -> f64 {
    let km_per_minute = policy.pickup_mph * KM_PER_MILE / 60.0;
    let minutes_at_one_per_km2 = NEAREST_OF_RANDOM_POINTS * policy.detour / km_per_minute;
    policy.zone_area_km2 * (minutes_at_one_per_km2 / policy.target_pickup_minutes).powi(2)
}

/// A zone's value drawn towards the mean of its neighbours, so that the price has no cliff at a
/// border. A zone without neighbours keeps its own. Puts the neighbours in ascending order on the
/// way.
pub fn smooth(own: f64, neighbours: &mut [f64], neighbour_weight: f64) -> f64 {
    if neighbours.is_empty() {
        return own;
    }
    // Added up in ascending order: the order in which zones arrive must not decide the last bit of
    // a price.
    neighbours.sort_unstable_by(f64::total_cmp);
    let mean = neighbours.iter().sum::<f64>() / neighbours.len() as f64;
    (1.0 - neighbour_weight) * own + neighbour_weight * mean
}

fn smoothed(
    view: &MarketView,
    feed: impl Fn(&ZoneLevels) -> Option<Level>,
    policy: &SurgePolicy,
) -> Option<f64> {
    let mut values = Vec::with_capacity(view.zones.len());
    for zone in &view.zones {
        values.push(feed(zone)?.value);
    }
    let (own, neighbours) = values.split_first_mut()?;
    Some(smooth(*own, neighbours, policy.neighbour_weight))
}

/// The mean distance to the nearest of random points is this over the square root of their density.
const NEAREST_OF_RANDOM_POINTS: f64 = 0.5;

const KM_PER_MILE: f64 = 1.609_344;

/// All parameters of the surge formula.
#[derive(Debug, Clone, PartialEq)]
pub struct SurgePolicy {
    /// Share of the neighbours' mean in a smoothed value, 0 to 1. Uber smooths over the k-ring; the
    /// weight is ours.
    pub neighbour_weight: f64,
    /// Minutes within which the next rider should get a car. Uber's mean after a large concert was
    /// 2.6.
    pub target_pickup_minutes: f64,
    /// Way driven over straight line.
    pub detour: f64,
    /// Mean speed on the way to a rider, miles per hour: the median of New York evening taxi trips
    /// is 10.2.
    pub pickup_mph: f64,
    /// Area of one zone in square kilometres.
    pub zone_area_km2: f64,
    /// Added to drivers needed and to drivers available.
    pub pseudo_drivers: f64,
    /// One over the elasticity of demand (0.55) plus that of local supply (0.45).
    pub exponent: f64,
    /// The highest multiplier in normal times, between the 2.8 and 3.5 that New York saw as
    /// emergency caps.
    pub cap: Multiplier,
    /// A lower limit while an emergency is declared.
    pub emergency_cap: Option<Multiplier>,
}

impl SurgePolicy {
    /// The cap in force: the emergency cap if there is one and it is lower.
    pub fn effective_cap(&self) -> Multiplier {
        self.emergency_cap
            .map_or(self.cap, |emergency| emergency.min(self.cap))
    }
}

impl Default for SurgePolicy {
    fn default() -> Self {
        Self {
            neighbour_weight: 0.5,
            target_pickup_minutes: 3.0,
            detour: DETOUR,
            pickup_mph: 10.0,
            zone_area_km2: ZONE_AREA_KM2,
            pseudo_drivers: 2.0,
            exponent: 1.0,
            cap: Multiplier(30),
            emergency_cap: None,
        }
    }
}

/// The factor on the fare, in whole tenths and never below one. A number such as `1.3` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Multiplier(u16);

impl Multiplier {
    /// No surge.
    pub const ONE: Self = Self(10);

    /// A multiplier from whole tenths: 13 is 1.3.
    ///
    /// # Errors
    /// [`MultiplierError`] below 10.
    pub fn from_tenths(tenths: u16) -> Result<Self, MultiplierError> {
        if tenths < Self::ONE.0 {
            Err(MultiplierError(f64::from(tenths) / 10.0))
        } else {
            Ok(Self(tenths))
        }
    }

    /// The nearest multiplier, halves up: 1.249 is 1.2, 1.251 is 1.3. A value that is not above one
    /// gives one.
    pub fn rounded(value: f64) -> Self {
        Self((value.max(1.0) * 10.0).round() as u16)
    }

    /// Whole tenths: 13 for 1.3.
    pub const fn tenths(self) -> u16 {
        self.0
    }

    /// The factor as a number.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 10.0
    }
}

impl TryFrom<f64> for Multiplier {
    type Error = MultiplierError;

    /// Reads a multiplier from the wire: it must be on the grid of tenths and at least one.
    fn try_from(value: f64) -> Result<Self, MultiplierError> {
        let nearest = Self::rounded(value);
        if (nearest.as_f64() - value).abs() < 1e-9 {
            Ok(nearest)
        } else {
            Err(MultiplierError(value))
        }
    }
}

impl fmt::Display for Multiplier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

impl Serialize for Multiplier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_f64())
    }
}

impl<'de> Deserialize<'de> for Multiplier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer)?
            .try_into()
            .map_err(de::Error::custom)
    }
}

/// The number is not a multiplier.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("multiplier {0} must be at least 1.0 and in whole tenths, such as 1.3")]
pub struct MultiplierError(f64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MarketTime;
    use crate::zone::{Bounds, ServiceArea};

    fn level(value: f64) -> Option<Level> {
        Some(Level {
            value,
            as_of: MarketTime::from_millis(0),
        })
    }

    /// A zone and six neighbours.
    fn market(own: (f64, f64), around: (f64, f64)) -> MarketView {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let zone = |index: usize, (supply, demand): (f64, f64)| ZoneLevels {
            zone: area.zones()[index],
            supply: level(supply),
            demand: level(demand),
        };
        MarketView {
            zones: (0..7)
                .map(|index| zone(index, if index == 0 { own } else { around }))
                .collect(),
        }
    }

    /// Supply, demand, reserve, load ratio, shown. Worked by hand with a detour of 1.27 and 5.16
    /// square kilometres.
    const WORKED: [(f64, f64, f64, f64, &str); 10] = [
        (0.0, 0.0, 0.00, 1.000, "1.0"),
        (5.0, 0.0, 0.00, 0.286, "1.0"),
        (1.0, 1.0, 0.86, 1.286, "1.3"),
        (5.0, 2.0, 1.49, 0.784, "1.0"),
        (5.0, 5.0, 2.54, 1.362, "1.4"),
        (10.0, 10.0, 3.07, 1.256, "1.3"),
        (5.0, 10.0, 3.07, 2.153, "2.2"),
        (10.0, 15.0, 3.18, 1.682, "1.7"),
        (20.0, 25.0, 3.21, 1.373, "1.4"),
        (3.0, 12.0, 3.137, 3.428, "3.0"),
    ];

    #[test]
    fn formula_gives_the_worked_table() {
        let worked_with = SurgePolicy {
            detour: 1.27,
            zone_area_km2: 5.16,
            ..SurgePolicy::default()
        };
        for (supply, demand, reserve, load, shown) in WORKED {
            assert!(
                (driver_reserve(demand, &worked_with) - reserve).abs() < 0.006,
                "{supply} {demand}"
            );
            assert!(
                (load_ratio(supply, demand, &worked_with) - load).abs() < 0.002,
                "{supply} {demand}"
            );
            let view = market((supply, demand), (supply, demand));
            let default = multiplier(&view, &SurgePolicy::default()).unwrap();
            assert_eq!(default.to_string(), shown, "{supply} {demand}");
        }
    }

    #[test]
    fn hot_spot_has_no_cliff_at_border() {
        let unsmoothed = load_ratio(5.0, 15.0, &SurgePolicy::default());
        let smoothed = target(&market((5.0, 15.0), (5.0, 3.0)), &SurgePolicy::default()).unwrap();
        assert!(
            (unsmoothed - 2.88).abs() < 0.01 && (smoothed - 2.00).abs() < 0.01,
            "{unsmoothed} {smoothed}"
        );
    }

    #[test]
    fn rounds_multiplier_to_nearest_tenth() {
        for (value, shown) in [
            (1.249, "1.2"),
            (1.251, "1.3"),
            (0.3, "1.0"),
            (f64::NAN, "1.0"),
        ] {
            assert_eq!(Multiplier::rounded(value).to_string(), shown);
        }
    }

    #[test]
    fn multiplier_is_a_number_in_json() {
        let shown = Multiplier::from_tenths(13).unwrap();
        assert_eq!(serde_json::to_string(&shown).unwrap(), "1.3");
        assert_eq!(serde_json::from_str::<Multiplier>("1.3").unwrap(), shown);
        for wrong in ["0.9", "1.25", "-1", "1e9"] {
            assert!(
                serde_json::from_str::<Multiplier>(wrong).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn incomplete_view_has_no_multiplier() {
        let mut view = market((5.0, 5.0), (5.0, 5.0));
        view.zones[3].demand = None;
        assert_eq!(multiplier(&view, &SurgePolicy::default()), None);
        assert_eq!(
            multiplier(&MarketView { zones: vec![] }, &SurgePolicy::default()),
            None
        );
    }
}
