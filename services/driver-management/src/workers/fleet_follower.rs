//! Brings the drivers that other replicas have written into this replica's fleet: several times a
//! second it reads the change log, and then the drivers that it names. While PostgreSQL is away
//! every replica goes on with what it knows, and its supply says as of when that is.

use std::{sync::Arc, time::Duration};

use feeds::change_log::{ChangeLog, Changes};
use platform::background::WorkLoop;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{error::Error, fleet::Fleet, store::Store};

/// How often the change log is read, in real time: as often as positions are written.
const EVERY: Duration = Duration::from_millis(250);

/// Keeps the fleet in step with the table.
#[derive(Debug)]
pub struct FleetFollower {
    fleet: Arc<Fleet>,
    store: Store,
    change_log: ChangeLog,
}

impl FleetFollower {
    /// A follower whose first step reads all drivers.
    pub fn new(fleet: Arc<Fleet>, store: Store) -> Self {
        let change_log = store.change_log();
        Self {
            fleet,
            store,
            change_log,
        }
    }

    /// Brings the changes since the last step into the fleet; returns the number of drivers read.
    ///
    /// # Errors
    /// Those of the database. No change is missed: the next step begins where this one did.
    pub async fn step(&mut self) -> Result<usize, Error> {
        let is_full = self.change_log.needs_full_read();
        let changes = self.change_log.read().await?;
        let drivers = match is_full {
            true => self.store.all_drivers().await?,
            false => self.store.drivers(&changes.ids).await?,
        };
        let peers_as_of = changes.peers_as_of.map(Into::into);
        self.fleet.follow(&drivers, peers_as_of);
        self.commit(changes);
        self.change_log.prune().await?;
        if is_full {
            info!("the fleet has {} drivers", drivers.len());
        }
        Ok(drivers.len())
    }

    /// Where a write came into doubt since the last step, this read may have skipped its entry:
    /// then the next step reads from the same offset again.
    fn commit(&mut self, changes: Changes) {
        let included_own_entries = self.change_log.is_in_doubt();
        let has_new_doubt = self.fleet.take_new_doubt();
        if has_new_doubt {
            self.change_log.mark_in_doubt();
        }
        if included_own_entries || !has_new_doubt {
            self.change_log.commit_offset(changes);
        }
    }

    /// Steps until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new("the following of other replicas", &shutdown);
        while work.next_step(EVERY).await {
            work.run(self.step()).await;
        }
    }
}
