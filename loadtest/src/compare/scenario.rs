//! The markets that can be compared on, by name.

use clap::ValueEnum;

/// A market to replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Scenario {
    /// The real pickups at the market clock's time of the week, as they come.
    #[default]
    FridayEvening,
}

impl Scenario {
    /// The name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FridayEvening => "friday-evening",
        }
    }
}
