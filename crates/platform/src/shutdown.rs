//! The end of a process. The first SIGTERM or Ctrl-C cancels a token, upon which every part
//! finishes what it has begun; a deadline ends the parts that do not.

use std::{future::Future, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long a process may take to finish what it has begun.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// A token that is cancelled by SIGTERM or Ctrl-C.
///
/// # Errors
/// When the signals cannot be listened for.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: finishing what has begun"),
            _ = interrupt.recv() => info!("Ctrl-C: finishing what has begun"),
        }
        cancelled.cancel();
    });
    Ok(token)
}

/// Runs `work` to its end, but no longer than [`DRAIN_DEADLINE`] after `token` is cancelled.
pub async fn with_deadline<T>(
    token: &CancellationToken,
    work: impl Future<Output = T>,
) -> Option<T> {
    let overdue = async {
        token.cancelled().await;
        tokio::time::sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        done = work => Some(done),
        () = overdue => {
            warn!("not finished after {DRAIN_DEADLINE:?}, stopping all the same");
            None
        }
    }
}
