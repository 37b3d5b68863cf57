//! A trace collector with the Jaeger UI, small enough to start with every local stack.
//!
//! ```text
//! services --OTLP over gRPC--> receive -> store -> api (Jaeger's query API) --JSON--> Jaeger UI
//!                              (cuts)   (bounded)  ui  (its pages)          --HTML-->
//! ```
//!
//! It keeps the newest traces in memory and nothing on disk. It knows nothing of rides: any program
//! that sends OTLP can use it, and a real Jaeger can take its place.

mod api;
mod calls;
mod catalog;
mod ids;
mod jaeger;
mod limits;
mod query;
mod receive;
mod span;
mod store;
mod texts;
mod ui;

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

pub use limits::Limits;

use store::SharedStore;

/// How long requests in flight may take to finish after the shutdown signal.
const DRAIN: Duration = Duration::from_secs(3);

/// Why the collector could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The limits contradict each other or leave no room for a trace.
    #[error("trace-view limits: {0}")]
    Limits(&'static str),
    /// One of the two addresses could not be bound.
    #[error("cannot listen on {address} for {purpose}: {source}")]
    Bind {
        /// The address in the configuration.
        address: SocketAddr,
        /// Its purpose, in words.
        purpose: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The HTTP server of the UI stopped.
    #[error("the trace UI stopped: {0}")]
    Ui(#[source] io::Error),
    /// The gRPC server that receives spans stopped.
    #[error("the OTLP receiver stopped: {0}")]
    Otlp(#[source] tonic::transport::Error),
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// The addresses of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectorAddresses {
    /// The Jaeger UI and its query API, over HTTP.
    pub ui: SocketAddr,
    /// The OTLP trace service, over gRPC.
    pub otlp: SocketAddr,
}

/// A collector that has its ports and does not serve yet.
#[derive(Debug)]
pub struct Collector {
    ui: TcpListener,
    otlp: TcpListener,
    addresses: CollectorAddresses,
    limits: Limits,
}

impl Collector {
    /// Binds both ports (0 for a free one), so that [`Self::addresses`] is known before it serves.
    ///
    /// # Errors
    /// [`Error::Limits`] when the limits leave no room for a trace, [`Error::Bind`] when a port is
    /// taken.
    pub async fn bind(ui: SocketAddr, otlp: SocketAddr, limits: Limits) -> Result<Self> {
        limits.check().map_err(Error::Limits)?;
        let (ui, ui_address) = listen(ui, "the trace UI").await?;
        let (otlp, otlp_address) = listen(otlp, "OTLP").await?;
        let addresses = CollectorAddresses {
            ui: ui_address,
            otlp: otlp_address,
        };
        Ok(Self {
            ui,
            otlp,
            addresses,
            limits,
        })
    }

    /// The addresses with their real ports.
    pub fn addresses(&self) -> CollectorAddresses {
        self.addresses
    }

    /// Serves both ports until `shutdown` completes, then gives running requests three seconds.
    ///
    /// # Errors
    /// [`Error::Ui`] or [`Error::Otlp`] when a server fails; the other one is stopped with it.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let stop = CancellationToken::new();
        let store = SharedStore::new(self.limits);
        let servers = async {
            tokio::try_join!(
                api::serve(self.ui, store.clone(), stop.clone()),
                receive::serve(self.otlp, store.clone(), self.limits, stop.clone()),
            )
        };
        tokio::pin!(servers);
        tokio::select! {
            ended = &mut servers => return ended.map(drop),
            () = shutdown => stop.cancel(),
        }
        timeout(DRAIN, servers).await.unwrap_or_else(|_elapsed| {
            tracing::warn!("cut requests still running {DRAIN:?} after the shutdown signal");
            Ok(((), ()))
        })?;
        Ok(())
    }
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<(TcpListener, SocketAddr)> {
    let failed = |source| Error::Bind {
        address,
        purpose,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
