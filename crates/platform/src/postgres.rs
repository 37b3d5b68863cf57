//! PostgreSQL: pools that do not wait for ever, and migrations that refuse a database from the future.

use std::{borrow::Cow, str::FromStr, time::Duration};

use sqlx::{
    PgPool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// How long a request may wait for a connection, and so how soon a dead database is noticed.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the start of a service waits for its database.
pub const START_DEADLINE: Duration = Duration::from_secs(30);

/// A pool that connects when it is first used, so that a service can start before its database does.
///
/// # Errors
/// When `url` is no PostgreSQL URL.
pub fn pool(
    url: &str,
    application_name: &str,
    max_connections: u32,
) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?
        .application_name(application_name)
        .options([("statement_timeout", "4s"), ("lock_timeout", "2s")]);
    Ok(PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A ping before every query would cost more than the query; a broken connection fails once and is replaced.
        .test_before_acquire(false)
        .connect_lazy_with(options))
}

/// Reads a row of a query into a struct, each field from the column of its name: `from_row!(Watermark { as_of })`.
///
/// The derive of sqlx does the same, but has cargo build sqlx once more, for the compiler: that is 45 s of processor time
/// in everyone's first build.
#[macro_export]
macro_rules! from_row {
    ($row:ident { $($column:ident),+ $(,)? }) => {
        impl ::sqlx::FromRow<'_, ::sqlx::postgres::PgRow> for $row {
            fn from_row(row: &::sqlx::postgres::PgRow) -> ::core::result::Result<Self, ::sqlx::Error> {
                ::core::result::Result::Ok(Self {
                    $($column: ::sqlx::Row::try_get(row, stringify!($column))?),+
                })
            }
        }
    };
}

/// One step of a schema: its number, its name and its SQL (`include_str!`).
pub type Step = (i64, &'static str, &'static str);

/// Brings the schema of the pool's role to the newest of `steps`; several processes may try at once.
///
/// # Errors
/// When the database has steps that this binary does not know, or a step fails.
pub async fn migrate(pool: &PgPool, steps: &[Step]) -> Result<(), MigrateError> {
    let migrations = steps.iter().map(|(version, description, sql)| {
        let sql = sqlx::SqlStr::from_static(sql);
        let description = Cow::Borrowed(*description);
        Migration::new(*version, description, MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(migrations.collect())
        .run(pool)
        .await
}

/// Tries [`migrate`] until it succeeds, the database refuses it, or [`START_DEADLINE`] has passed.
///
/// # Errors
/// The last failure.
pub async fn migrate_when_up(pool: &PgPool, steps: &[Step]) -> Result<(), MigrateError> {
    let deadline = tokio::time::Instant::now() + START_DEADLINE;
    loop {
        match migrate(pool, steps).await {
            Err(MigrateError::Execute(error))
                if is_away(&error) && tokio::time::Instant::now() < deadline =>
            {
                tracing::info!(error.message = %error, "waiting for PostgreSQL: {error}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            outcome => return outcome,
        }
    }
}

/// True when the database cannot be reached, is starting or stopping, or has no room: trying again later can succeed.
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Class 57P: the server starts or stops; 08: the connection broke; 53300: too many connections;
        // 55P03 and 57014: our own limits on waiting for a lock or a statement.
        sqlx::Error::Database(refusal) => refusal.code().is_some_and(|code| {
            code.starts_with("57P")
                || code.starts_with("08")
                || matches!(&*code, "53300" | "55P03" | "57014")
        }),
        _ => false,
    }
}

/// Asks the database for a sign of life.
///
/// # Errors
/// Why there was none.
pub async fn probe(pool: PgPool) -> Result<(), String> {
    let answer = sqlx::query("SELECT 1").execute(&pool).await;
    answer.map(|_| ()).map_err(|error| error.to_string())
}
