//! The markets that can be compared on: what each does to the load, to the city and to the evenings off the wire.
//!
//! A scenario is a TOML file. Those in `loadtest/scenarios` are compiled in and go by their names; a file of one's own
//! goes by its path. What a file leaves out is as in the default one.

mod catalogue;
mod schema;

pub(crate) use catalogue::named_or_read;
pub(crate) use schema::Climb;
pub use schema::Scenario;

/// The scenario that is compared on when none is named.
pub(crate) const DEFAULT: &str = "friday-evening";
