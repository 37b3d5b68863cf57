//! One thread per core to serve on. A connection is accepted once, and then everything that is done for it happens on one
//! thread, its shard: what a request waits for wakes that thread alone, no task moves to another core, and no lock is ever
//! fought over. For requests of some tens of microseconds that is a third of their cost. The price is that a shard cannot
//! help another out, so a handler that computes for long delays the connections that share its thread.

use std::{io, net::TcpStream as UnboundStream, num::NonZero, panic::resume_unwind, thread};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{self, Handle},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Connections that may wait for a shard that is busy; more wait in the listener's own backlog.
const INBOX: usize = 64;

/// The shards of a process. They end when this is dropped, and whatever is still on them.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Vec<Handle>,
    end: CancellationToken,
}

/// The connections that a shard is to serve. It ends when no more are accepted.
pub(crate) type Inbox = mpsc::Receiver<UnboundStream>;

impl Shards {
    /// Starts a shard per core.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start() -> io::Result<Self> {
        let end = CancellationToken::new();
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let shards = (0..cores).map(|index| start_shard(index, end.clone()));
        Ok(Self {
            shards: shards.collect::<io::Result<_>>()?,
            end,
        })
    }

    /// Accepts connections until `token` is cancelled and deals them out to the shards in turn; each shard serves its own by
    /// `serve`. Ends when all have ended.
    ///
    /// # Errors
    /// The first of `serve`.
    pub(crate) async fn serve<F, E>(
        &self,
        listener: TcpListener,
        token: &CancellationToken,
        serve: impl Fn(Inbox) -> F,
    ) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Send + 'static,
    {
        let mut serving = JoinSet::new();
        let mut inboxes = Vec::new();
        for shard in &self.shards {
            let (sender, inbox) = mpsc::channel(INBOX);
            serving.spawn_on(serve(inbox), shard);
            inboxes.push(sender);
        }
        token.run_until_cancelled(deal(listener, inboxes)).await;
        while let Some(served) = serving.join_next().await {
            served.unwrap_or_else(|panic| resume_unwind(panic.into_panic()))?;
        }
        Ok(())
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

fn start_shard(index: usize, end: CancellationToken) -> io::Result<Handle> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name(format!("shard-{index}"))
        .spawn(move || runtime.block_on(end.cancelled()))?;
    Ok(handle)
}

/// Hands each connection that is accepted to the next shard; for ever, unless all shards are gone.
async fn deal(mut listener: TcpListener, inboxes: Vec<mpsc::Sender<UnboundStream>>) {
    for inbox in inboxes.iter().cycle() {
        // Not the listener's own `accept`: this one outlasts errors, such as too many open files.
        let (stream, _) = axum::serve::Listener::accept(&mut listener).await;
        let _ = stream.set_nodelay(true);
        let sent = match stream.into_std() {
            Ok(stream) => inbox.send(stream).await,
            Err(error) => {
                lost(&error);
                Ok(())
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The next connection of an inbox, as one of the shard's runtime; `None` when no more will come.
pub(crate) async fn next_of(inbox: &mut Inbox) -> Option<TcpStream> {
    loop {
        match TcpStream::from_std(inbox.recv().await?) {
            Ok(stream) => return Some(stream),
            Err(error) => lost(&error),
        }
    }
}

fn lost(error: &io::Error) {
    warn!(error.message = %error, "a connection was lost: {error}");
}
