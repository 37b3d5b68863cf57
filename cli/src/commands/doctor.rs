//! `surge doctor`: which programs and ports that the suite needs this machine has, and how to get
//! the missing ones.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use comfy_table::Cell;
use private_servers::{find_nats, find_postgres};

use crate::{
    stack::{Ports, RunningStack, check_ports},
    terminal::{say, table, verdict},
};

/// One thing that the suite needs: its version and place, or how to get it.
struct Checkup {
    name: &'static str,
    finding: Result<String, String>,
}

pub(crate) fn run(state_dir: &Path) -> anyhow::Result<ExitCode> {
    let checkups = [
        Checkup {
            name: "Rust",
            finding: version_of("cargo", "install it from https://rustup.rs"),
        },
        Checkup {
            name: "PostgreSQL",
            finding: postgres(),
        },
        Checkup {
            name: "NATS",
            finding: nats(),
        },
        Checkup {
            name: "ports",
            finding: ports(state_dir)?,
        },
    ];
    print(&checkups)?;
    let well = checkups.iter().all(|checkup| checkup.finding.is_ok());
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(checkups: &[Checkup]) -> anyhow::Result<()> {
    let mut findings = table(["needed", "", "found, or how to get it"]);
    for Checkup { name, finding } in checkups {
        let (mark, text) = match finding {
            Ok(text) => (verdict(true, "ok"), text),
            Err(text) => (verdict(false, "missing"), text),
        };
        findings.add_row([Cell::new(name), mark, Cell::new(text)]);
    }
    Ok(say(findings)?)
}

/// The first line that a program prints for `--version`.
fn version_of(program: &str, remedy: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("{program}: {error}; {remedy}"))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    match answer.lines().next() {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        _ => Err(format!(
            "{program} --version ended with {}; {remedy}",
            output.status
        )),
    }
}

fn postgres() -> Result<String, String> {
    let found = find_postgres().map_err(|missing| missing.to_string())?;
    Ok(format!("{}, {}", found.version, found.postgres.display()))
}

fn nats() -> Result<String, String> {
    let found = find_nats().map_err(|missing| missing.to_string())?;
    Ok(format!("{}, {}", found.version, found.path.display()))
}

/// The ports are free, or the stack that runs here holds them.
fn ports(state_dir: &Path) -> anyhow::Result<Result<String, String>> {
    if let Some(record) = RunningStack::here(state_dir)? {
        let first = record.ports.http[0][0];
        return Ok(Ok(format!(
            "held by the stack that runs here, from {first} on"
        )));
    }
    let ports = Ports::from_environment()?;
    let free = check_ports(ports).map(|map| format!("{} and the others are free", map.http[0][0]));
    Ok(free.map_err(|error| format!("{error:#}")))
}
