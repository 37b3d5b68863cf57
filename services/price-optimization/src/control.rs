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
//!
//! The bucket can lose what it held: purged, its storage lost, restored from an older backup. Then
//! a new replica would begin in another mode than the old ones. So each replica compares its mode
//! with the bucket every second, and the one with the greater epoch wins:
//!
//! ```text
//! the bucket has        a replica with epoch 7
//! epoch 8, or another 7   adopts it: the bucket decides
//! epoch 6, or nothing     writes its own 7 back
//! ```

use std::{
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::{error::Error, openapi::Mode};

/// How often a switch is repeated when another replica switches at the same time.
const SWITCH_ATTEMPTS: usize = 5;

/// How long to wait before watching again after the watch broke.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

/// How often a replica compares its mode with the bucket.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// How long a new replica waits for the bucket before it is ready in its configured mode: without
/// NATS it will not learn more.
const PATIENCE: Duration = Duration::from_secs(5);

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
    started: Instant,
    is_known: Arc<AtomicBool>,
    /// Logged once, though it is read every second.
    unreadable: Arc<Once>,
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
            started: Instant::now(),
            is_known: Arc::default(),
            unreadable: Arc::new(Once::new()),
        }
    }

    /// A health check: whether the mode is the one in force, and not only the configured one.
    ///
    /// # Errors
    /// While the bucket was not read yet, for a few seconds at most.
    pub fn health_check(&self) -> Result<(), String> {
        match self.is_known.load(Ordering::Relaxed) || self.started.elapsed() > PATIENCE {
            true => Ok(()),
            false => Err("the mode in force is not known yet".to_owned()),
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
            let entry = bucket.entry(CONTROL_DATAFLOW_KEY).await.map_err(refused)?;
            let known = entry.as_ref().and_then(decode);
            let known = known.map_or(0, |known| known.epoch);
            let next = ModeInForce {
                mode,
                epoch: known.max(self.current().epoch) + 1,
                switched_at: Utc::now(),
            };
            if write(&bucket, entry, next).await? {
                self.adopt(next);
                return Ok(next);
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

    /// Takes `seen` as the mode in force, unless a greater epoch was seen before. Of two modes with
    /// one epoch, which a broker that loses its order can make, the one in the bucket is last seen.
    fn adopt(&self, seen: ModeInForce) {
        let ModeInForce { mode, epoch, .. } = seen;
        let is_newer = |current: &mut ModeInForce| {
            let is_newer = epoch >= current.epoch && seen != *current;
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
        let mut entries = bucket.watch(CONTROL_DATAFLOW_KEY).await.map_err(refused)?;
        loop {
            self.compare(&bucket).await?;
            match timeout(COMPARE_EVERY, entries.next()).await {
                Ok(Some(entry)) => drop(entry.map_err(refused)?),
                Ok(None) => return Ok(()),
                Err(_no_switch) => {}
            }
        }
    }

    /// Adopts what the bucket holds, or puts back what it has lost.
    async fn compare(&self, bucket: &Store) -> Result<(), Error> {
        let entry = bucket.entry(CONTROL_DATAFLOW_KEY).await.map_err(refused)?;
        let is_unreadable =
            |entry: &Entry| entry.operation == Operation::Put && decode(entry).is_none();
        let ours = self.current();
        match entry.as_ref().and_then(decode) {
            Some(theirs) if theirs.epoch >= ours.epoch => self.adopt(theirs),
            // A newer version may write what this one cannot read.
            None if entry.as_ref().is_some_and(is_unreadable) => self.unreadable.call_once(|| {
                warn!("the bucket {CONTROL_BUCKET} holds a mode that cannot be read; ignored");
            }),
            _ if ours.epoch > 0 => {
                let is_back = write(bucket, entry, ours).await?;
                if is_back {
                    warn!("the bucket {CONTROL_BUCKET} had lost the mode; it is back");
                }
            }
            _ => {}
        }
        self.is_known.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Writes `next` in the place of `entry`; false when another replica was faster.
async fn write(bucket: &Store, entry: Option<Entry>, next: ModeInForce) -> Result<bool, Error> {
    let value = Bytes::from(serde_json::to_vec(&next).map_err(refused)?);
    match entry {
        Some(entry) => {
            let update = bucket.update(CONTROL_DATAFLOW_KEY, value, entry.revision);
            match update.await {
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
                outcome => outcome.map(|_| true).map_err(refused),
            }
        }
        None => match bucket.create(CONTROL_DATAFLOW_KEY, value).await {
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(false),
            outcome => outcome.map(|_| true).map_err(refused),
        },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn new_replica_waits_for_mode_in_force() {
        let plain = nats::NatsTls::default();
        let away = nats::connect("127.0.0.1:1", "a test", &plain)
            .await
            .unwrap();
        let control = ModeControl::new(away, DataflowMode::Request, 1);
        assert!(control.health_check().is_err());
        tokio::time::advance(PATIENCE + Duration::from_millis(1)).await;
        assert_eq!(
            control.health_check(),
            Ok(()),
            "without NATS, the configured one"
        );
    }
}
