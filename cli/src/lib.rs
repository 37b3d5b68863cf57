//! The `surge` command: the local stack, the demo, and the small tools around them.
//!
//! [`Stack`] runs the whole suite on one machine; `commands` has one file per subcommand;
//! [`training`] makes the demand profile that the services start with. Start to read at
//! [`Stack::start`].
//!
//! This crate may import every other one, and no crate imports it.

mod cli;
mod commands;
mod interrupts;
mod stack;
mod terminal;
pub mod training;

use std::process::ExitCode;

pub use stack::{
    DEMAND_PROFILE, FRIDAY_EVENING, Member, PORT_BASE_VARIABLE, Part, PortMap, Ports, RunningStack,
    STATE_DIR, Stack, StackSettings,
};

/// Runs the subcommand that the process's arguments name.
pub fn main() -> ExitCode {
    commands::run(cli::parse())
}
