//! A thread for the load alone, so that other work of the process cannot delay a request.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread with a runtime of its own. Clones share it; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct LoadThread {
    runtime: Handle,
    /// Nobody sends anything: the last owner drops it, and that ends the thread.
    _owners: Arc<oneshot::Sender<Infallible>>,
}

impl LoadThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread or no file descriptor for it.
    pub fn start() -> io::Result<Self> {
        // A runtime of one thread needs no locks against other threads.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (owners, all_gone) = oneshot::channel();
        std::thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || {
                runtime
                    .block_on(all_gone)
                    .map(|never: Infallible| match never {})
            })?;
        Ok(Self {
            runtime: handle,
            _owners: Arc::new(owners),
        })
    }

    /// Runs the work on the thread; a panic in it becomes a panic here.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.runtime.spawn(work).await {
            Ok(done) => done,
            // Never cancelled: the runtime lives as long as its owners.
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }
}
