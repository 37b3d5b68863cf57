//! Demand: how many requests to expect in a zone in the coming window.
//!
//! Two parts. The [`DemandProfile`] is slow knowledge, trained on past weeks: what this zone sees at this time of the
//! week. The [`DemandForecaster`] is fast knowledge: a gamma-Poisson filter that moves the profile up and down with the
//! requests of the last hours. On real pickups it is within a percent of gradient boosting, needs no library,
//! counts a request at once and starts from nothing; `backtest` scores it against simpler methods.

mod forecaster;
mod profile;
mod window_counts;

pub use forecaster::{DemandForecaster, FilterSettings};
pub use profile::{DemandProfile, ProfileError, ProfileSettings};
