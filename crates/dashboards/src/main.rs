//! `cargo run -p dashboards` writes `observability/grafana/dashboards` from
//! `observability/grafana/panels`.

use std::process::ExitCode;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that a person runs by hand"
)]
fn main() -> ExitCode {
    match dashboards::write() {
        Ok(written) => {
            println!("written: {}", written.join(", "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("dashboards: {error:#}");
            ExitCode::FAILURE
        }
    }
}
