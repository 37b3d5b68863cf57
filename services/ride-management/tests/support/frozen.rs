//! A server that hangs: it is there, its connections stand, and nothing answers.

use std::{fs, process::Command};

/// A process and its children, stopped until this is dropped.
pub(crate) struct Frozen {
    pids: Vec<u32>,
}

impl Frozen {
    /// Stops the process, and then its children: it can start no more of them.
    pub(crate) fn freeze(parent: u32) -> Self {
        let mut frozen = Self { pids: vec![parent] };
        send("STOP", parent);
        for child in children_of(parent) {
            send("STOP", child);
            frozen.pids.push(child);
        }
        assert!(frozen.pids.len() > 1, "PostgreSQL has children");
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.pids {
            send("CONT", *pid);
        }
    }
}

/// Sends a signal to a process that the test has started.
pub(crate) fn send(signal: &str, pid: u32) {
    let sent = Command::new("kill")
        .args(["-s", signal, &pid.to_string()])
        .status();
    assert!(sent.unwrap().success(), "{signal} to {pid}");
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
