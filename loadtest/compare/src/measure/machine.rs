//! The machine and the commit of a run.

use std::process::{Command, Stdio};

use crate::report::Machine;

/// The machine that this process runs on; what the operating system does not say stays unknown.
pub(crate) fn this_machine() -> Machine {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok();
    Machine {
        cpus: std::thread::available_parallelism().ok().map(usize::from),
        memory_gib: meminfo.and_then(|text| memory_gib(&text)),
    }
}

fn memory_gib(meminfo: &str) -> Option<f64> {
    const KIB_PER_GIB: f64 = 1024.0 * 1024.0;
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(crate::statistics::rounded(kib / KIB_PER_GIB, 1))
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

    #[test]
    fn memory_is_read_in_gib() {
        let meminfo = "MemFree: 1 kB\nMemTotal:       25165824 kB\n";
        assert_eq!(memory_gib(meminfo), Some(24.0));
        assert_eq!(memory_gib("MemTotal: much"), None);
    }
}
