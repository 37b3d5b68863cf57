//! `cargo run -p dashboards` writes `observability/grafana/dashboards` from
//! `observability/grafana/panels`.

use std::io::{self, Write as _};

fn main() -> anyhow::Result<()> {
    let written = dashboards::write()?;
    Ok(writeln!(io::stdout(), "written: {}", written.join(", "))?)
}
