//! The schema of a service in PostgreSQL, brought up to date in numbered steps.
//!
//! # How this works
//! The steps are SQL files that the program contains; sqlx's migrator runs those that are missing,
//! under a lock, and writes each into the table `_sqlx_migrations` with a checksum of its text. Two
//! processes may do so:
//!
//! ```text
//!  MIGRATIONS=start   the service itself, when it starts: the choice of the local stack
//!  MIGRATIONS=job     `<service> migrate`, once per version; services wait for it (Kubernetes)
//! ```
//!
//! A service never works on a schema that it does not know. Where the schema is newer, or a step
//! has another text, or the server is too old, it refuses to start; where steps are missing it
//! waits for the job, within its start-up deadline.

use std::{borrow::Cow, collections::BTreeMap, process::ExitCode};

use clap::{Args, Parser, ValueEnum};
use sqlx::{
    PgPool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    identity::Identity,
    postgres::{self, SessionError, is_away},
    process,
    start_up::StartUp,
};

/// The oldest PostgreSQL that the suite is tested with, as `server_version_num`.
const OLDEST_SERVER: i32 = 150_000;

/// One step of a schema: its number, its name and its SQL (`include_str!`).
pub type Step = (i64, &'static str, &'static str);

/// Who brings a schema up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Migrations {
    /// The service, when it starts.
    Start,
    /// A job; the service waits for it and changes nothing.
    Job,
}

/// The settings of a process that uses a schema.
#[derive(Args, Clone, Copy, Debug)]
pub struct SchemaConfig {
    /// Who brings the schema up to date: this process at its start, or the job `migrate`, for which
    /// it then waits.
    #[arg(long, env = "MIGRATIONS", default_value = "start")]
    pub migrations: Migrations,
}

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The server lacks features that the schema needs.
    #[error("PostgreSQL {found} is too old: version 15 or later is needed")]
    OldServer {
        /// Its version.
        found: String,
    },
    /// A newer program has changed the schema.
    #[error(
        "the schema is newer than this program, which does not know its step {0}: \
         start the newer program"
    )]
    Newer(i64),
    /// The text of a step was changed after the step had been run.
    #[error(
        "step {0} of the schema is not the one that this program knows: \
         start the program that made it"
    )]
    Different(i64),
    /// The job has not run yet.
    #[error("the schema lacks step {0}: run the job `migrate` of this version")]
    Older(i64),
    /// No session with the server is to be had.
    #[error(transparent)]
    Session(SessionError),
    /// The database is away, or refused a query.
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

impl From<SessionError> for SchemaError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Database(error) => Self::Database(error),
            error => Self::Session(error),
        }
    }
}

impl SchemaError {
    /// Whether a retry is of no use until a person has changed the program, the schema or the
    /// server.
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::OldServer { .. } | Self::Newer(_) | Self::Different(_) | Self::Session(_)
        )
    }

    /// Whether a retry may succeed within seconds.
    fn may_pass(&self) -> bool {
        match self {
            Self::Older(_) => true,
            Self::Database(error) | Self::Failed(MigrateError::ExecuteMigration(error, _)) => {
                is_away(error)
            }
            _ => false,
        }
    }
}

/// Brings the schema of the pool's role to the newest of `steps`, or with [`Migrations::Job`] only
/// checks that it is there. Several processes may do so at the same time. Where nothing is missing,
/// nothing is written: the server may be a standby.
///
/// # Errors
/// See [`SchemaError`].
pub async fn prepare(
    pool: &PgPool,
    steps: &[Step],
    migrations: Migrations,
) -> Result<(), SchemaError> {
    postgres::check_session(pool).await?;
    let server = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')",
    );
    let (number, name): (i32, String) = server.fetch_one(pool).await?;
    if number < OLDEST_SERVER {
        return Err(SchemaError::OldServer { found: name });
    }
    match check(pool, steps).await {
        Err(SchemaError::Older(_)) if migrations == Migrations::Start => migrate(pool, steps).await,
        outcome => outcome,
    }
}

/// [`prepare`] as soon as PostgreSQL answers and, where a job prepares the schema, the job has run.
///
/// # Errors
/// The last error before the deadline of the start.
pub async fn prepare_when_up(
    start: &StartUp,
    pool: &PgPool,
    steps: &[Step],
    migrations: Migrations,
) -> Result<(), SchemaError> {
    let prepare = || prepare(pool, steps, migrations);
    start.when_up(SchemaError::may_pass, prepare).await
}

/// The migrator's lock belongs to its connection, and a migrator that fails does not release it. So
/// the connection is closed afterwards, lest every other process wait.
async fn migrate(pool: &PgPool, steps: &[Step]) -> Result<(), SchemaError> {
    let mut connection = pool.acquire().await?;
    connection.close_on_drop();
    let migrator = Migrator::with_migrations(known(steps).collect());
    // Not `run`: the compiler cannot tell that its future may be spawned.
    let migrated = migrator.run_direct(None, &mut *connection, false);
    Ok(migrated.await?)
}

/// Compares the steps that were run with the steps that this program knows, and changes nothing.
async fn check(pool: &PgPool, steps: &[Step]) -> Result<(), SchemaError> {
    let known = known(steps).map(|migration| (migration.version, migration));
    let mut missing: BTreeMap<i64, Migration> = known.collect();
    for (step, checksum) in steps_that_were_run(pool).await? {
        let known = missing.remove(&step).ok_or(SchemaError::Newer(step))?;
        if *known.checksum != *checksum {
            return Err(SchemaError::Different(step));
        }
    }
    let first_missing = missing.into_keys().next();
    first_missing.map_or(Ok(()), |step| Err(SchemaError::Older(step)))
}

fn known(steps: &[Step]) -> impl Iterator<Item = Migration> {
    steps.iter().map(|(version, description, sql)| {
        let sql = sqlx::SqlStr::from_static(sql);
        let description = Cow::Borrowed(*description);
        Migration::new(*version, description, MigrationType::Simple, sql, false)
    })
}

async fn steps_that_were_run(pool: &PgPool) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
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

/// Runs the job `migrate`, if `arguments` ask for it instead of the service.
pub fn job(identity: Identity, arguments: &mut Vec<String>, steps: &[Step]) -> Option<ExitCode> {
    if arguments.get(1).is_none_or(|job| job != "migrate") {
        return None;
    }
    arguments.remove(1);
    let arguments = std::mem::take(arguments);
    let migrate = async |config: JobConfig, token: CancellationToken| {
        let pool = postgres::pool(&config.database_url, identity.name, 1)?;
        let start = StartUp::begin();
        let done = prepare_when_up(&start, &pool, steps, Migrations::Start);
        match token.run_until_cancelled(done).await {
            Some(outcome) => outcome?,
            None => return Ok(()),
        }
        info!("the schema of {} is up to date", identity.name);
        Ok::<(), SchemaError>(())
    };
    Some(process::run(identity, arguments, migrate))
}
