//! Quotes need no schema in two of three modes, so the service does not wait for one; on one that
//! is not for it, it ends.

use std::process::{Command, Output};

use sqlx::Executor;

use crate::support::{Exchange, ROLE};

#[tokio::test]
async fn newer_schema_ends_process_with_one_line() {
    let exchange = Exchange::start().await;
    let mut migrate = program(&exchange);
    let migrated = migrate.arg("migrate").output().unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    let mut owner = exchange.connection_as(ROLE).await;
    owner
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (4711, 'of next year', true, '', 0)",
        )
        .await
        .unwrap();

    for migrations in ["start", "job"] {
        for words in [&[][..], &["batch"], &["batch", "--once"]] {
            let Output { status, stderr, .. } = program(&exchange)
                .args(words)
                .env("MIGRATIONS", migrations)
                .output()
                .unwrap();
            let stderr = String::from_utf8(stderr).unwrap();
            assert_eq!(status.code(), Some(1), "{words:?}: {stderr}");
            let lines: Vec<&str> = stderr
                .lines()
                .filter(|line| line.contains("ERROR"))
                .collect();
            assert_eq!(lines.len(), 1, "{stderr}");
            assert!(
                lines[0].contains("the schema is newer than this program"),
                "{stderr}"
            );
        }
    }
}

fn program(exchange: &Exchange) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_price-optimization"));
    command
        .env("HTTP_ADDR", "127.0.0.1:0")
        .env("GRPC_ADDR", "127.0.0.1:0")
        .env("DATABASE_URL", &exchange.database_url)
        .env("NATS_URL", exchange.nats.url())
        .env("QUOTE_KEY", "a key that only tests have");
    command
}
