//! One server process: starts it, waits until it answers, stops or kills it, reaps it.
//!
//! ```text
//! spawn -> ready (asks until it answers) -> ... -> stop (signal, 10 s, then SIGKILL) -> reaped
//!            | ends or times out                    kill (SIGKILL) ------------------^
//!            v
//!          Error with the last lines of its log
//! ```
//!
//! Dropping a [`ServerProcess`] stops it. That blocks, as `Drop` must; the async methods do the
//! same on tokio's blocking threads.

use std::{
    io,
    process::{Child, Command, ExitStatus},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    Error, instance::InstanceDir, log::ServerLog, process::POLL, process::ProcessIdentity, spawn,
};

/// A clean end takes 0.2 s, and 2 s with a busy disk.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// From the end of a program's first thread to the end of its last.
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// One attempt to talk to a starting server; a local one answers in milliseconds or not at all.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);

/// Longest pause between two attempts: a database in recovery logs every refused one.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The name of a program in messages, and the signal that makes it end quickly and cleanly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) stop: Signal,
}

/// A running program that belongs to an instance.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    program: Program,
    child: Child,
    identity: ProcessIdentity,
}

impl ServerProcess {
    pub(crate) fn spawn(
        program: Program,
        mut command: Command,
        dir: &InstanceDir,
        log: &ServerLog,
    ) -> Result<Self, Error> {
        dir.prepare(&mut command);
        log.attach(&mut command)?;
        let unstarted = |source| Error::Spawn {
            program: program.name,
            source,
        };
        let child = spawn::spawn_tied_with(command, program.stop).map_err(unstarted)?;
        let identity = ProcessIdentity::of(child.id())
            .ok_or_else(|| unstarted(io::ErrorKind::NotFound.into()))?;
        let process = Self {
            program,
            child,
            identity,
        };
        dir.record_server(&process.identity)?;
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the server answers.
    pub(crate) async fn ready(
        mut self,
        limit: Duration,
        log: &ServerLog,
        answers: impl AsyncFn() -> bool,
    ) -> Result<Self, Error> {
        let deadline = Instant::now() + limit;
        let mut pause = POLL;
        while !timeout(ATTEMPT_LIMIT, answers()).await.unwrap_or(false) {
            if let Some(status) = self.exit_status() {
                return Err(self.ended(status, log));
            }
            self.still_time(deadline, limit, log)?;
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        Ok(self)
    }

    /// Waits for the end of a program that must succeed.
    pub(crate) async fn done(mut self, limit: Duration, log: &ServerLog) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        loop {
            match self.exit_status() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.ended(status, log)),
                None => self.still_time(deadline, limit, log)?,
            }
            sleep(POLL).await;
        }
    }

    /// Ends the program cleanly, or kills it after 10 s.
    pub(crate) async fn stop(self) {
        on_a_blocking_thread(move || drop(self)).await;
    }

    /// Kills the program and its descendants.
    pub(crate) async fn kill(self) {
        on_a_blocking_thread(move || self.identity.kill()).await;
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until the program can be reaped. The process table calls it ended when its first
    /// thread ends; its files and ports are free only when all threads have ended.
    fn reaped_within(&mut self, limit: Duration) -> bool {
        let deadline = std::time::Instant::now() + limit;
        while self.exit_status().is_none() {
            if std::time::Instant::now() >= deadline {
                return false;
            }
            thread::sleep(POLL);
        }
        true
    }

    fn ended(&self, status: ExitStatus, log: &ServerLog) -> Error {
        Error::Ended {
            program: self.program.name,
            status,
            log_tail: log.tail(),
        }
    }

    fn still_time(&self, deadline: Instant, limit: Duration, log: &ServerLog) -> Result<(), Error> {
        if Instant::now() < deadline {
            return Ok(());
        }
        Err(Error::NotReady {
            program: self.program.name,
            deadline: limit,
            log_tail: log.tail(),
        })
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if self.exit_status().is_none() {
            self.identity.end(self.program.stop, STOP_GRACE);
        }
        if !self.reaped_within(REAP_LIMIT) {
            tracing::warn!(
                "{} (process {}) is left behind",
                self.program.name,
                self.pid()
            );
        }
    }
}

async fn on_a_blocking_thread(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(work).await {
        tracing::warn!(%error, "a server was not ended in order");
    }
}
