//! The client of one price-optimization: a fixed number of connections, and runs of load over them.
//!
//! The connections are opened before a run and kept for the next one. Under load, a connection that
//! is opened on demand would overflow the server's accept queue, and the figures would show seconds
//! that no service caused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use marketplace::Multiplier;
use tokio_util::sync::CancellationToken;

use super::connection::{Address, QuoteConnection, Transport};
use super::generator::{self, LoadPlan, SendReport};
use super::quote::{CheckedQuote, QuoteFailure, QuoteQuery};
use super::schedule::Arrival;
use super::thread::LoadThread;

/// Requests quotes from one address. Clones share the connections.
#[derive(Debug, Clone)]
pub struct QuoteClient {
    thread: LoadThread,
    address: Address,
    cap: Multiplier,
    deadline: Duration,
    /// Connections between two runs. A std mutex: held to take them out or to put them back.
    idle: Arc<Mutex<Vec<QuoteConnection>>>,
}

impl QuoteClient {
    /// A client of the service that listens at `base` for this transport and never quotes a
    /// multiplier above `cap`. Each answer must be complete within `deadline`.
    ///
    /// # Errors
    /// When `base` is not a base URL.
    pub fn new(
        thread: LoadThread,
        transport: Transport,
        base: &str,
        cap: Multiplier,
        deadline: Duration,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            thread,
            address: Address::of(transport, base)?,
            cap,
            deadline,
            idle: Arc::default(),
        })
    }

    /// Requests one quote over a connection of its own.
    ///
    /// # Errors
    /// [`QuoteFailure`]: there was no quote, or it was wrong.
    pub async fn ask(&self, request: QuoteQuery) -> Result<CheckedQuote, QuoteFailure> {
        let (_, outcome) = self.connection().ask(&request, Instant::now()).await;
        outcome
    }

    /// Runs the plan, until its end or until `stop`: `ask` makes the request of each arrival over
    /// the connection that it gets, and gives the connection back.
    pub async fn run<Ask, Asked>(
        &self,
        plan: LoadPlan,
        stop: CancellationToken,
        ask: Ask,
    ) -> SendReport
    where
        Ask: Fn(QuoteConnection, Arrival) -> Asked + Send + Sync + 'static,
        Asked: Future<Output = QuoteConnection> + Send + 'static,
    {
        let client = self.clone();
        let run = async move {
            let connections = client.open_connections().await;
            let (report, free) = generator::run(plan, connections, stop, ask).await;
            *client.idle() = free;
            report
        };
        self.thread.run(run).await
    }

    /// A connection that cannot be opened now tries again with its first request, whose failure
    /// then counts.
    async fn open_connections(&self) -> Vec<QuoteConnection> {
        let until = tokio::time::Instant::now() + self.deadline;
        let mut connections = std::mem::take(&mut *self.idle());
        connections.resize_with(CONNECTIONS, || self.connection());
        let opened = connections.into_iter().map(|mut connection| async move {
            if !connection.is_open() {
                let _ = tokio::time::timeout_at(until, connection.open()).await;
            }
            connection
        });
        futures::stream::iter(opened)
            .buffer_unordered(OPENED_AT_ONCE)
            .collect()
            .await
    }

    fn idle(&self) -> MutexGuard<'_, Vec<QuoteConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> QuoteConnection {
        self.address.connection(self.cap, self.deadline)
    }
}

/// Connections of a run, that is, how many requests a server has before it at once. Further
/// arrivals wait in the engine, and their latency counts. docs/measuring.md shows what more
/// connections do.
pub const CONNECTIONS: usize = 64;

/// Far below the length of an accept queue: 128 at the least, 1,024 with tokio.
const OPENED_AT_ONCE: usize = 32;
