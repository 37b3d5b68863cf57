//! The `surge` command. All code is in the library, so that tests start the same stack.

use std::process::ExitCode;

fn main() -> ExitCode {
    surge::main()
}
