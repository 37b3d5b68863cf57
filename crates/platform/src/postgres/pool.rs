//! Pools of connections to PostgreSQL: sqlx's pool, with its connections opened and tested ahead of
//! the requests.
//!
//! # How this works
//!
//! sqlx opens a connection when a request asks for one and none is idle. The request's deadline
//! then covers two waits: the wait in the queue for a free place in the pool, and the opening,
//! which takes some five round trips. After a stall of the database that can become an outage
//! without end: requests queue, so the request that reaches the head of the queue has no time left,
//! gives up in the middle of the opening, and throws the half-open connection away. The next one
//! in the queue has the same fate.
//!
//! So a task of the pool ([`keep_open`]) opens and tests connections itself, with a deadline of its
//! own, which is longer than that of any request:
//!
//! ```text
//!   request   acquire --- query --- release           its operation failed, or its caller gave up
//!                |                     |                             |  FAILED
//!             [ idle  idle  idle ] <---+                             v
//!                ^                                       keep_open: for each connection:
//!                +------------------------------------------ acquire (opens it), ping, release
//! ```
//!
//! A connection comes back from an operation that was cut off in one of three states: in step with
//! the server, inside a transaction that has to be rolled back, or unknown. [`settle`] keeps the
//! first two and closes the third.
//!
//! When a connection turns out to be dead, to lead to a server that only reads, or to have plans of
//! an earlier schema, the others of its age are most likely as bad. So [`replace_connections`] has
//! every connection closed that was opened before that moment, when a request gives it back or the
//! next one would get it, and a repeated operation is on a connection that is newer than the
//! failure.

use std::{
    fmt::Display,
    fs,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::join_all};
use prometheus_client::registry::Registry;
use sqlx::{
    Connection, PgConnection, PgPool,
    pool::PoolConnectionMetadata,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{SERVER, Server, session, within};
use crate::metrics::on_scrape;

/// Longest wait for a connection, including its opening. Requests have shorter deadlines of their
/// own, so that the task which opens connections is not the one in the queue that has no time left.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection that was idle for longer is tested before its next use. A ping before every query
/// would cost more than the query.
const TEST_AFTER_IDLE: Duration = Duration::from_secs(2);

/// Longest time for a test. After it the connection is closed.
const TEST_DEADLINE: Duration = Duration::from_secs(1);

/// Least time between two rounds in which all connections are tested.
const TEST_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// How long a transaction that was cut off may take to roll back: longer than the server takes for
/// any statement, because it gives up on a statement after four seconds. A connection that takes
/// longer is closed.
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

/// Wakes [`keep_open`] when an operation failed because of its connection. There is one database
/// per process.
pub(super) static FAILED: Notify = Notify::const_new();

/// When [`replace_connections`] was called last. A std mutex: locked for an assignment or a
/// comparison, never across an await.
static REPLACED_AT: Mutex<Option<Instant>> = Mutex::new(None);

/// Has every connection closed that was opened before this moment.
pub(super) fn replace_connections() {
    *REPLACED_AT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    FAILED.notify_waiters();
}

fn is_replaced(connection: &PoolConnectionMetadata) -> bool {
    let replaced_at = *REPLACED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    replaced_at.is_some_and(|at| at.elapsed() < connection.age)
}

/// A pool whose connections are opened in the background, so that a service can start before its
/// database does.
///
/// # Errors
/// When `url` is no PostgreSQL URL.
pub fn pool(
    url: &str,
    application_name: &str,
    max_connections: u32,
) -> Result<PgPool, sqlx::Error> {
    let options = options(url, application_name)?;
    Ok(pool_of(max_connections, options, session::settings(&[])))
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
    let options = options(url, application_name)?;
    let settings = session::settings(&[(setting.0, &setting.1)]);
    Ok(pool_of(max_connections, options, settings))
}

fn options(url: &str, application_name: &str) -> Result<PgConnectOptions, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?
        .application_name(application_name)
        // Poolers refuse it, and values of ours are not sent as text.
        .extra_float_digits(None);
    with_certificates(url, options)
}

/// Reads the files of certificates that the URL names. sqlx would do so for each connection: long
/// after the start, and with a panic when the process ends meanwhile.
fn with_certificates(
    url: &str,
    mut options: PgConnectOptions,
) -> Result<PgConnectOptions, sqlx::Error> {
    let (_, query) = url.split_once('?').unwrap_or_default();
    for (name, path) in form_urlencoded::parse(query.as_bytes()) {
        if !["sslrootcert", "sslcert", "sslkey"].contains(&&*name) {
            continue;
        }
        let pem = fs::read(&*path).map_err(|error| {
            sqlx::Error::Configuration(format!("{path} cannot be read: {error}").into())
        })?;
        options = match &*name {
            "sslrootcert" => options.ssl_root_cert_from_pem(pem),
            "sslcert" => options.ssl_client_cert_from_pem(pem),
            _ => options.ssl_client_key_from_pem(pem),
        };
    }
    Ok(options)
}

fn pool_of(max_connections: u32, options: PgConnectOptions, settings: String) -> PgPool {
    SERVER.get_or_init(|| Server::of(&options));
    let pool = PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let settings = settings.clone();
            Box::pin(async move { session::set(connection, &settings).await })
        })
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if is_replaced(&meta) {
                    return Ok(false);
                }
                if meta.idle_for > TEST_AFTER_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_release(|connection, meta| {
            Box::pin(async move { Ok(!is_replaced(&meta) && settle(connection).await?) })
        })
        .connect_lazy_with(options);
    tokio::spawn(keep_open(pool.clone()));
    pool
}

/// Opens and tests all connections of `pool`: once at the start, and again after each failure.
async fn keep_open(pool: PgPool) {
    while !pool.is_closed() {
        let failed = FAILED.notified();
        let connections = 0..pool.options().get_max_connections();
        let tested = join_all(connections.map(|_| test_one(&pool))).await;
        sleep(TEST_AGAIN_AFTER).await;
        if tested.iter().all(Result::is_ok) {
            failed.await;
        }
    }
}

/// Takes a connection that is idle, or opens one, and tests it.
async fn test_one(pool: &PgPool) -> Result<(), sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let tested = within(TEST_DEADLINE, connection.ping()).await;
    if tested.is_err() {
        connection.close_on_drop();
    }
    tested
}

/// Whether a connection that a request gives back is fit for others; sqlx closes it otherwise. A
/// transaction that was cut off is rolled back first. Where any other answer is still outstanding,
/// the operation that was cut off may have been a `BEGIN`, which sqlx would not know of, and nobody
/// would ever commit the statements of the next request. A connection in step with the server costs
/// nothing here.
///
/// sqlx pings the connection after this, without a deadline: a server that falls silent at that
/// very moment occupies the connection's place until TCP gives up.
async fn settle(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    if !connection.should_flush() {
        return Ok(matches!(connection.flush().now_or_never(), Some(Ok(()))));
    }
    let rolled_back = timeout(SETTLE_DEADLINE, connection.flush()).await;
    Ok(matches!(rolled_back, Ok(Ok(()))))
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
