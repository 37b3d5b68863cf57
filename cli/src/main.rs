//! The `surge` command; everything is in the library, so that tests start the same stack.

use std::process::ExitCode;

fn main() -> ExitCode {
    surge::main()
}
