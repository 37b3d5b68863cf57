//! PostgreSQL: operations that do not wait for ever, and the [`pool`](fn@pool) that they run on.
//!
//! The server itself ends a statement after four seconds (`statement_timeout`). A server that
//! hangs, or one behind a network that swallows packets, ends nothing. So every operation also has
//! a deadline on this side: [`within`], or [`traced`] where the operation deserves a span and a
//! metric.
//!
//! Servers, proxies and administrators close connections at any time, and a failover leaves some
//! that only read. That should cost no caller an answer, so an operation is repeated once, on a new
//! connection, where it certainly changed nothing: a read, and a transaction before its `COMMIT`
//! ([`once_more`]). What each failure means stands in one table, [`Outage::of`].

mod pool;
mod session;

use std::{borrow::Cow, error::Error, io, iter, sync::OnceLock, time::Duration};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgDatabaseError},
};
use tokio::time::timeout;
use tracing::{Instrument, Span, field::Empty, info_span};

pub use self::{
    pool::{pool, pool_with_setting, register_pool},
    session::{SessionError, check_session, connect},
};
use crate::metrics::{clients, report_end};

/// Defines a struct for the rows of a query; each field has the column of its name.
///
/// The derive of sqlx does the same, but has cargo build sqlx once more, for the compiler: that is
/// 45 s of processor time in everyone's first build.
#[macro_export]
macro_rules! from_row {
    ($(#[$about:meta])* $visible:vis struct $row:ident {
        $($(#[$meaning:meta])* $public:vis $column:ident: $type:ty),+ $(,)?
    }) => {
        $(#[$about])*
        $visible struct $row {
            $($(#[$meaning])* $public $column: $type),+
        }

        impl ::sqlx::FromRow<'_, ::sqlx::postgres::PgRow> for $row {
            fn from_row(
                row: &::sqlx::postgres::PgRow,
            ) -> ::core::result::Result<Self, ::sqlx::Error> {
                ::core::result::Result::Ok(Self {
                    $($column: ::sqlx::Row::try_get(row, stringify!($column))?),+
                })
            }
        }
    };
}

/// Runs `operation`, but no longer than `limit`. An answer that is overdue is an error of the
/// connection, for which [`is_away`] holds; whether the database did what it was asked is then
/// unknown.
///
/// # Errors
/// Those of the operation, and [`io::ErrorKind::TimedOut`].
pub async fn within<T, E: From<sqlx::Error>>(
    limit: Duration,
    operation: impl Future<Output = Result<T, impl Into<E>>>,
) -> Result<T, E> {
    match timeout(limit, operation).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(_elapsed) => Err(sqlx::Error::Io(overdue(limit)).into()),
    }
}

/// [`within`], observed: [`observed`].
///
/// # Errors
/// Those of [`within`].
pub async fn traced<T, E: From<sqlx::Error> + Error + 'static>(
    deadline: Duration,
    summary: &'static str,
    operation: impl Future<Output = Result<T, impl Into<E>>>,
) -> Result<T, E> {
    observed(summary, within(deadline, operation)).await
}

/// Runs `operation` under a client span by the semantic conventions for databases, and counts how
/// long it takes. `summary` is a verb and what it is applied to, such as `UPDATE driver`.
///
/// # Errors
/// Those of the operation.
pub async fn observed<T, E: Error + 'static>(
    summary: &'static str,
    operation: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let span = client_span(summary);
    let ended = |outcome: Option<&Result<T, E>>, took| {
        let failure = match outcome {
            Some(outcome) => outcome.as_ref().err().and_then(|error| failure_of(error)),
            None => Some("cancelled".into()),
        };
        if let Some(failure) = &failure {
            // An operation whose caller gave up is a sign of a database that hangs, too.
            pool::FAILED.notify_waiters();
            span.record("otel.status_code", "ERROR");
            span.record("error.type", &**failure);
        }
        clients::queried(summary, failure, took, &span);
    };
    report_end(operation.instrument(span.clone()), ended).await
}

fn client_span(summary: &'static str) -> Span {
    let server = SERVER.get();
    info_span!(
        "SQL",
        otel.name = summary,
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "postgresql",
        db.namespace = server.map(|server| &*server.namespace),
        db.operation.name = summary.split(' ').next(),
        db.query.summary = summary,
        server.address = server.map(|server| &*server.address),
        server.port = server.map(|server| i64::from(server.port)),
        error.type = Empty,
    )
}

/// Runs `operation`, and once more on a new connection if the first attempt certainly changed
/// nothing and its connection or its plan was of no use. So `operation` must be a read, a
/// transaction without its `COMMIT`, or something that may be done twice.
///
/// # Errors
/// Those of the last attempt.
pub async fn once_more<T, E, F>(operation: impl Fn() -> F) -> Result<T, E>
where
    E: Error + 'static,
    F: Future<Output = Result<T, E>>,
{
    // Boxed: two attempts in place would double the future of every caller.
    match Box::pin(operation()).await {
        Err(error) if prepare_to_repeat(&error) => Box::pin(operation()).await,
        outcome => outcome,
    }
}

/// Whether another attempt may end otherwise. Where the connection or its plan was of no more use,
/// none that was opened earlier is used again: a crash, a failover and a change of the schema
/// concern them all.
fn prepare_to_repeat(error: &(dyn Error + 'static)) -> bool {
    let Some(error) = database_error(error).filter(|error| !is_timeout(error)) else {
        return false;
    };
    match Outage::of(error) {
        Some(Outage::Away | Outage::NotWritable | Outage::StalePlan) => {
            pool::replace_connections();
            true
        }
        Some(Outage::RolledBack) => true,
        _ => false,
    }
}

fn database_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e sqlx::Error> {
    let mut causes = iter::successors(Some(error), |&cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref())
}

fn is_timeout(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(cause) => cause.kind() == io::ErrorKind::TimedOut,
        error => matches!(error, sqlx::Error::PoolTimedOut),
    }
}

/// What was wrong with the database, as a label; `None` if the failure is none of its own.
fn failure_of(error: &(dyn Error + 'static)) -> Option<Cow<'static, str>> {
    let error = database_error(error)?;
    Some(match error {
        sqlx::Error::Database(refusal) => match refusal.code() {
            Some(sqlstate) => Cow::Owned(sqlstate.into_owned()),
            None => Cow::Borrowed("other"),
        },
        error if is_timeout(error) => "timeout".into(),
        error if is_away(error) => "unavailable".into(),
        _ => "other".into(),
    })
}

/// The database of this process, as its client spans name it. There is one, so what is set first
/// stays.
static SERVER: OnceLock<Server> = OnceLock::new();

#[derive(Debug)]
struct Server {
    address: String,
    port: u16,
    namespace: String,
}

impl Server {
    fn of(options: &PgConnectOptions) -> Self {
        Self {
            address: options.get_host().to_owned(),
            port: options.get_port(),
            namespace: options.get_database().unwrap_or_default().to_owned(),
        }
    }
}

fn overdue(deadline: Duration) -> io::Error {
    let detail = format!("no answer within {deadline:?}");
    io::Error::new(io::ErrorKind::TimedOut, detail)
}

/// Why the database did not do what it was asked, where the caller may try again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// It cannot be reached, or the connection was closed.
    Away,
    /// It only reads: it is a standby, or a failover is not over.
    NotWritable,
    /// The schema changed after the statement had been prepared on this connection.
    StalePlan,
    /// It has no room for a connection, in memory or on disk.
    Full,
    /// It gave up at one of our limits, on a statement or on the wait for a lock.
    Slow,
    /// It undid the transaction in favour of another.
    RolledBack,
    /// It does not let this role in. A person has to change that.
    Refused,
}

/// The beginnings of SQLSTATE codes, the first that matches counts.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
const OUTAGES: [(&str, Outage); 11] = [
    ("08", Outage::Away),
    // The session was in a transaction for too long.
    ("25P03", Outage::Away),
    ("25P04", Outage::Away),
    ("57014", Outage::Slow),
    // The server starts, stops or crashed, or somebody or a time-out ended the session.
    ("57", Outage::Away),
    ("25006", Outage::NotWritable),
    ("53", Outage::Full),
    ("55P03", Outage::Slow),
    // A deadlock, or on a standby a conflict with what it replays.
    ("40", Outage::RolledBack),
    ("28", Outage::Refused),
    ("3D000", Outage::Refused),
];

impl Outage {
    /// The outage behind an error; `None` when trying again is of no use.
    pub fn of(error: &sqlx::Error) -> Option<Self> {
        match error {
            sqlx::Error::Io(_)
            // The server fell silent in the middle of a message.
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Some(Self::Away),
            sqlx::Error::Database(refusal) => {
                let refusal = refusal.try_downcast_ref::<PgDatabaseError>()?;
                // Its code is that of any missing feature, and its text in any language.
                match refusal.routine() {
                    Some("RevalidateCachedQuery") => Some(Self::StalePlan),
                    _ => Self::of_code(refusal.code()),
                }
            }
            _ => None,
        }
    }

    fn of_code(code: &str) -> Option<Self> {
        let mut rows = OUTAGES.iter();
        let (_, outage) = rows.find(|(beginning, _)| code.starts_with(beginning))?;
        Some(*outage)
    }

    /// What happened and what to do, for a caller.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Away => "PostgreSQL is away; try again",
            Self::NotWritable => "PostgreSQL only reads at present; try again",
            Self::StalePlan => "the schema in PostgreSQL changes at present; try again",
            Self::Full => "PostgreSQL has no room at present; try again later",
            Self::Slow => "PostgreSQL takes too long at present; try again",
            Self::RolledBack => "PostgreSQL undid this for another change; try again",
            Self::Refused => "PostgreSQL does not let the service in; try again later",
        }
    }

    /// Whether the transaction may have been committed all the same, because only the answer to its
    /// `COMMIT` was lost.
    pub const fn leaves_doubt(self) -> bool {
        matches!(self, Self::Away | Self::Slow)
    }
}

/// True when the database is in an [`Outage`] that may pass without anybody's help.
pub fn is_away(error: &sqlx::Error) -> bool {
    Outage::of(error).is_some_and(|outage| outage != Outage::Refused)
}

/// A health check: whether the database answers a query.
///
/// # Errors
/// Why it does not.
pub async fn probe(pool: PgPool) -> Result<(), String> {
    let answer = once_more(|| sqlx::query("SELECT 1").execute(&pool)).await;
    answer.map(|_| ()).map_err(|error| error.to_string())
}

/// A health check of a service that must write: whether the database answers, and takes writes.
///
/// # Errors
/// Why it does not.
pub async fn probe_writes(pool: PgPool) -> Result<(), String> {
    const READS_ONLY: &str = "SELECT current_setting('transaction_read_only')::bool";
    let asked = once_more(|| sqlx::query_scalar(READS_ONLY).fetch_one(&pool)).await;
    match asked.map_err(|error| error.to_string())? {
        false => Ok(()),
        true => {
            // The next check is on a new connection, which may lead to another server.
            pool::replace_connections();
            Err("the server only reads: a standby, or default_transaction_read_only".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silent_database_is_away() {
        let silent = std::future::pending::<Result<(), sqlx::Error>>();
        let overdue: Result<(), sqlx::Error> = within(Duration::ZERO, silent).await;
        let overdue = overdue.unwrap_err();
        assert!(is_away(&overdue), "{overdue}");
        assert!(overdue.to_string().contains("no answer within"));
    }

    #[test]
    fn wrong_query_is_no_outage() {
        assert!(is_away(&sqlx::Error::PoolTimedOut));
        assert!(!is_away(&sqlx::Error::RowNotFound));
    }

    #[test]
    fn first_matching_code_names_the_outage() {
        for (code, outage) in [
            ("57P01", Some(Outage::Away)),
            ("57P05", Some(Outage::Away)),
            ("57014", Some(Outage::Slow)),
            ("25006", Some(Outage::NotWritable)),
            ("53300", Some(Outage::Full)),
            ("23505", None),
        ] {
            assert_eq!(Outage::of_code(code), outage, "{code}");
        }
    }
}
