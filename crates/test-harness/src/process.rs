//! Signals to processes that a test has started, and a server that hangs.

use std::{
    fs,
    process::{Child, Command, ExitStatus},
};

use crate::eventually;

/// Sends a signal, such as `STOP`, to a process that the test has started.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success(), "{name} to {pid}");
}

/// How a process ended, once it has.
pub async fn exit_status(process: &mut Child) -> ExitStatus {
    eventually("the process ends", async || process.try_wait().unwrap()).await
}

/// A process and its children that are stopped until this value is dropped: the server is there,
/// its connections are open, and it does not answer.
#[derive(Debug)]
pub struct Frozen {
    pids: Vec<u32>,
}

impl Frozen {
    /// Stops the process, and then its children: it can start no more of them.
    pub fn freeze(parent: u32) -> Self {
        let mut frozen = Self { pids: vec![parent] };
        signal(parent, "STOP");
        for child in children_of(parent) {
            signal(child, "STOP");
            frozen.pids.push(child);
        }
        assert!(frozen.pids.len() > 1, "PostgreSQL has children");
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.pids {
            signal(*pid, "CONT");
        }
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// proc_pid_stat(5): `pid (name) state parent …`, and the name may hold anything.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}
