//! PostgreSQL: operations that do not wait for ever, and the [`pool`](fn@pool) that they run on.
//!
//! The server itself ends a statement after four seconds (`statement_timeout`). A server that
//! hangs, or one behind a network that swallows packets, ends nothing. So every operation also has
//! a deadline on this side: [`within`], or [`traced`] where the operation deserves a span and a
//! metric.

mod pool;
mod session;

use std::{borrow::Cow, error::Error, io, iter, sync::OnceLock, time::Duration};

use sqlx::{PgPool, postgres::PgConnectOptions};
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

/// What was wrong with the database, as a label; `None` if the failure is none of its own.
fn failure_of(error: &(dyn Error + 'static)) -> Option<Cow<'static, str>> {
    let mut causes = iter::successors(Some(error), |&cause| cause.source());
    let error = causes.find_map(|cause| cause.downcast_ref::<sqlx::Error>())?;
    Some(match error {
        sqlx::Error::Database(refusal) => match refusal.code() {
            Some(sqlstate) => Cow::Owned(sqlstate.into_owned()),
            None => Cow::Borrowed("other"),
        },
        sqlx::Error::Io(cause) if cause.kind() == io::ErrorKind::TimedOut => "timeout".into(),
        sqlx::Error::PoolTimedOut => "timeout".into(),
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

/// True when the database cannot be reached, is starting or stopping, or has no room: trying again
/// later can succeed.
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        // The server fell silent in the middle of a message.
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Class 08: the connection broke; 53: no room (for connections, memory, disk); 57: the
        // server starts or stops, or our limit on a statement; 55P03: our limit on waiting for a
        // lock. https://www.postgresql.org/docs/current/errcodes-appendix.html
        sqlx::Error::Database(refusal) => refusal.code().is_some_and(|code| {
            ["08", "53", "57", "55P03"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

/// A health check: whether the database answers a query.
///
/// # Errors
/// Why it does not.
pub async fn probe(pool: PgPool) -> Result<(), String> {
    let answer = sqlx::query("SELECT 1").execute(&pool).await;
    answer.map(|_| ()).map_err(|error| error.to_string())
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
}
