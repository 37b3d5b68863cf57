//! The real process: its start, its end, its size.

use std::process::{Child, Command, Stdio};

use private_servers::{free_port, spawn_tied};
use test_harness::{RestClient, Servers, exit_status, signal, until};

use crate::support::arguments;

/// The resident memory that a service may take, idle or not.
const LIMIT_MIB: u64 = 64;

#[tokio::test]
async fn missing_variable_stops_the_start() {
    let output = command().env_remove("DATABASE_URL").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let complaint = String::from_utf8(output.stderr).unwrap();
    let expected = "driver-management: DATABASE_URL is missing";
    assert!(complaint.starts_with(expected), "{complaint}");
    assert_eq!(complaint.lines().count(), 1);
}

#[tokio::test]
async fn idle_process_is_small_and_ends_well() {
    let servers = Servers::start().await;
    let mut process = ready_process(&servers).await;
    let resident = resident_mib(&process);
    assert!(resident < LIMIT_MIB, "{resident} MiB");
    signal(process.id(), "TERM");
    let status = exit_status(&mut process).await;
    assert!(status.success(), "{status}");
}

/// A real process, ready, that can be stopped and killed.
pub(crate) async fn ready_process(servers: &Servers) -> Child {
    let port = free_port().unwrap();
    let mut command = command();
    command.args(&arguments(servers, port)[1..]);
    command.stderr(Stdio::null());
    let process = spawn_tied(command).unwrap();
    becomes_ready(port).await;
    process
}

/// Waits until the process that listens on this port is ready.
pub(crate) async fn becomes_ready(port: u16) {
    let rest = RestClient::connect(([127, 0, 0, 1], port).into()).await;
    until("the process is ready", async || {
        rest.get("/readyz").await.status == 200
    })
    .await;
}

pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_driver-management"))
}

fn resident_mib(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}
