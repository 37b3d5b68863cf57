//! The connections that quotes read on, held from one read to the next. A pool asks a connection for a sign of life whenever
//! it is given back; that is one more round trip for each quote, as long as the read itself.

use std::{
    num::NonZero,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use thread_local::ThreadLocal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// A few connections of a pool, for one reader each at a time.
#[derive(Debug)]
pub(crate) struct Readers {
    pool: PgPool,
    /// How many reads may be under way for one thread, so that it has no need of a connection of another: what comes in on that
    /// would wake both.
    share: usize,
    shares: ThreadLocal<Semaphore>,
    /// How many for all: there may be more threads than shares.
    room: Semaphore,
    /// How many connections are held, idle or not: as many as there is room, and never the last one of the pool. What the pool
    /// says of itself does not tell, because two threads may ask it at once.
    held: Arc<Semaphore>,
    // A std mutex: held for a push or a pop, never across an await.
    idle: Mutex<Vec<Held>>,
}

/// An open connection, and the thread that opened it: whatever comes in on it wakes that thread first.
#[derive(Debug)]
struct Held {
    opened_by: ThreadId,
    connection: PoolConnection<Postgres>,
    _one_of_those_held: OwnedSemaphorePermit,
}

/// Where a reader gets its connection from.
enum Source {
    Held(Held),
    Pool(OwnedSemaphorePermit),
}

/// A connection, taken.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    readers: &'a Readers,
    held: Held,
    _room: [SemaphorePermit<'a>; 2],
}

impl Readers {
    /// Takes all connections of `pool` but one, which is left for everything else.
    pub(crate) fn of(pool: PgPool) -> Self {
        let room = pool
            .options()
            .get_max_connections()
            .saturating_sub(1)
            .max(1) as usize;
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            share: (room / threads).max(1),
            shares: ThreadLocal::new(),
            room: Semaphore::new(room),
            held: Arc::new(Semaphore::new(room)),
            idle: Mutex::default(),
            pool,
        }
    }

    /// A connection of one's own, as soon as there is one; the asker bounds the wait.
    ///
    /// # Errors
    /// When the database is away.
    pub(crate) async fn take(&self) -> Result<Reader<'_>, sqlx::Error> {
        let share = self.shares.get_or(|| Semaphore::new(self.share));
        let _room = [place(share).await, place(&self.room).await];
        let here = thread::current().id();
        let held = match self.source(here) {
            Source::Held(held) => held,
            Source::Pool(one_of_those_held) => Held {
                opened_by: here,
                connection: self.pool.acquire().await?,
                _one_of_those_held: one_of_those_held,
            },
        };
        Ok(Reader {
            readers: self,
            held,
            _room,
        })
    }

    /// A connection that this thread has opened, or a new one; another's once no more may be held.
    fn source(&self, here: ThreadId) -> Source {
        loop {
            let mut idle = self.idle();
            if let Some(ours) = idle.iter().rposition(|held| held.opened_by == here) {
                return Source::Held(idle.swap_remove(ours));
            }
            if let Ok(one_of_those_held) = Arc::clone(&self.held).try_acquire_owned() {
                return Source::Pool(one_of_those_held);
            }
            // Whoever asks has a place in the room, so one of those held is in no other hands: it is here, or just given up.
            if let Some(others) = idle.pop() {
                return Source::Held(others);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Held>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn place(room: &Semaphore) -> SemaphorePermit<'_> {
    let place = room.acquire().await;
    place.expect("nobody closes the semaphore")
}

impl Reader<'_> {
    /// To run a query on.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.held.connection
    }

    /// Gives it back for the next read. One that is dropped instead, in the middle of a read, goes to the pool, which looks
    /// at it.
    pub(crate) fn keep(self) {
        self.readers.idle().push(self.held);
    }

    /// Closes this one and those that are idle: what broke it may have broken them, and the pool would ask them for a sign of
    /// life and wait.
    pub(crate) fn distrust_all(mut self) {
        self.held.connection.close_on_drop();
        for mut idle in std::mem::take(&mut *self.readers.idle()) {
            idle.connection.close_on_drop();
        }
    }
}
