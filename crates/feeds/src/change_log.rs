//! The change log: how a replica of a service learns what the other replicas have written, and
//! misses nothing.
//!
//! # How this works
//!
//! PostgreSQL is the authority; each replica keeps a copy in memory. A trigger adds an entry to the
//! change log (the table `journal`) for each write: which rows, and the number of the transaction.
//! Several times a second each replica reads the entries that are new to it, and then those rows.
//!
//! A transaction gets its number at its beginning and becomes visible at its end, so "all entries
//! above the highest number that I have read" misses a transaction that commits late. Instead a
//! read returns a *watermark*: the oldest transaction that was open at that moment. The next read
//! begins there. It returns some entries twice, and misses none.
//!
//! ```text
//!  transaction 41   ├────────────── open ──────────────┤ commits
//!  transaction 42       ├────┤ commits
//!  transaction 43                   ├────┤ commits
//! ──────────────────────────────────────────────────────────────────▶ time
//!                              ▲              ▲                ▲
//!  read                        1st            2nd, from 41     3rd, from 41
//!  returns                     42             42, 43           41, 42, 43
//!  watermark                   41             41               44
//! ```
//!
//! A read takes effect with [`ChangeLog::commit_offset`]; a replica that fails before reads the
//! same entries again.
//!
//! A server that crashed gives out the last transaction numbers once more, if they were not yet on
//! its disk; so does a standby that takes over. A write with such a number would be below the
//! watermark, and missed. So a watermark counts only within one session with the server, which a
//! crash ends: the change log has a connection of its own, and a new connection begins with a full
//! read.
//!
//! A replica skips its own entries, because it knows what it wrote. The exception is a write whose
//! outcome it never learned, such as a commit that timed out: the write is *in doubt*. It may even
//! take effect later, because a statement goes on when its caller has left. So the replica reads
//! its own entries too, until the watermark has passed a transaction that began after that write.
//!
//! ```text
//!  write in doubt    ├─ timed out ─ ─ ─ ─ ─ ┤ commits, or never
//!  read                       ▲ begins transaction 50       ▲ watermark 51: not in doubt
//! ```
//!
//! In the table `replica` each one reports how far its own writes are complete. No replica claims
//! to know more than the oldest of these reports.
//!
//! The service's migrations make both tables: `journal (changed_in xid8, changed_by text,
//! changed_at timestamptz, ids uuid[])` and `replica (replica_id uuid, as_of timestamptz,
//! traceparent text, seen_at timestamptz, ended boolean)`.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use platform::{postgres, propagation};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

/// How long entries are kept: far longer than any transaction of ours may take.
const RETENTION: Duration = Duration::from_secs(60);

/// A replica that has not read for this long may have missed entries.
const FULL_READ_AFTER: Duration = Duration::from_secs(30);

/// How often a replica deletes old entries.
const PRUNE_EVERY: Duration = Duration::from_secs(10);

/// How long the database may take for one statement.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// The setting of a session by which the trigger knows which replica writes.
pub const WRITER_SETTING: &str = "surge.replica";

/// The change log of a service, as one replica reads it.
#[derive(Debug)]
pub struct ChangeLog {
    pool: PgPool,
    replica: Uuid,
    session: Option<PgConnection>,
    offset: Option<Offset>,
    in_doubt: Option<InDoubt>,
    prune_at: Instant,
}

/// How far this replica has read.
#[derive(Debug)]
struct Offset {
    watermark: i64,
    read_at: Instant,
    /// The rows of the last read. The next read can repeat these and no older ones.
    ids: HashSet<Uuid>,
}

/// A write of this replica whose outcome is unknown.
#[derive(Clone, Copy, Debug)]
struct InDoubt {
    since: Instant,
    /// A transaction that began after the write; `None` until there is one.
    later_transaction: Option<i64>,
}

/// The result of one read.
#[derive(Debug)]
pub struct Changes {
    /// The rows that other replicas wrote since the last read, and some from before it; with this
    /// replica's own rows while a write is in doubt.
    pub ids: Vec<Uuid>,
    /// Up to when the writes of every other living replica are complete, in market time; `None` if
    /// there is no other.
    pub peers_as_of: Option<DateTime<Utc>>,
    watermark: i64,
    later_transaction: Option<i64>,
    read_at: Instant,
}

impl ChangeLog {
    /// The change log as `replica` reads it, which has read nothing yet.
    pub fn new(pool: PgPool, replica: Uuid) -> Self {
        Self {
            pool,
            replica,
            session: None,
            offset: None,
            in_doubt: None,
            prune_at: Instant::now(),
        }
    }

    /// Whether this replica may have missed entries, as at its start or after a failed read. Then
    /// it reads all rows too: in the same snapshot as the change log where a row must not count
    /// twice, or after it where repeating does no harm.
    pub fn needs_full_read(&self) -> bool {
        let is_recent = |offset: &Offset| offset.read_at.elapsed() < FULL_READ_AFTER;
        self.session.is_none() || !self.offset.as_ref().is_some_and(is_recent)
    }

    /// Reports a write of this replica whose outcome is unknown. A read that is under way may have
    /// skipped its entry.
    pub fn mark_in_doubt(&mut self) {
        self.in_doubt = Some(InDoubt {
            since: Instant::now(),
            later_transaction: None,
        });
    }

    /// Whether a write of this replica is in doubt. Until then reads include its own entries.
    pub const fn is_in_doubt(&self) -> bool {
        self.in_doubt.is_some()
    }

    /// Reads the entries since the committed offset.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn read(&mut self) -> Result<Changes, sqlx::Error> {
        // A full read follows anyway, so the entries since an old offset, which may be many, are
        // not needed.
        let offset = self.offset.as_ref().filter(|_| !self.needs_full_read());
        let watermark = offset.map(|offset| offset.watermark);
        let mut session = self.session().await?;
        let read = self.read_from(watermark, &mut session);
        let changes = postgres::observed("SELECT journal", read).await?;
        self.session = Some(session);
        Ok(changes)
    }

    /// Reads only the watermark, and with `read_rows` all rows of the same snapshot.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn read_with<T>(
        &mut self,
        read_rows: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<(T, Changes), sqlx::Error> {
        const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        let mut session = self.session().await?;
        let mut snapshot = session.begin_with(SNAPSHOT).await?;
        let changes = self.read_from(None, &mut snapshot).await?;
        let rows = read_rows(&mut snapshot).await?;
        snapshot.commit().await?;
        self.session = Some(session);
        Ok((rows, changes))
    }

    /// The connection of the reads so far, or a new one. A read that fails, or is cut off, does not
    /// put it back: what it was in the middle of is unknown.
    async fn session(&mut self) -> Result<PgConnection, sqlx::Error> {
        match self.session.take() {
            Some(session) => Ok(session),
            None => postgres::within(DEADLINE, postgres::connect(&self.pool)).await,
        }
    }

    async fn read_from(
        &self,
        watermark: Option<i64>,
        connection: &mut PgConnection,
    ) -> Result<Changes, sqlx::Error> {
        let read_at = Instant::now();
        let lacks_later = |in_doubt: InDoubt| in_doubt.later_transaction.is_none();
        let read = sqlx::query_as::<_, (Vec<Uuid>, Option<DateTime<Utc>>, i64, Option<i64>)>(
            "SELECT ARRAY(SELECT DISTINCT id FROM journal, unnest(ids) AS id
                          WHERE changed_in >= coalesce($1::bigint::text::xid8,
                                                       pg_snapshot_xmin(pg_current_snapshot()))
                            AND ($3 OR changed_by IS DISTINCT FROM $2::text)),
                    (SELECT min(as_of) FROM replica
                     WHERE replica_id <> $2 AND NOT ended
                       AND seen_at > now() - interval '3 seconds'),
                    pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
                    CASE WHEN $4 THEN pg_current_xact_id()::text::bigint END",
        )
        .bind(watermark)
        .bind(self.replica)
        .bind(self.is_in_doubt())
        .bind(self.in_doubt.is_some_and(lacks_later))
        .fetch_one(connection);
        let read: Result<_, sqlx::Error> = postgres::within(DEADLINE, read).await;
        let (ids, peers_as_of, watermark, later_transaction) = read?;
        Ok(Changes {
            ids,
            peers_as_of,
            watermark,
            later_transaction,
            read_at,
        })
    }

    /// The rows that the read before did not return: for rows that are written once, and must count
    /// once.
    pub fn unseen(&self, changes: &Changes) -> Vec<Uuid> {
        let seen = self.offset.as_ref().map(|offset| &offset.ids);
        let is_unseen = |id: &&Uuid| !seen.is_some_and(|seen| seen.contains(*id));
        changes.ids.iter().filter(is_unseen).copied().collect()
    }

    /// The changes have taken effect in memory: the next read goes on from there.
    pub fn commit_offset(&mut self, changes: Changes) {
        self.in_doubt = self.in_doubt.and_then(|doubt| doubt.after(&changes));
        self.offset = Some(Offset {
            watermark: changes.watermark,
            read_at: changes.read_at,
            ids: changes.ids.into_iter().collect(),
        });
    }

    /// Deletes old entries, and reports of replicas that ended long ago, if it is time to. It does
    /// not delete the last report before this replica has reported itself, because readers of the
    /// published views need one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn prune(&mut self) -> Result<(), sqlx::Error> {
        if Instant::now() < self.prune_at {
            return Ok(());
        }
        let prune = sqlx::query(
            "WITH entries AS (DELETE FROM journal WHERE changed_at < now() - $1)
             DELETE FROM replica WHERE seen_at < now() - $1 AND replica_id <> $2
                 AND EXISTS (SELECT FROM replica WHERE replica_id = $2)",
        )
        .bind(RETENTION)
        .bind(self.replica)
        .execute(&self.pool);
        postgres::traced::<_, sqlx::Error>(DEADLINE, "DELETE journal, replica", prune).await?;
        self.prune_at = Instant::now() + PRUNE_EVERY;
        Ok(())
    }
}

impl InDoubt {
    /// The doubt that is left after a read: none once every transaction has ended that began before
    /// the later one. It does not last longer than any transaction of ours: those of others may be
    /// open for hours.
    fn after(self, changes: &Changes) -> Option<Self> {
        let began_after = self.since <= changes.read_at;
        let read = changes.later_transaction.filter(|_| began_after);
        let later_transaction = self.later_transaction.or(read);
        let is_over = later_transaction.is_some_and(|later| later <= changes.watermark);
        let lasts = !is_over && self.since.elapsed() < FULL_READ_AFTER;
        lasts.then_some(Self {
            later_transaction,
            ..self
        })
    }
}

/// Reports that all writes which `replica` accepted up to `as_of` are in the tables, with the
/// current trace.
///
/// # Errors
/// Those of the database.
pub async fn report_as_of(
    connection: &mut PgConnection,
    replica: Uuid,
    as_of: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO replica (replica_id, as_of, traceparent) VALUES ($1, $2, $3)
         ON CONFLICT (replica_id)
         DO UPDATE SET (as_of, traceparent, seen_at) = ($2, $3, clock_timestamp())",
    )
    .bind(replica)
    .bind(as_of)
    .bind(propagation::traceparent())
    .execute(connection)
    .await?;
    Ok(())
}

/// Reports that `replica` writes no more, so that no other waits for it. The report of the last
/// replica stays, for the readers of the published views.
///
/// # Errors
/// Those of the database.
pub async fn leave(pool: &PgPool, replica: Uuid) -> Result<(), sqlx::Error> {
    let leave = async {
        let mut transaction = pool.begin().await?;
        // One at a time: of two that end together, neither may count on the other. The lock has a
        // statement of its own, so that the next statement sees what the replica before this one
        // did.
        sqlx::query("LOCK TABLE replica IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "WITH peer AS (SELECT FROM replica WHERE replica_id <> $1 AND NOT ended
                           AND seen_at > now() - interval '3 seconds')
             DELETE FROM replica
             WHERE CASE WHEN EXISTS (SELECT FROM peer) THEN replica_id = $1
                        ELSE replica_id <> $1 END",
        )
        .bind(replica)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("UPDATE replica SET ended = true WHERE replica_id = $1")
            .bind(replica)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await
    };
    postgres::traced(DEADLINE, "DELETE replica", leave).await
}
