//! The process of ride-management. Everything is in the library, so that tests and the local stack
//! run the same code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ride_management::main(std::env::args().collect())
}
