//! A thread for the load alone: what else the process does, a whole city for one, must not delay a send.

use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

/// A runtime of one thread. Clones share it; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct LoadThread(Arc<Owned>);

/// Always there, except while it is being dropped.
#[derive(Debug)]
struct Owned(Option<Runtime>);

impl LoadThread {
    /// Starts it.
    ///
    /// # Errors
    /// When the system gives no thread or no descriptor for it.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("load")
            .enable_all()
            .build()?;
        Ok(Self(Arc::new(Owned(Some(runtime)))))
    }

    /// Does the work there; a panic in it is a panic here.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let Some(runtime) = &self.0.0 else {
            unreachable!("the runtime is taken only by the last owner, when it goes");
        };
        match runtime.spawn(work).await {
            Ok(done) => done,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }
}

impl Drop for Owned {
    /// Without waiting, which an async task must not do.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
