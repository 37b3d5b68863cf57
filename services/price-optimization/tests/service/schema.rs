//! Quotes need no schema in two of three modes, so the service does not wait for one; on one that
//! is not for it, it ends.

use std::process::{Command, Output};

use sqlx::Executor;
use test_harness::behind_transaction_pooler;

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

#[tokio::test(flavor = "multi_thread")]
async fn pooler_of_transactions_ends_the_process() {
    let exchange = Exchange::start().await;
    let through = behind_transaction_pooler(&exchange.database_url).await;
    for words in [&[][..], &["batch"], &["batch", "--once"], &["migrate"]] {
        let ended = program(&exchange)
            .args(words)
            .env("DATABASE_URL", &through)
            .output()
            .unwrap();
        let stderr = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(1), "{words:?}: {stderr}");
        let reason = "DATABASE_URL leads to a pooler in transaction mode";
        let mut errors = stderr.lines().filter(|line| line.contains("ERROR"));
        assert!(errors.all(|line| line.contains(reason)), "{stderr}");
        assert!(stderr.contains(reason), "{stderr}");
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
