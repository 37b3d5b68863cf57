//! An exchange to tell stories about: a stack of real processes on free ports, and waiting until
//! something is so.

use std::time::Duration;

use anyhow::Context as _;
use surge::{Part, Stack, StackSettings};
use surge_proto::DataflowMode;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    api::PublicApi,
    stack_support::{stack_in, state_folder},
};

pub(crate) type Outcome = anyhow::Result<()>;

/// How long something may take to come true: debug builds on a busy machine, with a process or two
/// that start anew.
const PATIENCE: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(20);

/// A running stack and what everybody does with it.
pub(crate) struct Exchange {
    // Before its folder: the processes must have ended when that goes.
    pub(crate) stack: Stack,
    pub(crate) api: PublicApi,
    folder: TempDir,
}

/// What differs from story to story.
#[derive(Clone, Copy)]
pub(crate) struct Market {
    /// Market seconds per real second.
    pub(crate) speed: f64,
    /// The dataflow in force at the start.
    pub(crate) mode: DataflowMode,
    /// Period of the batch job, in market time.
    pub(crate) batch_every: Duration,
    /// Processes of each service.
    pub(crate) replicas: u8,
    /// Nodes of NATS.
    pub(crate) nats_nodes: u8,
}

impl Market {
    /// As fast as life, so that no data grows too old within a test.
    pub(crate) const REAL_TIME: Self = Self {
        speed: 1.0,
        mode: DataflowMode::Events,
        batch_every: Duration::from_secs(1),
        replicas: 1,
        nats_nodes: 1,
    };

    /// A market hour takes 12 s: data is too old for a price after 3 s, and a quote expires after
    /// 0.4 s.
    pub(crate) const FAST: Self = Self {
        speed: 300.0,
        mode: DataflowMode::Events,
        batch_every: Duration::from_secs(300),
        replicas: 1,
        nats_nodes: 1,
    };

    /// The age, in real time, from which on data sets no price in the fast market: a quarter of an
    /// hour there.
    pub(crate) const FAST_PRICE_LIMIT_MS: f64 = 900_000.0 / Self::FAST.speed;
}

impl Exchange {
    /// Starts a stack and waits until every dataflow quotes.
    pub(crate) async fn open(market: Market) -> anyhow::Result<Self> {
        let folder = state_folder()?;
        let stack = Stack::start(StackSettings {
            speed: market.speed,
            mode: market.mode,
            batch_every: market.batch_every,
            replicas: market.replicas,
            nats_nodes: market.nats_nodes,
            ..stack_in(folder.path())
        })
        .await?;
        let api = PublicApi::of(stack.target());
        Ok(Self { stack, api, folder })
    }

    /// What everybody does with each replica.
    pub(crate) fn api_of_each(&self) -> Vec<PublicApi> {
        let targets = (1..=self.stack.replicas()).filter_map(|number| self.stack.target_of(number));
        targets.map(PublicApi::of).collect()
    }

    /// Ends every process. Nothing is left to finish, so nobody is given time for it.
    pub(crate) async fn close(self) -> Outcome {
        let hurry = CancellationToken::new();
        hurry.cancel();
        self.stack.stop(&hurry).await?;
        Ok(self.folder.close()?)
    }

    /// Kills processes with SIGKILL.
    pub(crate) async fn kill(&mut self, parts: &[Part]) {
        for part in parts {
            self.stack.kill(*part).await;
        }
    }

    /// Starts killed processes again, in this order.
    pub(crate) async fn restart(&mut self, parts: &[Part]) -> Outcome {
        for part in parts {
            let restarted = self.stack.restart(*part).await;
            restarted.with_context(|| format!("{part} does not come back"))?;
        }
        Ok(())
    }
}

/// Looks again and again until it is so, and returns what was seen; a failed look means "not yet".
///
/// # Errors
/// The last look, when it is not so in time.
pub(crate) async fn eventually<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Err(seen) if Instant::now() >= deadline => {
                return Err(seen.context(format!("waited in vain: {what}")));
            }
            Err(_not_yet) => sleep(POLL).await,
            seen => return seen,
        }
    }
}
