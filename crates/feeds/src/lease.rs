//! A lease: of several replicas, one does a piece of work, and another takes over within seconds
//! when it dies or hangs.
//!
//! # How this works
//!
//! A row of the table `lease` names the work, its holder, and until when. The holder renews its
//! lease every half second, and each other replica asks for it just as often.
//!
//! ```text
//! replica 1   holds ─ renew ─ renew ─ ✗ dies
//! the row            until: ├───── two seconds ─────┤ over
//! replica 2   asks     asks     asks     asks     asks   holds ─ renew ─
//! ──────────────────────────────────────────────────────────────────────▶ time
//!
//!                  PostgreSQL grants it              PostgreSQL is away
//!  LeaseState: Waiting ─────────────▶ Held { until } ─────────────▶ HeldInOutage
//!                 ▲                     │        ▲                    │      │
//!                 └── another holds it ─┘        └───── renewed ──────┘      │
//!                 └────────────────── another holds it ──────────────────────┘
//! ```
//!
//! A lock on a connection would be simpler, but a process that is stopped, or swaps, keeps it for
//! ever; a lease ends by itself. While PostgreSQL is away no replica can become the holder, so the
//! last one goes on.
//!
//! A holder that notices late that its term is over works for a moment beside its successor. So a
//! lease is for work that may be done twice, such as publishing levels.
//!
//! The service's migrations make the table: `lease (work text, holder uuid, until timestamptz)`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use platform::{background::WorkLoop, postgres};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

/// How long a lease lasts. A successor begins at most this and [`RENEW_EVERY`] after the last
/// renewal.
const TERM: Duration = Duration::from_secs(2);

/// How often the holder renews its lease and the others ask for it.
const RENEW_EVERY: Duration = Duration::from_millis(500);

/// How long PostgreSQL may take. Together with [`RENEW_EVERY`] less than [`TERM`], so that a holder
/// learns of an outage before its term is over.
const DEADLINE: Duration = Duration::from_secs(1);

/// The lease on one piece of work, as this replica knows it. Cheap to clone: all clones share one
/// state.
#[derive(Clone, Debug)]
pub struct Lease {
    /// What the holder does, such as "publishes the levels of supply".
    work: &'static str,
    replica: Uuid,
    // A std mutex: it is locked for an assignment, never across an await.
    state: Arc<Mutex<LeaseState>>,
}

#[derive(Clone, Copy, Debug)]
enum LeaseState {
    /// Another replica holds the lease, or none does yet.
    Waiting,
    /// This replica holds it.
    Held { until: Instant },
    /// This replica held it when PostgreSQL went away.
    HeldInOutage,
}

impl Lease {
    /// The lease on `work`, a verb and its object, for this `replica`, which does not hold it yet.
    pub fn new(work: &'static str, replica: Uuid) -> Self {
        let state = Arc::new(Mutex::new(LeaseState::Waiting));
        Self {
            work,
            replica,
            state,
        }
    }

    /// Whether this replica does the work now.
    pub fn is_held(&self) -> bool {
        match self.state() {
            LeaseState::Waiting => false,
            // A process that was stopped meanwhile finds that its term is over.
            LeaseState::Held { until } => Instant::now() < until,
            LeaseState::HeldInOutage => true,
        }
    }

    /// Renews the lease, or asks for it.
    ///
    /// # Errors
    /// PostgreSQL is away: the holder remains the holder.
    pub async fn step(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let until = Instant::now() + TERM;
        let before = self.state();
        let after = match self.acquire(pool).await {
            Ok(true) => LeaseState::Held { until },
            Ok(false) => LeaseState::Waiting,
            Err(error) => {
                if self.is_held() {
                    self.set(LeaseState::HeldInOutage);
                }
                return Err(error);
            }
        };
        match (before, after) {
            (LeaseState::Waiting, LeaseState::Held { .. }) => {
                info!("this replica now {}", self.work);
            }
            (LeaseState::Held { .. } | LeaseState::HeldInOutage, LeaseState::Waiting) => {
                info!("another replica now {}", self.work);
            }
            _ => {}
        }
        self.set(after);
        Ok(())
    }

    /// Steps until `shutdown`, then gives the lease up.
    pub async fn run(self, pool: PgPool, shutdown: CancellationToken) {
        let name = format!("the lease of the replica that {}", self.work);
        let mut work = WorkLoop::new(name, &shutdown);
        while work.next_step(RENEW_EVERY).await {
            work.record(&self.step(&pool).await);
        }
        self.set(LeaseState::Waiting);
        let give_up = sqlx::query("DELETE FROM lease WHERE work = $1 AND holder = $2")
            .bind(self.work)
            .bind(self.replica)
            .execute(&pool);
        // If it fails, the lease ends by itself.
        let _: Result<_, sqlx::Error> = postgres::traced(DEADLINE, "DELETE lease", give_up).await;
    }

    /// A replica that cannot get the lease only reads: to lock the row in vain would be a write.
    async fn acquire(&self, pool: &PgPool) -> Result<bool, sqlx::Error> {
        let acquire = sqlx::query(
            "INSERT INTO lease AS known (work, holder, until)
             SELECT $1, $2, now() + $3
             WHERE NOT EXISTS (SELECT FROM lease
                               WHERE work = $1 AND holder <> $2 AND until >= now())
             ON CONFLICT (work) DO UPDATE SET holder = excluded.holder, until = excluded.until
             WHERE known.holder = excluded.holder OR known.until < now()",
        )
        .bind(self.work)
        .bind(self.replica)
        .bind(TERM)
        .execute(pool);
        let acquired: Result<_, sqlx::Error> =
            postgres::traced(DEADLINE, "INSERT lease", acquire).await;
        Ok(acquired?.rows_affected() == 1)
    }

    fn state(&self) -> LeaseState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: LeaseState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}
