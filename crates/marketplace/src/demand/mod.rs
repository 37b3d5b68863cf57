//! Demand: how many requests to expect in a zone in the coming window.
//!
//! It has two parts. The [`DemandProfile`] is slow: trained on past weeks, it knows how many
//! requests a zone usually gets at each time of the week. The [`DemandForecaster`] is fast: a
//! gamma-Poisson filter that moves the profile up or down with the requests of the last hours.
//!
//! On real pickups the filter is within one percent of gradient boosting. It needs no library,
//! counts a request at once and starts without data. [`backtest`](crate::backtest) scores it
//! against simpler methods.

mod forecaster;
mod profile;
mod window_counts;

pub use forecaster::{DemandForecaster, FilterSettings};
pub use profile::{DemandProfile, ProfileError, ProfileSettings};
