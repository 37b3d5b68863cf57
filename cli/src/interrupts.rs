//! Ctrl-C: the first asks for an orderly end, the second for an immediate one. SIGTERM and a closed
//! terminal count like Ctrl-C.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How often the process was asked to end.
#[derive(Clone, Debug)]
pub(crate) struct Interrupts {
    end: CancellationToken,
    hurry: CancellationToken,
}

impl Interrupts {
    /// Listens for signals from now on.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut signals = Signals::listen()?;
        let interrupts = Self {
            end: CancellationToken::new(),
            hurry: CancellationToken::new(),
        };
        let tokens = interrupts.clone();
        tokio::spawn(async move {
            signals.next().await;
            tokens.end.cancel();
            signals.next().await;
            tokens.hurry.cancel();
        });
        Ok(interrupts)
    }

    /// Cancelled by the first signal.
    pub(crate) fn end(&self) -> &CancellationToken {
        &self.end
    }

    /// Cancelled by the second signal.
    pub(crate) fn hurry(&self) -> &CancellationToken {
        &self.hurry
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
