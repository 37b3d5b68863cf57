//! The schema of a service in PostgreSQL: brought up to date in numbered steps, by the service itself when it starts or by
//! a job before it. A service never runs on a schema that it does not know: on one that is newer, or on a server that is too
//! old, it refuses to start.

use std::{borrow::Cow, process::ExitCode, time::Duration};

use clap::{Args, Parser, ValueEnum};
use sqlx::{
    PgPool,
    error::DatabaseError,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    postgres::{self, Step, is_away, within},
    process::{self, Identity},
};

/// How long the start of a service waits for its database.
pub const START_DEADLINE: Duration = Duration::from_secs(30);

/// How soon it asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The oldest PostgreSQL that the suite is tested with, as `server_version_num`.
const OLDEST_SERVER: i32 = 150_000;

/// Who brings a schema up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Migrations {
    /// The service, when it starts.
    Start,
    /// A job; the service waits for it and changes nothing.
    Job,
}

/// Settings of whoever stands on a schema.
#[derive(Args, Clone, Copy, Debug)]
pub struct SchemaConfig {
    /// Who brings the schema up to date: this process at its start, or the job `migrate`, for which it then waits.
    #[arg(long, env = "MIGRATIONS", default_value = "start")]
    pub migrations: Migrations,
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The server lacks what the schema needs.
    #[error("PostgreSQL {found} is too old: version 15 or later is needed")]
    OldServer {
        /// Its version.
        found: String,
    },
    /// A newer program was here.
    #[error(
        "the schema is newer than this program, which does not know its step {0}: start the newer program"
    )]
    Newer(i64),
    /// Somebody changed a step after it had been taken.
    #[error(
        "step {0} of the schema is not the one that this program knows: start the program that made it"
    )]
    Different(i64),
    /// The job has not run yet.
    #[error("the schema lacks step {0}: run the job `migrate` of this version")]
    Older(i64),
    /// The database is away, or did not do what it was asked.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A step failed.
    #[error(transparent)]
    Failed(MigrateError),
}

impl From<MigrateError> for SchemaError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMissing(step) => Self::Newer(step),
            MigrateError::VersionMismatch(step) => Self::Different(step),
            MigrateError::Execute(error) => Self::Database(error),
            error => Self::Failed(error),
        }
    }
}

impl SchemaError {
    /// Whether trying again is of no use until somebody has done something about it.
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::OldServer { .. } | Self::Newer(_) | Self::Different(_)
        )
    }

    fn may_pass(&self) -> bool {
        match self {
            Self::Older(_) => true,
            Self::Database(error) | Self::Failed(MigrateError::ExecuteMigration(error, _)) => {
                is_away(error) || is_deadlock(error)
            }
            _ => false,
        }
    }
}

fn is_deadlock(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| code == "40P01")
}

/// Sees to it that the schema of the pool's role is at the newest of `steps`; several processes may do so at once.
///
/// # Errors
/// See [`SchemaError`].
pub async fn prepare(
    pool: &PgPool,
    steps: &[Step],
    migrations: Migrations,
) -> Result<(), SchemaError> {
    let server = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')",
    );
    let (number, name): (i32, String) = server.fetch_one(pool).await?;
    if number < OLDEST_SERVER {
        return Err(SchemaError::OldServer { found: name });
    }
    match migrations {
        Migrations::Start => migrate(pool, steps).await,
        Migrations::Job => check(pool, steps).await,
    }
}

/// The migrator's lock is one of its connection, and when it fails it does not give the lock back. So the connection ends with
/// it, lest everybody else wait.
async fn migrate(pool: &PgPool, steps: &[Step]) -> Result<(), SchemaError> {
    let mut connection = pool.acquire().await?;
    connection.close_on_drop();
    let migrator = Migrator::with_migrations(known(steps));
    // Not `run`, of which the compiler cannot tell that it may be spawned.
    let migrated = migrator.run_direct(None, &mut *connection, false);
    Ok(migrated.await?)
}

/// [`prepare`], waiting up to [`START_DEADLINE`] for a database that is away or a job that has not run.
///
/// # Errors
/// The last failure.
pub async fn prepare_when_up(
    pool: &PgPool,
    steps: &[Step],
    migrations: Migrations,
) -> Result<(), SchemaError> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome: Result<(), SchemaError> = within(left, prepare(pool, steps, migrations)).await;
        match outcome {
            Err(error) if error.may_pass() && Instant::now() < deadline => {
                info!(error.message = %error, "waiting for PostgreSQL: {error}");
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
            outcome => return outcome,
        }
    }
}

fn known(steps: &[Step]) -> Vec<Migration> {
    let migration = |(version, description, sql): &Step| {
        let sql = sqlx::SqlStr::from_static(sql);
        let description = Cow::Borrowed(*description);
        Migration::new(*version, description, MigrationType::Simple, sql, false)
    };
    steps.iter().map(migration).collect()
}

/// Compares what was done with what is known, and does nothing.
async fn check(pool: &PgPool, steps: &[Step]) -> Result<(), SchemaError> {
    let taken = taken(pool).await?;
    let known = known(steps);
    for (step, checksum) in &taken {
        match known.iter().find(|migration| migration.version == *step) {
            None => return Err(SchemaError::Newer(*step)),
            Some(migration) if *migration.checksum != **checksum => {
                return Err(SchemaError::Different(*step));
            }
            Some(_) => {}
        }
    }
    let is_taken = |step: i64| taken.iter().any(|(taken, _)| *taken == step);
    let mut numbers = steps.iter().map(|(step, ..)| *step);
    match numbers.find(|step| !is_taken(*step)) {
        Some(step) => Err(SchemaError::Older(step)),
        None => Ok(()),
    }
}

async fn taken(pool: &PgPool) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
    let any = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL");
    if !any.fetch_one(pool).await? {
        return Ok(Vec::new());
    }
    sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version")
        .fetch_all(pool)
        .await
}

/// migrate: brings the schema of a service up to date, and ends.
#[derive(Debug, Parser)]
#[command(name = "migrate", version)]
pub struct JobConfig {
    /// PostgreSQL, as the role that owns the schema.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
}

/// The whole process, if `arguments` ask for the job `migrate` instead of the service.
pub fn job(identity: Identity, arguments: &mut Vec<String>, steps: &[Step]) -> Option<ExitCode> {
    if arguments.get(1).is_none_or(|job| job != "migrate") {
        return None;
    }
    arguments.remove(1);
    let arguments = std::mem::take(arguments);
    let migrate = async |config: JobConfig, token: CancellationToken| {
        let pool = postgres::pool(&config.database_url, identity.name, 1)?;
        let done = prepare_when_up(&pool, steps, Migrations::Start);
        match token.run_until_cancelled(done).await {
            Some(outcome) => outcome?,
            None => return Ok(()),
        }
        info!("the schema of {} is up to date", identity.name);
        Ok::<(), SchemaError>(())
    };
    Some(process::run(identity, arguments, migrate))
}
