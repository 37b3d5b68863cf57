//! An exchange for a test: a stack of real processes on free ports, and its public APIs.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use surge::{Part, Stack, StackSettings};
use surge_proto::DataflowMode;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) use crate::waiting::{Outcome, eventually};
use crate::{
    api::{PublicApi, Quote, downtown, read},
    stack_support::{stack_in, state_folder},
};

/// A running stack and its public APIs.
pub(crate) struct Exchange {
    // Fields are dropped in this order: the processes must end before their folder is removed.
    pub(crate) stack: Stack,
    pub(crate) api: PublicApi,
    folder: TempDir,
}

/// The settings that differ between tests.
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
    /// As fast as life, so that no data becomes too old within a test.
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

    /// The age in real time from which data sets no price in the fast market: a quarter of an hour
    /// there.
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

    /// The public APIs of each replica.
    pub(crate) fn api_of_each(&self) -> Vec<PublicApi> {
        let targets = (1..=self.stack.replicas()).filter_map(|number| self.stack.target_of(number));
        targets.map(PublicApi::of).collect()
    }

    /// A quote with data, and its header `trace-id`.
    pub(crate) async fn quoted(&self, mode: DataflowMode) -> anyhow::Result<(Quote, String)> {
        eventually("there is a quote", async || {
            let answer = self.api.ask_quote(downtown(), mode).await?;
            let trace_id = answer.headers.get("trace-id").cloned();
            let quote: Quote = read(Ok(answer))?;
            ensure!(quote.dataflow == mode && !quote.degraded, "{quote:?}");
            Ok((quote, trace_id.context("no trace-id")?.to_str()?.to_owned()))
        })
        .await
    }

    /// Ends every process at once: there is no work to finish.
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
            restarted.with_context(|| format!("{part} does not restart"))?;
        }
        Ok(())
    }
}
