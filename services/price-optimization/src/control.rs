//! The mode in force. It lives in a JetStream key-value bucket that every replica watches, so that
//! a switch reaches all of them. Without NATS a replica keeps the mode it last knew: no quote waits
//! for the control plane.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::kv::{CreateErrorKind, Entry, Operation, Store, UpdateErrorKind};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use platform::{background::WorkLoop, nats};
use serde::{Deserialize, Serialize};
use surge_proto::{
    DataflowMode,
    subjects::{CONTROL_BUCKET, CONTROL_DATAFLOW_KEY},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::{error::Error, openapi::Mode};

/// How often a switch is tried when another replica switches at the same moment.
const SWITCH_ATTEMPTS: usize = 5;

/// How long to wait before watching again after the watch broke.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

/// The mode in force, since when, and the how manieth it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModeInForce {
    /// The dataflow mode.
    #[schema(value_type = Mode)]
    pub mode: DataflowMode,
    /// Grows by one with every switch; 0 before the first.
    pub epoch: u64,
    /// When it was switched to, in real time.
    pub switched_at: DateTime<Utc>,
}

/// Knows the mode in force and switches it.
#[derive(Clone, Debug)]
pub struct ModeControl {
    nats: async_nats::Client,
    stream_replicas: usize,
    // A watch channel: quotes read it without waiting, the watcher and a switch write it.
    current: Arc<watch::Sender<ModeInForce>>,
}

impl ModeControl {
    /// Starts in `mode`, until NATS or somebody says otherwise; what is said there is kept on so
    /// many nodes.
    pub fn new(nats: async_nats::Client, mode: DataflowMode, stream_replicas: usize) -> Self {
        let start = ModeInForce {
            mode,
            epoch: 0,
            switched_at: Utc::now(),
        };
        Self {
            nats,
            stream_replicas,
            current: Arc::new(watch::Sender::new(start)),
        }
    }

    /// The mode in force here and now.
    pub fn current(&self) -> ModeInForce {
        *self.current.borrow()
    }

    /// Switches every replica to `mode`; on return this one has switched. Switching to the mode in
    /// force is a switch too: the epoch grows.
    ///
    /// # Errors
    /// [`Error::Switch`] when NATS is away or others keep switching; the mode is then as it was.
    pub async fn switch(&self, mode: DataflowMode) -> Result<ModeInForce, Error> {
        let bucket = self.bucket().await?;
        for _ in 0..SWITCH_ATTEMPTS {
            if let Some(switched) = self.try_switch(&bucket, mode).await? {
                self.adopt(switched);
                return Ok(switched);
            }
        }
        Err(Error::Switch(
            "others are switching it at this moment".to_owned(),
        ))
    }

    async fn bucket(&self) -> Result<Store, Error> {
        nats::probe(&self.nats).map_err(|_| Error::Switch("NATS is away".to_owned()))?;
        let jetstream = nats::jetstream(self.nats.clone());
        nats::ensure_bucket(&jetstream, CONTROL_BUCKET, self.stream_replicas)
            .await
            .map_err(refused)
    }

    /// `None` when another switch came between reading and writing.
    async fn try_switch(
        &self,
        bucket: &Store,
        mode: DataflowMode,
    ) -> Result<Option<ModeInForce>, Error> {
        let entry = bucket.entry(CONTROL_DATAFLOW_KEY).await.map_err(refused)?;
        let known = entry
            .as_ref()
            .and_then(decode)
            .map_or(0, |known| known.epoch);
        let next = ModeInForce {
            mode,
            epoch: known.max(self.current().epoch) + 1,
            switched_at: Utc::now(),
        };
        let value = Bytes::from(serde_json::to_vec(&next).map_err(refused)?);
        let written = match entry {
            Some(entry) => match bucket
                .update(CONTROL_DATAFLOW_KEY, value, entry.revision)
                .await
            {
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                    return Ok(None);
                }
                outcome => outcome.map_err(refused),
            },
            None => match bucket.create(CONTROL_DATAFLOW_KEY, value).await {
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => return Ok(None),
                outcome => outcome.map_err(refused),
            },
        };
        written.map(|_| Some(next))
    }

    /// The newest epoch wins, in whatever order news arrives.
    fn adopt(&self, news: ModeInForce) {
        let is_newer = |current: &mut ModeInForce| {
            let newer = news.epoch > current.epoch;
            if newer {
                *current = news;
            }
            newer
        };
        if self.current.send_if_modified(is_newer) {
            info!(surge.dataflow = %news.mode, surge.epoch = news.epoch, "dataflow mode is {}", news.mode);
        }
    }

    /// Follows the bucket until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let mut work = WorkLoop::new("the watch of the dataflow mode", &token);
        while work.next_step(WATCH_AGAIN).await {
            work.run(self.follow()).await;
        }
    }

    /// Adopts the value in the bucket and every later one, until the watch breaks.
    async fn follow(&self) -> Result<(), Error> {
        let bucket = self.bucket().await?;
        let mut news = bucket
            .watch_with_history(CONTROL_DATAFLOW_KEY)
            .await
            .map_err(refused)?;
        while let Some(entry) = news.next().await {
            match decode(&entry.map_err(refused)?) {
                Some(mode) => self.adopt(mode),
                None => warn!(
                    "the bucket {CONTROL_BUCKET} holds a dataflow mode that cannot be read; ignored"
                ),
            }
        }
        Ok(())
    }
}

fn decode(entry: &Entry) -> Option<ModeInForce> {
    match entry.operation {
        Operation::Put => serde_json::from_slice(&entry.value).ok(),
        Operation::Delete | Operation::Purge => None,
    }
}

fn refused(cause: impl ToString) -> Error {
    Error::Switch(cause.to_string())
}
