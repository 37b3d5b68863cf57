//! The process of price-optimization; everything is in the library, so that tests and the local
//! stack run the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    price_optimization::main(std::env::args().collect())
}
