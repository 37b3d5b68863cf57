//! The way of other replicas' writes into this one's memory: a few times a second it reads which
//! drivers they changed, and then those drivers. With PostgreSQL away every replica goes on with
//! what it knows, and says as of when that is.

use std::{sync::Arc, time::Duration};

use feeds::change_log::{ChangeLog, Changes};
use platform::background::WorkLoop;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    error::Error,
    fleet::Fleet,
    store::{Store, market_time},
};

/// How often the journal is read, in real time: as often as positions are written.
const EVERY: Duration = Duration::from_millis(250);

/// Keeps the fleet in step with the table.
#[derive(Debug)]
pub struct Follower {
    fleet: Arc<Fleet>,
    store: Store,
    journal: ChangeLog,
}

impl Follower {
    /// A follower that brings what the table has to the fleet, for which the first step reads all
    /// of it.
    pub fn new(fleet: Arc<Fleet>, store: Store) -> Self {
        let journal = store.change_log();
        Self {
            fleet,
            store,
            journal,
        }
    }

    /// Takes in what others have changed since the last step; returns how many drivers were read
    /// for it.
    ///
    /// # Errors
    /// Those of the database. Nothing is missed then: the next step begins where this one did.
    pub async fn step(&mut self) -> Result<usize, Error> {
        let reads_everything = self.journal.needs_full_read();
        let reading = self.journal.read().await?;
        let drivers = match reads_everything {
            true => self.store.all_drivers().await?,
            false => self.store.drivers(&reading.ids).await?,
        };
        let peers_as_of = reading.peers_as_of.map(market_time);
        self.fleet.follow(&drivers, peers_as_of);
        self.goes_on_from(reading);
        self.journal.prune().await?;
        if reads_everything {
            info!("the fleet has {} drivers", drivers.len());
        }
        Ok(drivers.len())
    }

    /// Where a doubt has arisen, notes of our own count too, and this reading may have left one
    /// out: the next step reads from the same place again.
    fn goes_on_from(&mut self, reading: Changes) {
        let had_them = self.journal.is_in_doubt();
        let doubted = self.fleet.take_doubt();
        if doubted {
            self.journal.mark_in_doubt();
        }
        if had_them || !doubted {
            self.journal.commit_offset(reading);
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
