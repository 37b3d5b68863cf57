//! The economics of the marketplace: zones, supply, demand, forecasts, surge, fares and quotes.
//!
//! Everything here is pure. No function awaits, and none reads a clock, a file or the environment:
//! callers pass `now`. So the services, the batch job, the city simulation and the backtest compute
//! with the same code, and the same inputs give the same price in each of them.
//!
//! ```text
//! positions, trips -> supply --+
//!                              +-> levels of the k-ring -> surge -> multiplier --+
//! ride requests ---> demand ---+        (view)                                   +-> quote
//! pickup, drop-off -------------------------------------------------> fare ------+
//! ```
//!
//! Start to read at [`quote::price`], then [`surge`], then [`demand`].

pub mod backtest;
pub mod demand;
pub mod fare;
pub mod new_york;
pub mod quote;
pub mod supply;
pub mod surge;
pub mod time;
pub mod view;
pub mod zone;

pub use demand::{DemandForecaster, DemandProfile, FilterSettings, ProfileSettings};
pub use fare::{FareSchedule, Trip};
pub use quote::{Freshness, Price, PricingPolicy, Quote, QuoteRefusal, price};
pub use supply::{DriverState, DriverStatus, Dropoff, SupplyBook, predicted_available};
pub use surge::{Multiplier, SurgePolicy};
pub use time::MarketTime;
pub use view::{Level, LevelBoard, MarketView, ZoneLevels};
pub use zone::{Bounds, KRing, OutsideServiceArea, Position, PositionError, ServiceArea, Zone};
