//! PostgreSQL: pools and operations that do not wait for ever.
//!
//! `statement_timeout` is kept by the server. A server that hangs, or is behind a network that swallows packets, keeps
//! nothing; hence every operation also has a deadline on this side: [`within`], or [`traced`] where it deserves a span and a count.

use std::{
    borrow::Cow, error::Error, fmt::Display, io, iter, str::FromStr, sync::OnceLock, time::Duration,
};

use futures::FutureExt;
use prometheus_client::registry::Registry;
use sqlx::{
    Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span, field::Empty, info_span};

use crate::metrics::{clients, on_scrape};

/// How long a request may wait for a connection, and so how soon a dead database is noticed.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection that is given back in the middle of an operation may take to finish that. It is longer than a
/// server that lives takes, because that gives up on a statement after four seconds; of one that does not, the connection
/// is closed, so that it does not keep others out for as long as TCP hopes.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

/// A pool that connects when it is first used, so that a service can start before its database does.
///
/// # Errors
/// When `url` is no PostgreSQL URL.
pub fn pool(
    url: &str,
    application_name: &str,
    max_connections: u32,
) -> Result<PgPool, sqlx::Error> {
    let options = options(url, application_name)?;
    Ok(pool_of(max_connections, options))
}

/// A [`pool`] whose connections carry one more setting of the session, a name and its value.
///
/// # Errors
/// When `url` is no PostgreSQL URL.
pub fn pool_with_setting(
    url: &str,
    application_name: &str,
    max_connections: u32,
    setting: (&'static str, impl Display),
) -> Result<PgPool, sqlx::Error> {
    let options = options(url, application_name)?.options([setting]);
    Ok(pool_of(max_connections, options))
}

fn options(url: &str, application_name: &str) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(url)?
        .application_name(application_name)
        .options([("statement_timeout", "4s"), ("lock_timeout", "2s")]))
}

fn pool_of(max_connections: u32, options: PgConnectOptions) -> PgPool {
    SERVER.get_or_init(|| Server::of(&options));
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // A ping before every query would cost more than the query; a broken connection fails once and is replaced.
        .test_before_acquire(false)
        .after_release(|connection, _| Box::pin(settle(connection)))
        .connect_lazy_with(options)
}

/// Whether a connection that is given back is fit for others. What a transaction that was left has still to undo is waited for.
/// A connection on which anything else was broken off is closed: that may have been a `BEGIN`, of which sqlx does not know that
/// it takes effect, and the next one's statements would never be committed. Where there is nothing of either, nothing is sent.
///
/// The pool asks for a sign of life after this, and has no deadline for it, so what falls silent at that very moment keeps its
/// place until TCP gives up. A ping of our own here would only move that moment, for one more round trip.
async fn settle(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    if !connection.should_flush() {
        return Ok(matches!(connection.flush().now_or_never(), Some(Ok(()))));
    }
    within(SETTLE_DEADLINE, connection.flush())
        .await
        .map(|()| true)
}

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
            fn from_row(row: &::sqlx::postgres::PgRow) -> ::core::result::Result<Self, ::sqlx::Error> {
                ::core::result::Result::Ok(Self {
                    $($column: ::sqlx::Row::try_get(row, stringify!($column))?),+
                })
            }
        }
    };
}

/// Runs `operation`, but no longer than `limit`. An answer that is overdue is an error of the connection, for which
/// [`is_away`] holds; whether the database did what it was asked is then unknown.
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

/// Runs `operation` under a client span by the semantic conventions for databases, and counts how long it takes. `summary`
/// is a verb and what it is applied to, such as `UPDATE driver`.
///
/// # Errors
/// Those of the operation.
pub async fn observed<T, E: Error + 'static>(
    summary: &'static str,
    operation: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let started = Instant::now();
    let span = client_span(summary);
    let outcome = operation.instrument(span.clone()).await;
    let failure = outcome.as_ref().err().and_then(|error| failure_of(error));
    if let Some(failure) = &failure {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", &**failure);
    }
    clients::queried(summary, failure, started.elapsed(), &span);
    outcome
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

/// The database of this process, as its client spans name it. There is one, so what is set first stays.
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

/// Registers how many connections `pool` has open and how many it may have.
pub fn register_pool(registry: &mut Registry, name: &'static str, pool: PgPool) {
    on_scrape(registry, move |scrape| {
        let pool_name = ("db_client_connection_pool_name", name);
        let state = |state| [pool_name, ("db_client_connection_state", state)];
        let idle = pool.num_idle() as i64;
        let used = (i64::from(pool.size()) - idle).max(0);
        let help = "Open connections to PostgreSQL";
        let rows = [(state("idle"), idle), (state("used"), used)];
        scrape.gauges("db_client_connection_count", help, rows);
        let help = "Most connections to PostgreSQL that may be open";
        let most = pool.options().get_max_connections();
        scrape.gauges("db_client_connection_max", help, [([pool_name], most)]);
    });
}

fn overdue(deadline: Duration) -> io::Error {
    let words = format!("no answer within {deadline:?}");
    io::Error::new(io::ErrorKind::TimedOut, words)
}

/// True when the database cannot be reached, is starting or stopping, or has no room: trying again later can succeed.
pub fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        // The server fell silent in the middle of a message.
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Class 08: the connection broke; 53: no room (for connections, memory, disk); 57: the server starts or stops,
        // or our limit on a statement; 55P03: our limit on waiting for a lock.
        // https://www.postgresql.org/docs/current/errcodes-appendix.html
        sqlx::Error::Database(refusal) => refusal.code().is_some_and(|code| {
            ["08", "53", "57", "55P03"]
                .iter()
                .any(|class| code.starts_with(class))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_that_does_not_answer_is_away() {
        let silent = std::future::pending::<Result<(), sqlx::Error>>();
        let overdue: Result<(), sqlx::Error> = within(Duration::ZERO, silent).await;
        let overdue = overdue.unwrap_err();
        assert!(is_away(&overdue), "{overdue}");
        assert!(overdue.to_string().contains("no answer within"));
    }

    #[test]
    fn a_wrong_query_is_no_outage() {
        assert!(is_away(&sqlx::Error::PoolTimedOut));
        assert!(!is_away(&sqlx::Error::RowNotFound));
    }
}
