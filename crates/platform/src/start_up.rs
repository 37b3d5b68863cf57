//! The start of a service that cannot work without PostgreSQL.
//!
//! On a laptop, in compose and on Kubernetes, a service often starts before its database does, or
//! beside nine others that all connect at the same moment. So each step of a start that needs
//! PostgreSQL is tried again until it succeeds, and one deadline bounds all the steps together:
//!
//! ```text
//!  begin      schema: away, away, done         read the state: no connection, done       serve
//!    |---------------------------------------------------------------------------|.........|
//!                                                                                  START_DEADLINE
//! ```
//!
//! The log says once that the start waits, and once that it goes on.

use std::{
    fmt::Display,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::postgres::within;

/// How long the start of a service may wait for its database.
pub const START_DEADLINE: Duration = Duration::from_secs(30);

/// The pause before a failed step is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A start that is under way.
#[derive(Debug)]
pub struct StartUp {
    deadline: Instant,
    waiting: AtomicBool,
}

impl StartUp {
    /// A start that begins now and may take [`START_DEADLINE`].
    pub fn begin() -> Self {
        Self {
            deadline: Instant::now() + START_DEADLINE,
            waiting: AtomicBool::new(false),
        }
    }

    /// Runs `step` until it succeeds, until it fails with an error of which `may_pass` says that
    /// waiting is of no use, or until the deadline. A step that has no answer by then is dropped.
    ///
    /// # Errors
    /// The last error of the step, or a time-out of the connection.
    pub async fn when_up<T, E, F>(
        &self,
        may_pass: impl Fn(&E) -> bool,
        mut step: impl FnMut() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
        E: From<sqlx::Error> + Display,
    {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match within(left, step()).await {
                Err(error) if may_pass(&error) && Instant::now() < self.deadline => {
                    if !self.waiting.swap(true, Ordering::Relaxed) {
                        info!(error.message = %error, "waiting for PostgreSQL: {error}");
                    }
                    sleep(RETRY_PAUSE).await;
                }
                outcome => {
                    if outcome.is_ok() && self.waiting.swap(false, Ordering::Relaxed) {
                        info!("PostgreSQL answers: the start goes on");
                    }
                    return outcome;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::is_away;

    #[tokio::test(start_paused = true)]
    async fn waits_for_connection_until_one_is_free() {
        let (start, mut attempts) = (StartUp::begin(), 0);
        let connected = start.when_up(is_away, || {
            attempts += 1;
            std::future::ready(match attempts {
                1..4 => Err(sqlx::Error::PoolTimedOut),
                _ => Ok("connected"),
            })
        });
        assert_eq!(connected.await.unwrap(), "connected");
        assert_eq!(attempts, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn all_steps_share_one_deadline() {
        let (begun, start) = (Instant::now(), StartUp::begin());
        for _ in 0..2 {
            let silent = || std::future::pending::<Result<(), sqlx::Error>>();
            assert!(is_away(&start.when_up(is_away, silent).await.unwrap_err()));
            assert_eq!(begun.elapsed(), START_DEADLINE);
        }
    }

    #[tokio::test]
    async fn wrong_query_is_not_repeated() {
        let mut attempts = 0;
        let start = StartUp::begin();
        let refused = start.when_up(is_away, || {
            attempts += 1;
            std::future::ready(Err::<(), _>(sqlx::Error::RowNotFound))
        });
        assert!(refused.await.is_err());
        assert_eq!(attempts, 1);
    }
}
