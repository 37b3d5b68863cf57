//! What if quotes were made from older data? The same city off the wire: the drivers, riders and rng of a
//! [`Simulation`](super::simulation::Simulation), and services without delay or failure that price as they are told.
//!
//! Every command is answered at once and from the city's own truth, so a whole evening passes in a fraction of a second
//! and always in the same way. What differs between two evenings of one seed is the data behind the quotes, and
//! nothing else: so what differs in the outcome is what that age costs. Here nothing waits, calls or reads a clock.
//!
//! Left out of the model, and so of every figure: nobody joins the fleet because it surges, nobody asks twice, and the
//! pickups on record are all the demand there is.

mod offline;
mod prices;
mod score;

pub use offline::{OfflineSimulation, Population};
pub use prices::Pricing;
pub use score::Score;

#[cfg(test)]
mod tests;
