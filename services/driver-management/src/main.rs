//! The process: everything it does is in the library, so that tests and the `surge` command can run
//! it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    driver_management::main(std::env::args().collect())
}
