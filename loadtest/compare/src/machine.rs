//! On what, and of which code, the figures were taken.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// The machine that ran the load engine; with a local suite also the one under test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors this process may use.
    pub cpus: Option<usize>,
    /// Memory in GiB, one decimal.
    pub memory_gib: Option<f64>,
}

impl Machine {
    /// Looks at the machine we run on; what it does not tell stays unknown.
    pub fn here() -> Self {
        Self {
            cpus: std::thread::available_parallelism().ok().map(usize::from),
            memory_gib: std::fs::read_to_string("/proc/meminfo")
                .ok()
                .and_then(|text| memory_gib(&text)),
        }
    }
}

fn memory_gib(meminfo: &str) -> Option<f64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some((kib / KIB_PER_GIB * 10.0).round() / 10.0)
}

const KIB_PER_GIB: f64 = 1024.0 * 1024.0;

/// The commit of the working directory, with `-dirty` when files differ from it; `None` outside a repository.
pub(crate) fn git_commit() -> Option<String> {
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let suffix = if changes.is_empty() { "" } else { "-dirty" };
    Some(format!("{commit}{suffix}"))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
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
