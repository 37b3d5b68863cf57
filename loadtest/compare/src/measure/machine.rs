//! The machine and the commit of a run.

use std::process::{Command, Stdio};

use crate::report::Machine;
use crate::statistics::rounded;

/// The machine that this process runs on; what the operating system does not say stays unknown.
pub(crate) fn this_machine() -> Machine {
    let gib = |bytes: u64| rounded(bytes as f64 / 1024_f64.powi(3), 1);
    Machine {
        cpus: std::thread::available_parallelism().ok().map(usize::from),
        memory_gib: memory_bytes().map(gib),
    }
}

#[cfg(target_os = "linux")]
fn memory_bytes() -> Option<u64> {
    use procfs::Current as _;
    Some(procfs::Meminfo::current().ok()?.mem_total)
}

#[cfg(not(target_os = "linux"))]
fn memory_bytes() -> Option<u64> {
    None
}

/// The commit of the working directory, with `-dirty` when files differ from it; `None` outside a
/// repository.
pub(crate) fn git_commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let suffix = if changes.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{suffix}"))
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    let output = git
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn machine_has_processors_and_memory() {
        let machine = this_machine();
        assert!(machine.cpus >= Some(1));
        assert!(
            machine
                .memory_gib
                .is_some_and(|gib| (0.1..100_000.0).contains(&gib))
        );
    }
}
