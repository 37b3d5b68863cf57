//! The connections that quotes read on, held from one read to the next. A pool asks a connection for a sign of life whenever
//! it is given back; that is one more round trip for each quote, as long as the read itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A few connections of a pool, for one reader each at a time.
#[derive(Debug)]
pub(crate) struct Readers {
    pool: PgPool,
    room: Semaphore,
    // A std mutex: held for a push or a pop, never across an await.
    idle: Mutex<Vec<PoolConnection<Postgres>>>,
}

/// A connection, taken.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    readers: &'a Readers,
    connection: PoolConnection<Postgres>,
    _room: SemaphorePermit<'a>,
}

impl Readers {
    /// Takes all connections of `pool` but one, which is left for everything else.
    pub(crate) fn of(pool: PgPool) -> Self {
        let room = pool
            .options()
            .get_max_connections()
            .saturating_sub(1)
            .max(1);
        Self {
            room: Semaphore::new(room as usize),
            idle: Mutex::default(),
            pool,
        }
    }

    /// A connection of one's own, as soon as there is one; the asker bounds the wait.
    ///
    /// # Errors
    /// When the database is away.
    pub(crate) async fn take(&self) -> Result<Reader<'_>, sqlx::Error> {
        let room = self.room.acquire().await;
        let _room = room.expect("nobody closes the semaphore");
        let held = self.idle().pop();
        let connection = match held {
            Some(connection) => connection,
            None => self.pool.acquire().await?,
        };
        Ok(Reader {
            readers: self,
            connection,
            _room,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<PoolConnection<Postgres>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader<'_> {
    /// To run a query on.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Gives it back for the next read. One that is dropped instead, in the middle of a read, goes to the pool, which looks
    /// at it.
    pub(crate) fn keep(self) {
        self.readers.idle().push(self.connection);
    }

    /// Gives up this one and those that are idle: what broke it may have broken them.
    pub(crate) fn distrust_all(self) {
        self.readers.idle().clear();
    }
}
