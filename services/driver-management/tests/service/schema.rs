//! What the process does with a schema: it makes it, or waits for the job that does, or refuses one that is not for it.

use std::process::{Command, Output, Stdio};

use driver_management::store::MIGRATIONS;
use platform::{
    schema::{self, Migrations, SchemaError},
    start_up::StartUp,
};
use private_servers::{free_port, spawn_tied};
use sqlx::{AssertSqlSafe, Connection as _, PgPool};

use crate::support::{Rest, Stand, eventually, waiting_for_locks};

#[tokio::test]
async fn a_schema_newer_than_the_program_stops_the_start_with_one_line() {
    let stand = Stand::start().await;
    drop(stand.service().await);
    as_owner(
        &stand,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (4711, 'of next year', true, '', 0)",
    )
    .await;
    for migrations in ["start", "job"] {
        let refusal = refused(&stand, migrations);
        assert!(
            refusal.contains("the schema is newer than this program"),
            "{refusal}"
        );
        assert!(refusal.contains("its step 4711"), "{refusal}");
    }
}

#[tokio::test]
async fn a_schema_that_somebody_changed_stops_the_start_with_one_line() {
    let stand = Stand::start().await;
    drop(stand.service().await);
    as_owner(&stand, "UPDATE _sqlx_migrations SET checksum = ''").await;
    for migrations in ["start", "job"] {
        let refusal = refused(&stand, migrations);
        assert!(
            refusal.contains("step 1 of the schema is not the one"),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_too_old_stops_the_start_with_one_line() {
    let stand = Stand::start().await;
    // A real server that says of itself what an old one would.
    let older = "CREATE FUNCTION driver.current_setting(text) RETURNS text LANGUAGE sql
         AS $$ SELECT CASE $1 WHEN 'server_version_num' THEN '140011' ELSE '14.11' END $$";
    as_owner(&stand, older).await;
    as_owner(
        &stand,
        "ALTER ROLE driver_management SET search_path = driver, pg_catalog",
    )
    .await;
    for migrations in ["start", "job"] {
        let refusal = refused(&stand, migrations);
        assert!(
            refusal.contains("PostgreSQL 14.11 is too old: version 15 or later"),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn the_service_waits_for_the_job_and_then_serves() {
    let stand = Stand::start().await;
    let port = free_port().unwrap();
    let mut service = command(&stand, port, "job");
    service.stderr(Stdio::null());
    let mut service = spawn_tied(service).unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    eventually("the process listens", async || {
        std::net::TcpStream::connect(address).ok()
    })
    .await;
    assert!(service.try_wait().unwrap().is_none(), "it waits");
    let mut connection = stand.connection_of("driver_management").await;
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'driver'";
    let tables: i64 = sqlx::query_scalar(tables)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(tables, 0, "and changes nothing");

    for time in ["first", "second"] {
        let migrated = Command::new(env!("CARGO_BIN_EXE_driver-management"))
            .arg("migrate")
            .env("DATABASE_URL", stand.database_url("driver_management"))
            .output()
            .unwrap();
        assert!(migrated.status.success(), "the {time} time: {migrated:?}");
    }
    let rest = Rest::of(address).await;
    eventually("the process is ready", async || {
        (rest.get_plain("/readyz").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_step_that_meets_a_lock_is_tried_again() {
    let stand = Stand::start().await;
    let pool = stand.pool(2);
    schema::prepare(&pool, &MIGRATIONS[..1], Migrations::Start)
        .await
        .unwrap();
    let mut reader = stand.connection_of("driver_management").await;
    let mut reading = reader.begin().await.unwrap();
    sqlx::query("LOCK TABLE driver")
        .execute(&mut *reading)
        .await
        .unwrap();

    let preparing = tokio::spawn(schema_is_prepared(pool.clone()));
    let mut admin = stand.admin().await;
    for waits in [true, false] {
        eventually("a step meets the lock, and gives up", async || {
            (waiting_for_locks(&mut admin).await == i64::from(waits)).then_some(())
        })
        .await;
    }
    reading.rollback().await.unwrap();
    preparing.await.unwrap().unwrap();
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    let held: i64 = sqlx::query_scalar(held)
        .fetch_one(&mut admin)
        .await
        .unwrap();
    assert_eq!(held, 0, "the next one can migrate");
}

#[tokio::test]
async fn start_waits_until_drivers_can_be_read() {
    let stand = Stand::start().await;
    drop(stand.service().await);
    let mut migration = stand.connection_of("driver_management").await;
    let mut migrating = migration.begin().await.unwrap();
    sqlx::query("LOCK TABLE driver")
        .execute(&mut *migrating)
        .await
        .unwrap();

    let port = free_port().unwrap();
    let mut service = command(&stand, port, "job");
    service.stderr(Stdio::null());
    let _service = spawn_tied(service).unwrap();
    let mut admin = stand.admin().await;
    for waits in [true, false] {
        eventually("the service meets the lock, and gives up", async || {
            (waiting_for_locks(&mut admin).await == i64::from(waits)).then_some(())
        })
        .await;
    }
    migrating.rollback().await.unwrap();
    let rest = Rest::of(format!("127.0.0.1:{port}").parse().unwrap()).await;
    eventually("the process is ready", async || {
        (rest.get_plain("/readyz").await.status == 200).then_some(())
    })
    .await;
}

async fn schema_is_prepared(pool: PgPool) -> Result<(), SchemaError> {
    let start = StartUp::begin();
    schema::prepare_when_up(&start, &pool, MIGRATIONS, Migrations::Start).await
}

async fn as_owner(stand: &Stand, statement: &str) {
    let mut connection = stand.connection_of("driver_management").await;
    let statement = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()));
    statement.execute(&mut connection).await.unwrap();
}

/// The one line with which the process ends.
fn refused(stand: &Stand, migrations: &str) -> String {
    let Output { status, stderr, .. } = command(stand, 0, migrations).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let mut lines: Vec<&str> = stderr
        .lines()
        .filter(|line| !line.contains("INFO"))
        .collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    lines.remove(0).to_owned()
}

fn command(stand: &Stand, port: u16, migrations: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_driver-management"));
    command
        .args(&stand.arguments(port)[1..])
        .env("MIGRATIONS", migrations);
    command
}
