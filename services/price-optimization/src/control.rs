//! The mode in force, and its switch.
//!
//! # How this works
//! ```text
//! PUT /v1/dataflow ──► one replica ──► key-value bucket ──► watch ──► every replica
//!                      compare and swap    surge-control
//! ```
//! A quote reads the mode of its own replica and waits for nobody. Every switch has an *epoch*,
//! one greater than the one before, and every quote is stamped with mode and epoch. A replica
//! adopts the greatest epoch that it has seen. Without NATS it keeps its mode.

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

/// How often a switch is repeated when another replica switches at the same time.
const SWITCH_ATTEMPTS: usize = 5;

/// How long to wait before watching again after the watch broke.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

/// The mode in force, since when, and the number of the switch that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModeInForce {
    /// The dataflow mode.
    #[schema(value_type = Mode)]
    pub mode: DataflowMode,
    /// Number of switches so far; 0 before the first.
    pub epoch: u64,
    /// When it was switched to, in real time.
    pub switched_at: DateTime<Utc>,
}

/// The mode in force on this replica, and the way to switch it on all.
#[derive(Clone, Debug)]
pub struct ModeControl {
    nats: async_nats::Client,
    stream_replicas: usize,
    // A watch channel: quotes read it without waiting; `run` and `switch` write it.
    current: Arc<watch::Sender<ModeInForce>>,
}

impl ModeControl {
    /// Starts in `mode`, until a switch is seen. The bucket is kept on `stream_replicas` nodes.
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

    /// The mode in force on this replica.
    pub fn current(&self) -> ModeInForce {
        *self.current.borrow()
    }

    /// Switches every replica to `mode`; when it returns, this replica has switched. A switch to
    /// the mode in force counts too: the epoch grows.
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
        nats::health_check(&self.nats).map_err(|_| Error::Switch("NATS is away".to_owned()))?;
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

    /// Takes `seen` as the mode in force, unless a greater epoch was seen before.
    fn adopt(&self, seen: ModeInForce) {
        let ModeInForce { mode, epoch, .. } = seen;
        let is_newer = |current: &mut ModeInForce| {
            let is_newer = epoch > current.epoch;
            if is_newer {
                *current = seen;
            }
            is_newer
        };
        if self.current.send_if_modified(is_newer) {
            info!(surge.dataflow = %mode, surge.epoch = epoch, "dataflow mode is {mode}");
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
        let mut entries = bucket
            .watch_with_history(CONTROL_DATAFLOW_KEY)
            .await
            .map_err(refused)?;
        while let Some(entry) = entries.next().await {
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
