//! Work that a process repeats beside its requests: writing positions, relaying an outbox,
//! following a stream.
//!
//! # How this works
//! Each worker has a function `step`, which does the work once and returns a `Result`, and a
//! function `run`, which repeats the step until the process shuts down. Tests call `step`, as often
//! as they like and without waiting; the service spawns `run`, and every `run` has the same form:
//!
//! ```ignore
//! let mut work = WorkLoop::new("the writing of positions", &shutdown);
//! while work.next_step(EVERY).await {
//!     work.record(&self.step().await);
//! }
//! ```
//!
//! ```text
//!  |step|......|step|......|step that takes longer|step|......      never two at a time
//!  <- period -><- period -><------- its time ----->
//! ```
//!
//! At shutdown a pause ends at once. Whether a step ends too, the worker says: [`WorkLoop::run`]
//! drops a step at its next `.await`, while a step whose outcome goes to [`WorkLoop::record`] is
//! finished first.
//!
//! A step that fails is repeated like any other: the server that it needs may be back by then.
//! [`FailureLog`] logs the first failure and the recovery, and no failure between them.

use std::{
    fmt::Display,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::shutdown::with_deadline;

/// The loop around the steps of one worker.
#[derive(Debug)]
pub struct WorkLoop {
    failures: FailureLog,
    shutdown: CancellationToken,
    /// When the latest step began.
    began: Option<Instant>,
}

impl WorkLoop {
    /// A loop until `shutdown`. The name of the work reads as the subject of a sentence: "the
    /// outbox".
    pub fn new(work: impl Into<String>, shutdown: &CancellationToken) -> Self {
        Self {
            failures: FailureLog::new(work),
            shutdown: shutdown.clone(),
            began: None,
        }
    }

    /// Waits until a `period` after the begin of the step before this one, for the first step not
    /// at all. False once the process shuts down.
    pub async fn next_step(&mut self, period: Duration) -> bool {
        if let Some(began) = self.began {
            let due = sleep_until(began + period);
            self.shutdown.run_until_cancelled(due).await;
        }
        self.began = Some(Instant::now());
        !self.shutdown.is_cancelled()
    }

    /// Runs a step and records its outcome. A shutdown drops the step; then there is no outcome.
    pub async fn run<T, E: Display>(
        &self,
        step: impl Future<Output = Result<T, E>>,
    ) -> Option<Result<T, E>> {
        let outcome = self.shutdown.run_until_cancelled(step).await?;
        self.record(&outcome);
        Some(outcome)
    }

    /// Records the outcome of a step.
    pub fn record<T, E: Display>(&self, outcome: &Result<T, E>) {
        self.failures.record(outcome);
    }

    /// Whether the latest step failed.
    pub fn is_failing(&self) -> bool {
        self.failures.is_failing()
    }
}

/// The workers of a process that end after its edges, and so finish what the last requests left
/// behind. When this is dropped they end too.
#[derive(Debug, Default)]
pub struct Workers {
    tasks: TaskTracker,
    ending: CancellationToken,
}

impl Workers {
    /// Spawns a worker; its token is cancelled when it is time to end.
    pub fn spawn<F>(&self, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(run(self.ending.clone()));
    }

    /// Ends the workers and waits for them, at most as long as a process may take to drain.
    pub async fn finish(self) {
        self.ending.cancel();
        self.tasks.close();
        with_deadline(&self.ending, self.tasks.wait()).await;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

/// Logs when repeated work begins to fail and when it works again: a loop that fails four times a
/// second would otherwise write four lines a second.
#[derive(Debug)]
pub struct FailureLog {
    work: String,
    failing: AtomicBool,
}

impl FailureLog {
    /// A log of work that does not fail yet. Its name reads as the subject of a sentence: "the
    /// outbox".
    pub fn new(work: impl Into<String>) -> Self {
        Self {
            work: work.into(),
            failing: AtomicBool::new(false),
        }
    }

    /// Records the outcome of one step, and logs it if the step before had the other outcome.
    pub fn record<T, E: Display>(&self, outcome: &Result<T, E>) {
        let was_failing = self.failing.swap(outcome.is_err(), Ordering::Relaxed);
        match outcome {
            Err(error) if !was_failing => {
                warn!(error.message = %error, "{} waits: {error:#}", self.work);
            }
            Ok(_) if was_failing => info!("{} goes on", self.work),
            _ => {}
        }
    }

    /// Whether the latest step failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn runs_one_step_a_period() {
        let (started, shutdown) = (Instant::now(), CancellationToken::new());
        let mut work = WorkLoop::new("a test", &shutdown);
        let mut steps = Vec::new();
        while work.next_step(PERIOD).await {
            steps.push(started.elapsed().as_millis());
            match steps.len() {
                2 => tokio::time::sleep(PERIOD * 3).await,
                4 => shutdown.cancel(),
                _ => {}
            }
        }
        assert_eq!(steps, [0, 10, 40, 50]);
        assert_eq!(started.elapsed(), PERIOD * 5);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_drops_a_step_that_runs() {
        let shutdown = CancellationToken::new();
        let work = WorkLoop::new("a test", &shutdown);
        let failed = work.run(async { Err::<(), _>("the server is away") }).await;
        assert!(failed.is_some() && work.is_failing());
        let endless = work.run(std::future::pending::<Result<(), String>>());
        let (outcome, ()) = tokio::join!(endless, async { shutdown.cancel() });
        assert!(outcome.is_none());
    }
}
