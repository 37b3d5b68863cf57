//! The session that a connection needs, and the check that there is one.
//!
//! Settings such as the limit on a statement, the migrator's lock and the watermark of the change
//! log belong to a session with the server. A pooler between may keep a session for each of its
//! clients, or lend one to all of them, for a transaction at a time:
//!
//! ```text
//!  pooler in session mode      pooler in transaction mode
//!   A ────── session 1          A ──┬── session 1    what A sets holds for B too,
//!   B ────── session 2          B ──┘                and A may not get it back
//! ```
//!
//! So settings are made by statements, because poolers refuse most of them in a login, and a start
//! behind a pooler in transaction mode is refused.

use std::{fmt::Display, io, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, Row as _};

use super::{is_away, within};

/// Longest time for a step of [`check_session`]. A pooler without a free session waits.
const DEADLINE: Duration = Duration::from_secs(3);

/// A pooler that serves others too lends each of them another session now and then.
const CHECKS: usize = 5;

/// Why no session is to be had.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A pooler shares sessions.
    #[error(
        "DATABASE_URL leads to a pooler in transaction mode: have it pool sessions \
         (pool_mode=session), or name PostgreSQL itself"
    )]
    Shared,
    /// The server refuses this login, or is not the one that the URL asks for.
    #[error("the login of DATABASE_URL is refused: {0}")]
    Refused(sqlx::Error),
    /// The database is away.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The statements that make these settings of a session, besides those that every session has.
pub(super) fn settings(more: &[(&str, &dyn Display)]) -> String {
    let limits: [(&str, &dyn Display); 2] = [("statement_timeout", &"4s"), ("lock_timeout", &"2s")];
    let set = |(name, value): &(&str, &dyn Display)| format!("SET {name} = '{value}';");
    limits.iter().chain(more).map(set).collect()
}

/// Makes the settings on a new connection.
pub(super) async fn set(connection: &mut PgConnection, settings: &str) -> Result<(), sqlx::Error> {
    let settings = AssertSqlSafe(settings.to_owned());
    sqlx::raw_sql(settings).execute(connection).await.map(drop)
}

/// A connection beside those of the pool, with the settings of every session.
///
/// # Errors
/// Those of the database.
pub async fn connect(pool: &PgPool) -> Result<PgConnection, sqlx::Error> {
    let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
    set(&mut connection, &settings(&[])).await?;
    Ok(connection)
}

/// Checks that two connections have two sessions, and keep them.
///
/// # Errors
/// See [`SessionError`].
pub async fn check_session(pool: &PgPool) -> Result<(), SessionError> {
    let options = pool.connect_options();
    let open = || within::<_, sqlx::Error>(DEADLINE, PgConnection::connect_with(&options));
    let one = open().await.map_err(refused_or_away)?;
    let connections = [one, open().await?];
    within(DEADLINE, have_own_sessions(connections)).await
}

async fn have_own_sessions([mut one, mut other]: [PgConnection; 2]) -> Result<(), SessionError> {
    let first = session_of(&mut one).await?;
    for _ in 0..CHECKS {
        if session_of(&mut one).await? != first || session_of(&mut other).await? == first {
            return Err(SessionError::Shared);
        }
    }
    one.close().await?;
    Ok(other.close().await?)
}

/// The server's process behind a connection. Not a prepared statement: these too get lost.
async fn session_of(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let process = sqlx::raw_sql("SELECT pg_backend_pid()");
    process.fetch_one(connection).await?.try_get(0)
}

/// Whether a person has to mend the login, or the database is away.
fn refused_or_away(error: sqlx::Error) -> SessionError {
    let is_refused = match &error {
        // Poolers have one code (08P01) for everything, also for a server that is away.
        sqlx::Error::Database(refusal) => {
            refusal
                .message()
                .starts_with("unsupported startup parameter")
                || !is_away(&error)
        }
        sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => true,
        // A certificate that is not to be trusted.
        sqlx::Error::Io(cause) => cause.kind() == io::ErrorKind::InvalidData,
        _ => false,
    };
    if is_refused {
        SessionError::Refused(error)
    } else {
        SessionError::Database(error)
    }
}
