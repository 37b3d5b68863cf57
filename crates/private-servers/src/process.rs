//! Identity and descendants of a process, from the process table of the operating system.
//!
//! A pid alone does not identify a process, because the system reuses pids; pid and start time
//! together do. Linux has both in `/proc`; other systems have `ps`.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// The pause of a waiting loop, short compared to the 20 ms in which the fastest server starts.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// SIGKILL takes effect in milliseconds, unless the process waits for a broken disk.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// One process, distinct from a later one with the same pid. Its text is `pid-started`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    pid: u32,
    /// Opaque, letters and digits only.
    started: String,
}

impl ProcessIdentity {
    /// The process that has this pid now, also if it has ended and was not reaped yet.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        table::entry(pid).map(|entry| entry.identity)
    }

    /// Parses what `Display` writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.split_once('-')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.to_owned(),
        })
    }

    /// Whether this process still runs. One that was not reaped yet does not.
    pub(crate) fn is_alive(&self) -> bool {
        table::entry(self.pid).is_some_and(|entry| entry.identity == *self && !entry.zombie)
    }

    /// Asks the process to end, waits, and kills it and its descendants if it does not. Blocks for
    /// up to `grace` and 2 s.
    pub(crate) fn end(&self, request: Signal, grace: Duration) {
        self.signal(request);
        self.signal(Signal::CONT); // a stopped process would not receive the request
        if !all_end_within(std::slice::from_ref(self), grace) {
            tracing::warn!(
                "process {} did not end within {grace:?}: killing it",
                self.pid
            );
            self.kill();
        }
    }

    /// Kills the process and its descendants, as a power cut would. Blocks for up to 2 s.
    pub(crate) fn kill(&self) {
        self.signal(Signal::STOP); // so that it starts no process that the next line misses
        let mut family = self.descendants();
        family.insert(0, self.clone());
        family
            .iter()
            .for_each(|process| process.signal(Signal::KILL));
        if !all_end_within(&family, KILL_LIMIT) {
            tracing::warn!("process {} or one it started survives SIGKILL", self.pid);
        }
    }

    /// The processes that this one started, and their descendants.
    fn descendants(&self) -> Vec<Self> {
        let entries = table::entries();
        let mut family = vec![self.clone()];
        let mut next = 0;
        while let Some(parent) = family.get(next).map(|process| process.pid) {
            family.extend(
                entries
                    .iter()
                    .filter(|entry| entry.parent == parent)
                    .map(|entry| entry.identity.clone()),
            );
            next += 1;
        }
        family.split_off(1)
    }

    /// Sends a signal. It is no error if the process has ended meanwhile.
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|_| self.is_alive()) else {
            return;
        };
        if let Err(error) = kill_process(pid, signal) {
            tracing::debug!(%error, "{signal:?} did not reach process {}", self.pid);
        }
    }
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.started)
    }
}

fn all_end_within(processes: &[ProcessIdentity], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while processes.iter().any(ProcessIdentity::is_alive) {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

struct TableEntry {
    identity: ProcessIdentity,
    parent: u32,
    /// Ended and not reaped yet.
    zombie: bool,
}

#[cfg(target_os = "linux")]
mod table {
    use procfs::process::{Process, all_processes};

    use super::{ProcessIdentity, TableEntry};

    pub(super) fn entry(pid: u32) -> Option<TableEntry> {
        of(&Process::new(i32::try_from(pid).ok()?).ok()?)
    }

    pub(super) fn entries() -> Vec<TableEntry> {
        let processes = all_processes().into_iter().flatten().flatten();
        processes.filter_map(|process| of(&process)).collect()
    }

    fn of(process: &Process) -> Option<TableEntry> {
        let stat = process.stat().ok()?;
        Some(TableEntry {
            identity: ProcessIdentity {
                pid: u32::try_from(stat.pid).ok()?,
                started: stat.starttime.to_string(),
            },
            parent: u32::try_from(stat.ppid).ok()?,
            zombie: matches!(stat.state, 'Z' | 'X'),
        })
    }
}

#[cfg(not(target_os = "linux"))]
mod table {
    use std::process::Command;

    use super::{ProcessIdentity, TableEntry};

    pub(super) fn entry(pid: u32) -> Option<TableEntry> {
        entries()
            .into_iter()
            .find(|entry| entry.identity.pid == pid)
    }

    pub(super) fn entries() -> Vec<TableEntry> {
        let listing = Command::new("ps")
            .args(["-A", "-o", "pid=,ppid=,stat=,lstart="])
            .output();
        let text = listing.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .lines()
            .filter_map(parse)
            .collect()
    }

    fn parse(line: &str) -> Option<TableEntry> {
        let mut fields = line.split_whitespace();
        let pid = fields.next()?.parse().ok()?;
        let parent = fields.next()?.parse().ok()?;
        let zombie = fields.next()?.starts_with('Z');
        let started = fields
            .flat_map(str::chars)
            .filter(char::is_ascii_alphanumeric)
            .collect();
        Some(TableEntry {
            identity: ProcessIdentity { pid, started },
            parent,
            zombie,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn reused_pid_is_another_process() {
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert_eq!(ProcessIdentity::parse(&own.to_string()), Some(own.clone()));
        let earlier = ProcessIdentity {
            started: "0".to_owned(),
            ..own
        };
        assert!(!earlier.is_alive());
    }

    #[test]
    fn kill_includes_descendants() {
        let (mut shell, identity) = shell("sleep 60 & wait");
        let started = wait_for_a_descendant(&identity);
        identity.kill();
        assert!(!started.is_alive());
        assert!(
            !identity.is_alive(),
            "a process that waits to be reaped is not alive"
        );
        shell.wait().unwrap();
    }

    #[test]
    fn process_that_ignores_request_is_killed() {
        let (mut shell, identity) = shell("trap '' TERM; while :; do sleep 1; done");
        wait_for_a_descendant(&identity);
        identity.end(Signal::TERM, Duration::from_millis(50));
        assert!(!identity.is_alive());
        shell.wait().unwrap();
    }

    fn shell(script: &str) -> (Child, ProcessIdentity) {
        let child = Command::new("sh")
            .args(["-c", script])
            .spawn()
            .expect("a Unix system has sh");
        let identity = ProcessIdentity::of(child.id()).expect("it is not reaped yet");
        (child, identity)
    }

    fn wait_for_a_descendant(identity: &ProcessIdentity) -> ProcessIdentity {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(descendant) = identity.descendants().into_iter().next() {
                return descendant;
            }
            assert!(Instant::now() < deadline, "the shell started nothing");
            thread::sleep(POLL);
        }
    }
}
