//! The end of a stack: in order, each part asked first, and none left behind.

use anyhow::Context as _;
use private_servers::Nats;
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use super::{Part, Stack, child::ChildProcess};

impl Stack {
    /// Ends everything in order: services and batch job drain, then collector, NATS and PostgreSQL.
    /// A cancelled `hurry` kills the rest.
    ///
    /// # Errors
    /// When private data cannot be removed.
    pub async fn stop(self, hurry: &CancellationToken) -> anyhow::Result<()> {
        let Self {
            mut children,
            nats,
            postgres,
            lock,
            ..
        } = self;
        // The city takes its drivers offline, so it ends before the services.
        end_all(children.remove(&Part::City.into()), hurry).await;
        let traces = children.remove(&Part::TraceView.into());
        end_all(children.into_values(), hurry).await;
        end_all(traces, hurry).await;
        let node_pids = nats.nodes().iter().filter_map(Nats::pid).collect();
        let postgres_pid = postgres.pid().into_iter().collect();
        let nats_ended = hurried(nats.stop(), node_pids, Signal::KILL, hurry).await;
        // SIGQUIT ends PostgreSQL at once, with its sessions and shared memory.
        let postgres_ended = hurried(postgres.stop(), postgres_pid, Signal::QUIT, hurry).await;
        drop(lock);
        nats_ended
            .and(postgres_ended)
            .context("private data is left behind")
    }
}

/// Asks all children at once, so that this takes as long as the slowest of them.
async fn end_all(children: impl IntoIterator<Item = ChildProcess>, hurry: &CancellationToken) {
    let mut children: Vec<_> = children.into_iter().collect();
    children.iter_mut().for_each(ChildProcess::ask_to_end);
    for child in children {
        child.end(hurry).await;
    }
}

/// Waits for the end of a server, and sends `signal`, which ends it at once, when `hurry` is
/// cancelled.
async fn hurried<T>(
    stop: impl Future<Output = T>,
    pids: Vec<u32>,
    signal: Signal,
    hurry: &CancellationToken,
) -> T {
    tokio::pin!(stop);
    tokio::select! {
        ended = &mut stop => return ended,
        () = hurry.cancelled() => {}
    }
    let pids = pids.into_iter();
    let pids = pids.filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    for error in pids.filter_map(|pid| kill_process(pid, signal).err()) {
        tracing::debug!(%error, "a server that ended just now cannot be hurried");
    }
    stop.await
}
