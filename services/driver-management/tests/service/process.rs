//! The real process: its start, its end, its size.

use std::process::{Child, Command, Stdio};

use private_servers::{free_port, spawn_tied};

use crate::support::{Rest, Stand, eventually};

/// What a service may take, idle or not.
const LIMIT_MIB: u64 = 64;

#[tokio::test]
async fn a_missing_variable_stops_the_start_with_one_line() {
    let output = command().env_remove("DATABASE_URL").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(
        complaint.starts_with("driver-management: DATABASE_URL is missing"),
        "{complaint}"
    );
    assert_eq!(complaint.lines().count(), 1);
}

#[tokio::test]
async fn an_idle_process_is_small_and_ends_well() {
    let stand = Stand::start().await;
    let process = serving(&stand).await;
    let resident = resident_mib(&process);
    assert!(resident < LIMIT_MIB, "{resident} MiB");
    ends_well(process).await;
}

/// A real process, ready, that can be stopped and killed.
pub(crate) async fn serving(stand: &Stand) -> Child {
    let port = free_port().unwrap();
    let mut command = command();
    command.args(&stand.arguments(port)[1..]);
    command.stderr(Stdio::null());
    let process = spawn_tied(command).unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    eventually("the process serves", async || {
        std::net::TcpStream::connect(address).ok()
    })
    .await;
    let rest = Rest::of(address).await;
    eventually("the process is ready", async || {
        (rest.get_plain("/readyz").await.status == 200).then_some(())
    })
    .await;
    process
}

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_driver-management"))
}

fn resident_mib(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

async fn ends_well(mut process: Child) {
    let terminate = Command::new("kill")
        .arg(process.id().to_string())
        .status()
        .unwrap();
    assert!(terminate.success());
    let ended = eventually("the process ends", async || process.try_wait().unwrap()).await;
    assert!(ended.success(), "{ended}");
}
