//! Waits for a condition.

use std::time::Duration;

use tokio::time::{Instant, sleep};

pub(crate) type Outcome = anyhow::Result<()>;

/// Enough for debug builds on a busy machine, with a process or two that restart.
const PATIENCE: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(20);

/// Calls `look` until it succeeds, and returns its value.
///
/// # Errors
/// The last error, if `look` does not succeed in time.
pub(crate) async fn eventually<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Err(seen) if Instant::now() >= deadline => {
                return Err(seen.context(format!("did not happen in time: {what}")));
            }
            Err(_not_yet) => sleep(POLL).await,
            seen => return seen,
        }
    }
}
