//! What would happen if quotes were made from older data? The same simulation, offline: its
//! services answer at once, never fail, and price from data of the given age.
//!
//! Every command gets its outcome at once, from the ground truth, so a whole evening passes in a
//! fraction of a second and always in the same way. Two runs of one seed differ in the data behind
//! the quotes and in nothing else, so a difference in the outcome is the effect of that age.
//!
//! Not in the model, and so in no figure: nobody joins the fleet because of surge, nobody asks
//! twice, and the pickups on record are all the demand.

mod offline;
mod prices;
mod score;

pub use offline::{OfflineSimulation, Population};
pub use prices::Pricing;
pub use score::Score;

#[cfg(test)]
mod tests;
