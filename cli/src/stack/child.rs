//! One child process of the stack: this executable in the role of a part, with its log file.
//! Dropping a [`ChildProcess`] ends it.

use std::{
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use private_servers::{last_lines, spawn_tied};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio_util::sync::CancellationToken;

use super::{Member, logs::Log};

/// A service drains for at most 5 s; one that takes longer than this hangs.
const GRACE: Duration = Duration::from_secs(8);

/// SIGKILL works in milliseconds or, with a hung disk, never.
const KILL_LIMIT: Duration = Duration::from_secs(2);

const POLL: Duration = Duration::from_millis(5);

/// A part that was started, and may have ended since.
#[derive(Debug)]
pub(super) struct ChildProcess {
    member: Member,
    child: Child,
    log: Log,
    /// Whether its end was reported.
    reported: bool,
}

impl ChildProcess {
    /// Starts the process; its output is appended to the log.
    pub(super) fn spawn(member: Member, mut command: Command, log: Log) -> anyhow::Result<Self> {
        let output = log.open()?;
        command.stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        let child = spawn_tied(command).with_context(|| format!("cannot start {member}"))?;
        Ok(Self {
            member,
            child,
            log,
            reported: false,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, once it has.
    pub(super) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// A sentence about its end, at the first call after it.
    pub(super) fn failure(&mut self) -> Option<String> {
        if self.reported {
            return None;
        }
        let status = self.exit_status()?;
        self.reported = true;
        Some(format!(
            "{} ended with {status}; the end of its log:\n{}\nthe whole log: {}",
            self.member,
            last_lines(self.log.path()),
            self.log.path().display()
        ))
    }

    /// Asks it to finish its work and to end.
    pub(super) fn ask_to_end(&mut self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT); // a stopped process would not receive the request
    }

    /// Waits for its end, and kills it when that takes too long or `hurry` is cancelled.
    pub(super) async fn end(mut self, hurry: &CancellationToken) {
        let deadline = Instant::now() + GRACE;
        while self.exit_status().is_none() && Instant::now() < deadline && !hurry.is_cancelled() {
            tokio::time::sleep(POLL).await;
        }
        self.kill();
    }

    /// Kills it with SIGKILL and waits for its end, at most 2 s.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
        if !self.ends_within(KILL_LIMIT) {
            tracing::warn!("{} (process {}) survives SIGKILL", self.member, self.pid());
        }
    }

    fn ends_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.exit_status().is_none() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }

    /// The pid is ours until we have seen the end, so the signal cannot reach another process.
    fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_some() {
            return;
        }
        if let Err(error) = kill_process(Pid::from_child(&self.child), signal) {
            tracing::debug!(%error, "{signal:?} did not reach {}", self.member);
        }
    }
}

/// Whether a child has ended, without taking its exit status from the code that waits for it.
pub(super) fn has_ended(pid: u32) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), look), Ok(Some(_))))
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.ask_to_end();
        if !self.ends_within(GRACE) {
            self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::stack::{Part, logs::Logs};

    fn shell(script: &str, folder: &TempDir) -> ChildProcess {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let logs = Logs::start_anew(folder.path()).unwrap();
        ChildProcess::spawn(Part::Batch.into(), command, logs.of(Part::Batch)).unwrap()
    }

    #[test]
    fn end_is_reported_once_with_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell("echo no key >&2; exit 3", &folder);
        assert!(child.ends_within(KILL_LIMIT));
        let failure = child.failure().unwrap();
        assert!(
            failure.starts_with("batch ended with exit status: 3"),
            "{failure}"
        );
        assert!(failure.contains("no key"), "{failure}");
        assert_eq!(child.failure(), None);
    }

    #[tokio::test]
    async fn hurry_kills_process_that_ignores_sigterm() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell("trap '' TERM; while :; do sleep 1; done", &folder);
        child.ask_to_end();
        let hurry = CancellationToken::new();
        hurry.cancel();
        let asked_at = Instant::now();
        child.end(&hurry).await;
        assert!(asked_at.elapsed() < GRACE);
    }
}
