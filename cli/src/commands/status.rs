//! `surge status`: every part of the local stack, whether it answers, and the state of its
//! dependencies.

use std::{collections::BTreeMap, net::TcpStream, path::Path, process::ExitCode, time::Duration};

use city::Client;
use comfy_table::Cell;

use super::{
    answer::{DependencyStatus, ReadyzAnswer},
    mode,
};
use crate::{
    stack::{Member, Part, RunningStack, loopback, url},
    terminal::{complain, say, table, verdict},
};

/// Local parts answer in milliseconds; a service gives each of its dependencies half a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// The state of one part.
struct Finding {
    healthy: bool,
    state: String,
    dependencies: String,
}

pub(crate) async fn run(state_dir: &Path) -> anyhow::Result<ExitCode> {
    let record = RunningStack::meant(state_dir)?;
    let mut parts = table(["part", "pid", "ports", "state", "dependencies"]);
    let mut healthy = true;
    for (member, pid) in &record.parts {
        let finding = examine(*member, &record).await;
        healthy &= finding.healthy;
        parts.add_row([
            Cell::new(member),
            Cell::new(pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
            Cell::new(ports_of(*member, &record)),
            verdict(finding.healthy, finding.state),
            Cell::new(finding.dependencies),
        ]);
    }
    let by_hand = !record.parts.iter().any(|(it, _)| it.part == Part::City);
    let city = ask(record.ports.city).await;
    if by_hand && city.state != "down" {
        parts.add_row([
            Cell::new(Part::City),
            Cell::new("-"),
            Cell::new(record.ports.city),
            verdict(city.healthy, city.state),
            Cell::new(city.dependencies),
        ]);
    }
    say(parts)?;
    match mode::show(&record.price_url()).await {
        Ok(in_force) => say(format_args!("dataflow: {}", in_force.sentence()))?,
        Err(error) => complain(error),
    }
    say(format_args!("logs: {}", record.logs.display()))?;
    Ok(match healthy {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn examine(member: Member, record: &RunningStack) -> Finding {
    let Some(port) = record.ports.of(member).first().copied() else {
        return Finding::simple(false, "down");
    };
    match member.part {
        Part::Postgres | Part::Nats | Part::TraceView => {
            let answers = TcpStream::connect_timeout(&loopback(port), ANSWER_LIMIT).is_ok();
            Finding::simple(answers, if answers { "up" } else { "down" })
        }
        _ => ask(port).await,
    }
}

async fn ask(port: u16) -> Finding {
    let answer = Client::new(ANSWER_LIMIT)
        .get(&format!("{}/readyz", url(port)))
        .await;
    let Ok(answer) = answer else {
        return Finding::simple(false, "down");
    };
    match answer.json::<ReadyzAnswer>() {
        Ok(readiness) => Finding {
            dependencies: list(&readiness.dependencies),
            ..Finding::simple(answer.status.is_success(), &readiness.status)
        },
        Err(_) => Finding::simple(false, "not ours"),
    }
}

impl Finding {
    fn simple(healthy: bool, state: &str) -> Self {
        Self {
            healthy,
            state: state.to_owned(),
            dependencies: String::new(),
        }
    }
}

fn list(dependencies: &BTreeMap<String, DependencyStatus>) -> String {
    let one = |(name, dependency): (&String, &DependencyStatus)| {
        let need = if dependency.needed {
            ""
        } else {
            " (not needed)"
        };
        format!("{name} {}{need}", dependency.status)
    };
    dependencies.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn ports_of(member: Member, record: &RunningStack) -> String {
    let ports = record.ports.of(member);
    ports
        .iter()
        .map(u16::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
