//! Who a process is and whom it started, read from the operating system's process table.
//!
//! A pid alone is not an identity, because pids are reused: pid and start time together are. Linux
//! has both in `/proc`; elsewhere `ps` is asked.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How often a waiting loop looks again: short beside the 20 ms in which the fastest server starts
/// or stops.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// SIGKILL takes effect in milliseconds, unless the process hangs in a disk operation that nothing
/// can end.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// One process, not to be mistaken for a later one of the same pid. Written as `pid-started`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    pid: u32,
    /// Opaque, letters and digits only.
    started: String,
}

impl ProcessIdentity {
    /// The process that has this pid now, also if it has ended and only waits to be reaped.
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

    /// Whether this very process still runs. One that only waits to be reaped does not.
    pub(crate) fn is_alive(&self) -> bool {
        table::entry(self.pid).is_some_and(|entry| entry.identity == *self && !entry.zombie)
    }

    /// Asks the process to end, waits, and kills it with all it started if it does not. Blocks up
    /// to `grace` and 2 s.
    pub(crate) fn end(&self, request: Signal, grace: Duration) {
        self.signal(request);
        self.signal(Signal::CONT); // one that is stopped would not hear the request
        if !all_end_within(std::slice::from_ref(self), grace) {
            tracing::warn!(
                "process {} did not end within {grace:?}: killing it",
                self.pid
            );
            self.kill();
        }
    }

    /// Kills the process and all it started, as a power cut would. Blocks up to 2 s.
    pub(crate) fn kill(&self) {
        self.signal(Signal::STOP); // from here on it starts nothing that the next line would miss
        let mut family = self.descendants();
        family.insert(0, self.clone());
        family
            .iter()
            .for_each(|process| process.signal(Signal::KILL));
        if !all_end_within(&family, KILL_LIMIT) {
            tracing::warn!("process {} or one it started survives SIGKILL", self.pid);
        }
    }

    /// Everything this process started, and what those started, at this moment.
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

    /// No error if the process has just ended: that is what the signal was for.
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

struct Entry {
    identity: ProcessIdentity,
    parent: u32,
    /// Ended, but its parent has not asked how yet.
    zombie: bool,
}

#[cfg(target_os = "linux")]
mod table {
    use procfs::process::{Process, all_processes};

    use super::{Entry, ProcessIdentity};

    pub(super) fn entry(pid: u32) -> Option<Entry> {
        read(&Process::new(i32::try_from(pid).ok()?).ok()?)
    }

    pub(super) fn entries() -> Vec<Entry> {
        let processes = all_processes().into_iter().flatten().flatten();
        processes.filter_map(|process| read(&process)).collect()
    }

    fn read(process: &Process) -> Option<Entry> {
        let stat = process.stat().ok()?;
        Some(Entry {
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

    use super::{Entry, ProcessIdentity};

    pub(super) fn entry(pid: u32) -> Option<Entry> {
        entries()
            .into_iter()
            .find(|entry| entry.identity.pid == pid)
    }

    pub(super) fn entries() -> Vec<Entry> {
        let listing = Command::new("ps")
            .args(["-A", "-o", "pid=,ppid=,stat=,lstart="])
            .output();
        let text = listing.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .lines()
            .filter_map(parse)
            .collect()
    }

    fn parse(line: &str) -> Option<Entry> {
        let mut fields = line.split_whitespace();
        let pid = fields.next()?.parse().ok()?;
        let parent = fields.next()?.parse().ok()?;
        let zombie = fields.next()?.starts_with('Z');
        let started = fields
            .flat_map(str::chars)
            .filter(char::is_ascii_alphanumeric)
            .collect();
        Some(Entry {
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
    fn this_process_is_alive_and_a_later_one_with_its_pid_would_not_be_it() {
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
    fn killing_a_process_kills_what_it_started() {
        let (mut shell, identity) = shell("sleep 60 & wait");
        let started = wait_for_a_descendant(&identity);
        identity.kill();
        assert!(!started.is_alive());
        assert!(
            !identity.is_alive(),
            "it waits to be reaped, which is not alive"
        );
        shell.wait().unwrap();
    }

    #[test]
    fn a_process_that_ignores_the_request_is_killed() {
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
