//! A simulated city that uses the services as real people would: recorded pickups become riders,
//! and a seeded fleet of drivers serves them, all through the public APIs.
//!
//! The city records every driver and rider in its [`ground_truth`]. So it knows the right
//! multiplier at every moment: it is the *oracle* of a comparison.
//!
//! # How this works
//! ```text
//!            due events                       calls            +-------------------+
//! replay --> simulation --> commands --> executor ----------> | the three services |
//! (riders)     |   ^                        |                  +-------------------+
//!              |   +------- outcomes -------+
//!              v
//!        ground truth --> GET /v1/truth --> compare
//! ```
//!
//! [`simulation`] decides what drivers and riders do and waits for nothing; [`executor`] calls the
//! services; [`City`] connects the two on the market clock of the services. Random decisions depend
//! on the seed alone ([`random`]). What drivers and riders *meet* depends on the services.
//!
//! A city starts warm: it simulates the last 90 minutes offline, so that its drivers are where they
//! would be at this hour, and many of them busy ([`prepare`]). There is never more than one city on
//! the same services ([`server`]); whether the services agree with it is checked all the time
//! ([`trust`]). [`counterfactual`] runs the same simulation without services, to see what prices
//! from older data do to a market.
//!
//! Known about New York: trip lengths and durations (taxi trips), ten miles per hour on the way to
//! a rider, the price elasticity of riders. Assumed: their patience, that 15 % of the idle drivers
//! per minute follow a more expensive neighbour zone, and that nobody joins or leaves the fleet.

mod args;
mod city;
pub mod client;
pub mod clock;
mod command;
mod counterfactual;
mod counters;
mod crowd;
mod driver;
mod event_queue;
mod executor;
pub mod ground_truth;
pub mod interrupt;
mod live;
mod market_truth;
mod metrics;
pub mod output;
pub mod pickups;
mod prepare;
mod random;
mod replay;
mod rfc3339;

mod rider;
mod server;
mod services;
mod simulation;
mod state;
pub mod target;
mod trust;

pub use args::{Args, ReplayArgs, of_project};
pub use city::{City, CityOutcome};
pub use client::Client;
pub use command::run;
pub use counterfactual::{OfflineSimulation, Population, Pricing, Score};
pub use counters::CityProgress;
pub use crowd::Crowd;
pub use live::LiveCity;
pub use rider::{TripRequest, TripSampler};
pub use state::{CityConfig, DEFAULT_FLEET};
pub use target::{Target, TargetArgs};
