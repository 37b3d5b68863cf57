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

use std::{env, ffi::OsString, process::ExitCode};

pub use stack::{
    DEMAND_PROFILE, FRIDAY_EVENING, Member, PASSED_ON, PORT_BASE_VARIABLE, Part, PortMap, Ports,
    RunningStack, STATE_DIR, Stack, StackSettings,
};

/// Runs the subcommand that the process's arguments name.
pub fn main() -> ExitCode {
    forget_variables_of_libpq();
    commands::run(cli::parse())
}

/// A URL of ours says how a PostgreSQL is reached. What it leaves out, sqlx would take from the
/// variables that a shell has for psql.
#[expect(unsafe_code, reason = "sqlx has no options without the environment")]
fn forget_variables_of_libpq() {
    let of_libpq = |(name, _): &(OsString, OsString)| name.as_encoded_bytes().starts_with(b"PG");
    for (name, _) in env::vars_os().filter(of_libpq) {
        // SAFETY: the process begins here, and has one thread.
        unsafe { env::remove_var(name) };
    }
}
