//! Several replicas of one service on one schema. PostgreSQL is the authority; what a replica keeps in memory is a copy,
//! and this is how it learns what the others wrote.
//!
//! A trigger notes in the table `journal` which rows a transaction wrote, beside the transaction's number. A replica reads
//! the notes from its *horizon* on: the oldest transaction that was still open when it read last. Numbers of transactions
//! are given at their beginning and seen at their end, so whoever reads "everything after the newest I saw" misses what
//! commits late; whoever reads from the horizon reads some notes twice and misses none.
//!
//! A replica knows what it wrote itself, and leaves its own notes out; but not when it was never told the outcome of a write.
//! The write may even take effect later than the look at the table that was to tell, because a statement goes on when its
//! caller has left. So such a *doubt* lasts until every transaction that may be that write has ended.
//!
//! In the table `replica` each says how far its own writes reach. The others must not claim to know more than that.
//!
//! Both tables are made by the service's migrations: `journal (changed_in xid8, changed_by text, changed_at timestamptz,
//! ids uuid[])` and `replica (replica_id uuid, as_of timestamptz, traceparent text, seen_at timestamptz, ended
//! boolean)`.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use platform::{postgres, propagation};

/// How long notes are kept: far longer than any transaction of ours may take.
const KEPT: Duration = Duration::from_secs(60);

/// After so long without reading, notes may be gone: everything is read anew.
const REACH: Duration = Duration::from_secs(30);

/// How often old notes are thrown away.
const CLEAN_EVERY: Duration = Duration::from_secs(10);

/// How long the database may take to read the journal.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// The connections' setting that tells the trigger whose write it notes.
pub const WRITER_SETTING: &str = "surge.replica";

/// A replica's place in the journal of its service.
#[derive(Debug)]
pub struct Journal {
    me: Uuid,
    place: Option<Place>,
    doubt: Option<Doubt>,
    clean_at: Instant,
}

/// A write of this replica has an outcome that it was not told, or will have one.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Instant,
    /// The number of a transaction that began later than that write; `None` until there is one.
    later: Option<i64>,
}

#[derive(Debug)]
struct Place {
    horizon: i64,
    read_at: Instant,
    /// What the last reading brought. The next one brings those notes again that are not older than its horizon, and no
    /// note that an earlier reading brought can be missing here.
    seen: HashSet<Uuid>,
}

/// What the journal said at one instant.
#[derive(Debug)]
pub struct Reading {
    /// Rows that others wrote: all since the last reading, and some from before it. While there is a doubt, one's own too.
    pub changed: Vec<Uuid>,
    /// How far the writes of every other living replica reach, in market time; `None` while there is no other.
    pub peers_as_of: Option<DateTime<Utc>>,
    horizon: i64,
    later: Option<i64>,
    read_at: Instant,
}

struct Row {
    horizon: i64,
    later: Option<i64>,
    changed: Vec<Uuid>,
    peers_as_of: Option<DateTime<Utc>>,
}

platform::from_row!(Row {
    horizon,
    later,
    changed,
    peers_as_of
});

impl Journal {
    /// The journal as `me` reads it. Nothing is known yet.
    pub fn of(me: Uuid) -> Self {
        Self {
            me,
            place: None,
            doubt: None,
            clean_at: Instant::now(),
        }
    }

    /// Whether notes may have been missed, or none was ever read. Whoever reads the journal then reads everything else
    /// too: in the same snapshot where a change must not count twice, or after it where repeating does no harm.
    pub fn is_new(&self) -> bool {
        let reaches = |place: &Place| place.read_at.elapsed() < REACH;
        !self.place.as_ref().is_some_and(reaches)
    }

    /// The outcome of a write of this replica was lost. A reading that is under way may have left out a note that counts now.
    pub fn doubt(&mut self) {
        self.doubt = Some(Doubt {
            since: Instant::now(),
            later: None,
        });
    }

    /// Whether a write of this replica may take effect that it does not know of. One's own notes are read as long.
    pub const fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// Reads what others have noted since [`took_in`](Self::took_in) was told of a reading.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn read(&self, connection: &mut PgConnection) -> Result<Reading, sqlx::Error> {
        // Whoever reads everything afterwards has no need of the journal from where it was left, which may be very long by then.
        let place = self.place.as_ref().filter(|_| !self.is_new());
        let horizon = place.map(|place| place.horizon);
        postgres::observed("SELECT journal", self.read_from(horizon, connection)).await
    }

    /// Reads only where the journal stands in the snapshot of `connection`, for whoever reads everything else in it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn read_anew(&self, connection: &mut PgConnection) -> Result<Reading, sqlx::Error> {
        self.read_from(None, connection).await
    }

    async fn read_from(
        &self,
        horizon: Option<i64>,
        connection: &mut PgConnection,
    ) -> Result<Reading, sqlx::Error> {
        let read_at = Instant::now();
        let read = sqlx::query_as::<_, Row>(
            "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon,
                    CASE WHEN $4 THEN pg_current_xact_id()::text::bigint END AS later,
                    ARRAY(SELECT DISTINCT id FROM journal, unnest(ids) AS id
                          WHERE changed_in >= coalesce($1::bigint::text::xid8, pg_snapshot_xmin(pg_current_snapshot()))
                            AND ($3 OR changed_by IS DISTINCT FROM $2::text)) AS changed,
                    (SELECT min(as_of) FROM replica
                     WHERE replica_id <> $2 AND NOT ended AND seen_at > now() - interval '3 seconds') AS peers_as_of",
        )
        .bind(horizon)
        .bind(self.me)
        .bind(self.is_in_doubt())
        .bind(self.doubt.is_some_and(|doubt| doubt.later.is_none()))
        .fetch_one(connection);
        let row: Row = postgres::within::<_, sqlx::Error>(DEADLINE, read).await?;
        Ok(Reading {
            changed: row.changed,
            peers_as_of: row.peers_as_of,
            horizon: row.horizon,
            later: row.later,
            read_at,
        })
    }

    /// What of a reading the one before it did not bring: for rows that are noted once, and must count once.
    pub fn unseen(&self, reading: &Reading) -> Vec<Uuid> {
        let seen = self.place.as_ref().map(|place| &place.seen);
        let is_new = |id: &&Uuid| !seen.is_some_and(|seen| seen.contains(*id));
        reading.changed.iter().filter(is_new).copied().collect()
    }

    /// What was read has taken effect; the next reading goes on from there.
    pub fn took_in(&mut self, reading: Reading) {
        self.doubt = self.doubt.and_then(|doubt| doubt.after(&reading));
        self.place = Some(Place {
            horizon: reading.horizon,
            read_at: reading.read_at,
            seen: reading.changed.into_iter().collect(),
        });
    }

    /// Now and then throws away old notes, and replicas that have long been silent: not before this one has spoken, so that
    /// the last word of an earlier one stays until then.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn clean(&mut self, pool: &PgPool) -> Result<(), sqlx::Error> {
        if Instant::now() < self.clean_at {
            return Ok(());
        }
        let clean = sqlx::query(
            "WITH notes AS (DELETE FROM journal WHERE changed_at < now() - $1)
             DELETE FROM replica WHERE seen_at < now() - $1 AND replica_id <> $2
                 AND EXISTS (SELECT FROM replica WHERE replica_id = $2)",
        )
        .bind(KEPT)
        .bind(self.me)
        .execute(pool);
        postgres::traced::<_, sqlx::Error>(DEADLINE, "DELETE journal, replica", clean).await?;
        self.clean_at = Instant::now() + CLEAN_EVERY;
        Ok(())
    }
}

impl Doubt {
    /// What is left of it: nothing once all transactions have ended that are older than the later one. It does not last longer
    /// than any of ours: others may be open for hours.
    fn after(self, reading: &Reading) -> Option<Self> {
        let told = reading.later.filter(|_| self.since <= reading.read_at);
        let later = self.later.or(told);
        let is_over = later.is_some_and(|later| later <= reading.horizon);
        (!is_over && self.since.elapsed() < REACH).then_some(Self { later, ..self })
    }
}

/// Says that everything which `me` took in up to `as_of` is in the tables, with the trace that says so.
///
/// # Errors
/// Those of the database.
pub async fn report(
    connection: &mut PgConnection,
    me: Uuid,
    as_of: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO replica (replica_id, as_of, traceparent) VALUES ($1, $2, $3)
         ON CONFLICT (replica_id) DO UPDATE SET (as_of, traceparent, seen_at) = ($2, $3, clock_timestamp())",
    )
    .bind(me)
    .bind(as_of)
    .bind(propagation::traceparent())
    .execute(connection)
    .await?;
    Ok(())
}

/// Says that `me` will write no more, so that nobody waits for it. The word of the last one stays, for its readers.
///
/// # Errors
/// Those of the database.
pub async fn leave(pool: &PgPool, me: Uuid) -> Result<(), sqlx::Error> {
    let leave = async {
        let mut transaction = pool.begin().await?;
        // One at a time: of two that end together, neither may count on the other. A statement of its own, so that the next one
        // sees what the one before this did.
        sqlx::query("LOCK TABLE replica IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "WITH peer AS (SELECT FROM replica WHERE replica_id <> $1 AND NOT ended AND seen_at > now() - interval '3 seconds')
             DELETE FROM replica
             WHERE CASE WHEN EXISTS (SELECT FROM peer) THEN replica_id = $1 ELSE replica_id <> $1 END",
        )
        .bind(me)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("UPDATE replica SET ended = true WHERE replica_id = $1")
            .bind(me)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    };
    postgres::traced(DEADLINE, "DELETE replica", leave).await
}
