//! One child process of the stack: this very executable playing a part, with its log file.
//!
//! Holding a [`ChildProcess`] means that it was started and not ended by us; dropping it ends it.

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

/// A running or ended part, until it is asked to go.
#[derive(Debug)]
pub(super) struct ChildProcess {
    member: Member,
    child: Child,
    log: Log,
    /// So that an end is told once.
    told: bool,
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
            told: false,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, once it has.
    pub(super) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// A sentence about its end, the first time somebody asks after it.
    pub(super) fn news(&mut self) -> Option<String> {
        if self.told {
            return None;
        }
        let status = self.exit_status()?;
        self.told = true;
        Some(format!(
            "{} ended with {status}; its last words:\n{}\nthe whole log: {}",
            self.member,
            last_lines(self.log.path()),
            self.log.path().display()
        ))
    }

    /// Asks it to finish what it has begun and to end.
    pub(super) fn ask_to_end(&mut self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT); // one that is stopped would not hear the request
    }

    /// Waits for the end that was asked for, and kills it when it takes too long or there is a
    /// hurry.
    pub(super) async fn end(mut self, hurry: &CancellationToken) {
        let deadline = Instant::now() + GRACE;
        while self.exit_status().is_none() && Instant::now() < deadline && !hurry.is_cancelled() {
            tokio::time::sleep(POLL).await;
        }
        self.kill();
    }

    /// Kills it with SIGKILL, as a crash would, and waits until it is gone: at most 2 s.
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

    /// A pid is ours until its end was seen, so the signal cannot reach a stranger.
    fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_some() {
            return;
        }
        if let Err(error) = kill_process(Pid::from_child(&self.child), signal) {
            tracing::debug!(%error, "{signal:?} did not reach {}", self.member);
        }
    }
}

/// Whether a child that somebody else waits for has ended; that somebody can still ask how.
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
    fn an_end_is_told_once_with_the_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell("echo no key >&2; exit 3", &folder);
        assert!(child.ends_within(KILL_LIMIT));
        let news = child.news().unwrap();
        assert!(
            news.starts_with("batch ended with exit status: 3"),
            "{news}"
        );
        assert!(news.contains("no key"), "{news}");
        assert_eq!(child.news(), None);
    }

    #[tokio::test]
    async fn a_hurry_does_not_wait_for_a_process_that_will_not_listen() {
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
