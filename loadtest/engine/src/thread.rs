//! A thread for the load alone: what else the process does, a whole city for one, must not delay a send.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread with a runtime of its own. Clones share it; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct LoadThread {
    runtime: Handle,
    /// Nothing is ever sent: it is dropped with the last owner, and that ends the thread.
    _owners: Arc<oneshot::Sender<Infallible>>,
}

impl LoadThread {
    /// Starts it.
    ///
    /// # Errors
    /// When the system gives no thread or no descriptor for it.
    pub fn start() -> io::Result<Self> {
        // Of one thread by kind, so that nothing is locked against threads that are not there.
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

    /// Does the work there; a panic in it is a panic here.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.runtime.spawn(work).await {
            Ok(done) => done,
            // Not cancelled: the runtime lives as long as we do.
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }
}
