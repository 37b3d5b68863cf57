//! A service that runs inside the process of its test.

use std::net::SocketAddr;

use platform::serve::Addresses;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::rest::RestClient;

/// A running service and a client of each of its edges.
#[derive(Debug)]
pub struct RunningService {
    /// The REST edge.
    pub rest: RestClient,
    /// The address of the gRPC edge.
    pub grpc: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl RunningService {
    /// Spawns the future that `run` makes of the shutdown token, and connects to its REST edge.
    pub async fn spawn<F>(addresses: Addresses, run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(shutdown.clone()));
        Self {
            rest: RestClient::connect(addresses.http).await,
            grpc: addresses.grpc,
            shutdown,
            task,
        }
    }

    /// Asks the service to end, as SIGTERM would.
    pub fn ask_to_stop(&self) {
        self.shutdown.cancel();
    }

    /// Ends the service and waits until it has ended, which must be without an error.
    pub async fn stop(self) {
        self.ask_to_stop();
        self.task.await.unwrap().unwrap();
    }

    /// A connection to the gRPC edge.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        endpoint.connect().await.unwrap()
    }
}
