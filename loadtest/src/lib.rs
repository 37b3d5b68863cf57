//! The suite seen from outside: a city that lives on its public APIs, and the load that compares the three dataflows.
//!
//! Everything here speaks to the services over the wire alone, and of ours it knows only `marketplace` (to keep its own
//! books) and the names in `surge-proto`: an instrument that shared code with what it measures could cheat. Start
//! reading at [`compare::run`].

pub mod ask;
pub mod books;
pub mod city;
pub mod client;
pub mod clock;
pub mod compare;
pub mod interrupt;
pub mod load;
pub mod pickups;
pub mod target;
pub mod wall_clock;
pub mod whole_file;

pub use client::Client;
pub use target::{Target, TargetArgs};
