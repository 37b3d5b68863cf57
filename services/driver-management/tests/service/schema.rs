//! What the process does with a schema: it makes it, or waits for the job that does, or refuses one
//! that is not for it.

use std::{
    net::TcpStream,
    process::{Command, Stdio},
};

use driver_management::store::MIGRATIONS;
use platform::{
    schema::{self, Migrations},
    start_up::StartUp,
};
use private_servers::{free_port, spawn_tied};
use sqlx::{AssertSqlSafe, Connection as _};
use test_harness::{Servers, behind_transaction_pooler, midtown, until};
use uuid::Uuid;

use crate::{
    process,
    replicas::waiting_for_locks,
    support::{DriverManagement, ROLE, arguments},
};

#[tokio::test]
async fn newer_schema_stops_the_start() {
    let servers = Servers::start().await;
    drop(DriverManagement::start(&servers).await);
    as_owner(
        &servers,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (4711, 'of next year', true, '', 0)",
    )
    .await;
    let refusal = "the schema is newer than this program, which does not know its step 4711";
    assert_start_is_refused(&servers, refusal);
}

#[tokio::test]
async fn changed_schema_stops_the_start() {
    let servers = Servers::start().await;
    drop(DriverManagement::start(&servers).await);
    as_owner(&servers, "UPDATE _sqlx_migrations SET checksum = ''").await;
    assert_start_is_refused(&servers, "step 1 of the schema is not the one");
}

#[tokio::test]
async fn old_server_stops_the_start() {
    let servers = Servers::start().await;
    // A real server that says of itself what an old one would.
    as_owner(
        &servers,
        "CREATE FUNCTION driver.current_setting(text) RETURNS text LANGUAGE sql
         AS $$ SELECT CASE $1 WHEN 'server_version_num' THEN '140011' ELSE '14.11' END $$;
         ALTER ROLE driver_management SET search_path = driver, pg_catalog",
    )
    .await;
    let refusal = "PostgreSQL 14.11 is too old: version 15 or later";
    assert_start_is_refused(&servers, refusal);
}

#[tokio::test(flavor = "multi_thread")]
async fn pooler_of_transactions_stops_the_start() {
    let servers = Servers::start().await;
    let through = behind_transaction_pooler(&servers.database_url(ROLE)).await;
    let refusal = "DATABASE_URL leads to a pooler in transaction mode";
    for words in [&[][..], &["migrate"]] {
        let mut process = process::command();
        process.args(words).env("DATABASE_URL", &through);
        assert_refused(process, refusal);
    }
}

#[tokio::test]
async fn refused_login_stops_the_start() {
    let servers = Servers::start().await;
    let url = servers.database_url(ROLE);
    for (url, refusal) in [
        (
            url.replace("postgres://driver", "postgres://diver"),
            "password authentication failed",
        ),
        (
            url.replace("disable", "require"),
            "server does not support TLS",
        ),
        (
            format!("{url}&options=-c%20no.such"),
            "is refused: error returned from database",
        ),
    ] {
        let mut process = process::command();
        process.env("DATABASE_URL", &url);
        assert_refused(process, refusal);
    }
}

#[tokio::test]
async fn service_waits_for_the_migration_job() {
    let servers = Servers::start().await;
    let port = free_port().unwrap();
    let mut service = command(&servers, port, "job");
    service.stderr(Stdio::null());
    let mut service = spawn_tied(service).unwrap();
    until("the process listens", async || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
    .await;
    assert!(service.try_wait().unwrap().is_none(), "it waits");
    let mut connection = servers.connection_as(ROLE).await;
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'driver'";
    let tables = sqlx::query_scalar(tables).fetch_one(&mut connection);
    let tables: i64 = tables.await.unwrap();
    assert_eq!(tables, 0, "and changes nothing");

    for time in ["first", "second"] {
        let mut job = process::command();
        job.arg("migrate");
        job.env("DATABASE_URL", servers.database_url(ROLE));
        let migrated = job.output().unwrap();
        assert!(migrated.status.success(), "the {time} time: {migrated:?}");
    }
    process::becomes_ready(port).await;
}

#[tokio::test]
async fn step_that_meets_a_lock_is_repeated() {
    let servers = Servers::start().await;
    let pool = servers.pool_as(ROLE, 2);
    schema::prepare(&pool, &MIGRATIONS[..1], Migrations::Start)
        .await
        .unwrap();
    let mut reader = servers.connection_as(ROLE).await;
    let mut reading = reader.begin().await.unwrap();
    let lock = sqlx::query("LOCK TABLE driver");
    lock.execute(&mut *reading).await.unwrap();

    let preparing = tokio::spawn(async move {
        let start = StartUp::begin();
        schema::prepare_when_up(&start, &pool, MIGRATIONS, Migrations::Start).await
    });
    a_lock_is_waited_for_and_given_up(&servers).await;
    reading.rollback().await.unwrap();
    preparing.await.unwrap().unwrap();
    let mut admin = servers.admin().await;
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    let held = sqlx::query_scalar(held).fetch_one(&mut admin);
    let held: i64 = held.await.unwrap();
    assert_eq!(held, 0, "the next one can migrate");
}

#[tokio::test]
async fn start_waits_until_drivers_can_be_read() {
    let servers = Servers::start().await;
    DriverManagement::start(&servers).await.stop().await;
    let mut migration = servers.connection_as(ROLE).await;
    let mut migrating = migration.begin().await.unwrap();
    let lock = sqlx::query("LOCK TABLE driver");
    lock.execute(&mut *migrating).await.unwrap();

    let port = free_port().unwrap();
    let mut service = command(&servers, port, "job");
    service.stderr(Stdio::null());
    let mut service = spawn_tied(service).unwrap();
    a_lock_is_waited_for_and_given_up(&servers).await;
    migrating.rollback().await.unwrap();
    process::becomes_ready(port).await;
    service.kill().unwrap();
    service.wait().unwrap();
}

#[tokio::test]
async fn grown_schema_costs_no_answer() {
    let servers = Servers::start().await;
    let service = DriverManagement::start(&servers).await;
    servers
        .grow_schema(ROLE, async || {
            let ride = Uuid::now_v7();
            let idle = service.report(Uuid::now_v7(), "idle", midtown()).await;
            assert_eq!(idle.status, 200, "{}", idle.body);
            let sent = service.dispatch(ride).await.unwrap().unwrap();
            assert_eq!(service.dispatch(ride).await.unwrap().unwrap(), sent);
            assert!(service.release(ride).await.unwrap());
            assert!(!service.release(Uuid::now_v7()).await.unwrap());
        })
        .await;
    service.stop().await;
}

async fn a_lock_is_waited_for_and_given_up(servers: &Servers) {
    let mut admin = servers.admin().await;
    for waits in [true, false] {
        until("a statement meets the lock, and gives up", async || {
            waiting_for_locks(&mut admin).await == i64::from(waits)
        })
        .await;
    }
}

async fn as_owner(servers: &Servers, statements: &str) {
    let mut connection = servers.connection_as(ROLE).await;
    let statements = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
    statements.execute(&mut connection).await.unwrap();
}

/// The process ends with one line that has these words, whether it makes the schema or waits for
/// the job.
fn assert_start_is_refused(servers: &Servers, words: &str) {
    for migrations in ["start", "job"] {
        assert_refused(command(servers, 0, migrations), words);
    }
}

/// The process ends with one line that has these words.
pub(crate) fn assert_refused(mut process: Command, words: &str) {
    process
        .env("HTTP_ADDR", "127.0.0.1:0")
        .env("GRPC_ADDR", "127.0.0.1:0");
    let output = process.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let lines = stderr.lines().filter(|line| !line.contains("INFO"));
    let lines: Vec<&str> = lines.collect();
    assert!(lines.len() == 1 && lines[0].contains(words), "{stderr}");
}

fn command(servers: &Servers, port: u16, migrations: &str) -> Command {
    let mut command = process::command();
    command.args(&arguments(servers, port)[1..]);
    command.env("MIGRATIONS", migrations);
    command
}
