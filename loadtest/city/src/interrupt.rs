//! Ctrl-C and SIGTERM cancel a token, which long work watches; the second one ends the process at
//! once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of an interrupted program, as shells know it.
pub const INTERRUPTED: u8 = 130;

/// A token that the first signal cancels. If the process cannot receive signals, they end it as
/// usual.
pub fn on_signal() -> CancellationToken {
    let token = CancellationToken::new();
    if let (Ok(interrupt), Ok(terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        tokio::spawn(watch(interrupt, terminate, token.clone()));
    }
    token
}

async fn watch(mut interrupt: Signal, mut terminate: Signal, token: CancellationToken) {
    next(&mut interrupt, &mut terminate).await;
    crate::output::note("\nStopping; once more to leave at once.");
    token.cancel();
    next(&mut interrupt, &mut terminate).await;
    std::process::exit(INTERRUPTED.into());
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
