//! Work that one replica does for all: a lease in PostgreSQL, so that there is one holder at a time and another within
//! seconds when it dies or hangs.
//!
//! A lock held on a connection would be simpler, but a process that is stopped, or swaps, keeps it for ever; a lease ends
//! by itself. While PostgreSQL is away the last holder goes on: nobody else can become one.
//!
//! A holder that hears too late that it is none any more does its work once beside its successor. So a lease is for work
//! that may be repeated, such as telling levels.
//!
//! The table is made by the service's migrations: `lease (work text, holder uuid, until timestamptz)`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use platform::{background::WorkLoop, postgres};

/// How long a lease is good for. A successor begins at most this and [`RENEW_EVERY`] after the last sign of life.
const TERM: Duration = Duration::from_secs(2);

/// How often the holder renews it and the others ask for it.
const RENEW_EVERY: Duration = Duration::from_millis(500);

/// How long PostgreSQL may take. With [`RENEW_EVERY`] less than [`TERM`], so that a holder learns that PostgreSQL is away
/// before its term is over.
const DEADLINE: Duration = Duration::from_secs(1);

/// Whether this replica is the one. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Lease {
    work: &'static str,
    me: Uuid,
    // A std mutex: held for an assignment, never across an await.
    standing: Arc<Mutex<Standing>>,
}

#[derive(Clone, Copy, Debug)]
enum Standing {
    /// Another replica is, or nobody yet.
    Waiting,
    /// This one, until then.
    Holding(Instant),
    /// It was this one when PostgreSQL went away.
    HoldingOn,
}

impl Lease {
    /// The lease on `work` as `me` sees it; not held yet.
    pub fn of(work: &'static str, me: Uuid) -> Self {
        Self {
            work,
            me,
            standing: Arc::new(Mutex::new(Standing::Waiting)),
        }
    }

    /// Whether this replica is to do the work now.
    pub fn is_held(&self) -> bool {
        match self.standing() {
            Standing::Waiting => false,
            // A process that was stopped in between finds its term over.
            Standing::Holding(until) => Instant::now() < until,
            Standing::HoldingOn => true,
        }
    }

    /// Renews the lease, or asks for it.
    ///
    /// # Errors
    /// PostgreSQL is away: whoever holds the lease goes on.
    pub async fn step(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let until = Instant::now() + TERM;
        let before = self.standing();
        let standing = match self.ask(pool).await {
            Ok(true) => Standing::Holding(until),
            Ok(false) => Standing::Waiting,
            Err(error) => {
                if self.is_held() {
                    self.stand(Standing::HoldingOn);
                }
                return Err(error);
            }
        };
        match (before, standing) {
            (Standing::Waiting, Standing::Holding(_)) => info!("this replica now {}", self.work),
            (Standing::Holding(_) | Standing::HoldingOn, Standing::Waiting) => {
                info!("another replica now {}", self.work);
            }
            _ => {}
        }
        self.stand(standing);
        Ok(())
    }

    /// Steps until `shutdown`, then gives the lease up.
    pub async fn run(self, pool: PgPool, shutdown: CancellationToken) {
        let name = format!("the lease of the replica that {}", self.work);
        let mut work = WorkLoop::new(name, &shutdown);
        while work.next_step(RENEW_EVERY).await {
            work.record(&self.step(&pool).await);
        }
        let _ = self.give_up(&pool).await;
    }

    /// Those who must wait only look: a row that is locked in vain is written for nothing.
    async fn ask(&self, pool: &PgPool) -> Result<bool, sqlx::Error> {
        let ask = sqlx::query(
            "INSERT INTO lease AS known (work, holder, until)
             SELECT $1, $2, now() + $3
             WHERE NOT EXISTS (SELECT FROM lease WHERE work = $1 AND holder <> $2 AND until >= now())
             ON CONFLICT (work) DO UPDATE SET holder = excluded.holder, until = excluded.until
             WHERE known.holder = excluded.holder OR known.until < now()",
        )
        .bind(self.work)
        .bind(self.me)
        .bind(TERM)
        .execute(pool);
        let asked: Result<_, sqlx::Error> = postgres::traced(DEADLINE, "INSERT lease", ask).await;
        Ok(asked?.rows_affected() == 1)
    }

    async fn give_up(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        self.stand(Standing::Waiting);
        let give_up = sqlx::query("DELETE FROM lease WHERE work = $1 AND holder = $2")
            .bind(self.work)
            .bind(self.me)
            .execute(pool);
        let given_up = postgres::traced(DEADLINE, "DELETE lease", give_up).await;
        given_up.map(|_| ())
    }

    fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stand(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}
