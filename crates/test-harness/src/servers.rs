//! A PostgreSQL and a nats-server for one test alone.

use std::{
    cell::Cell, fs::Permissions, os::unix::fs::PermissionsExt, path::Path, process::Command,
};

use async_nats::jetstream::{self, message::StreamMessage};
use futures::future::join_all;
use platform::nats::NatsTls;
use private_servers::{Nats, NatsSettings, Password, Postgres, PostgresSettings};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tempfile::TempDir;

use crate::{eventually, until};

/// How a stream of NATS loses its messages.
#[derive(Clone, Copy, Debug)]
pub enum Loss<'a> {
    /// Somebody purges the stream.
    Purged,
    /// Somebody deletes it.
    Deleted,
    /// The server starts again on an empty storage.
    Storage,
    /// The server starts again on an older backup.
    SetBack(&'a TempDir),
}

impl<'a> Loss<'a> {
    /// One after the other, the last with the backup.
    pub const fn all(backup: &'a TempDir) -> [Self; 4] {
        [
            Self::Purged,
            Self::Deleted,
            Self::Storage,
            Self::SetBack(backup),
        ]
    }
}

/// A private PostgreSQL with the suite's roles and empty schemas, and a private nats-server. Both
/// end with this value.
#[derive(Debug)]
pub struct Servers {
    /// PostgreSQL; a test may kill and restart it.
    pub postgres: Postgres,
    /// nats-server; a test may kill and restart it.
    pub nats: Nats,
    password: Password,
    // The last field: the servers end before their folder goes.
    _folder: TempDir,
}

impl Servers {
    /// Starts both and makes the roles.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // PostgreSQL may have to run as another user, who needs to enter the folder.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let postgres = PostgresSettings {
            base_dir: folder.path().to_owned(),
            ..PostgresSettings::default()
        };
        let nats = NatsSettings {
            base_dir: folder.path().to_owned(),
            ..NatsSettings::default()
        };
        let servers = Self {
            postgres: Postgres::start(postgres).await.unwrap(),
            nats: Nats::start(nats).await.unwrap(),
            password: Password::generate(),
            _folder: folder,
        };
        servers.make_roles().await;
        servers
    }

    async fn make_roles(&self) {
        let mut admin = self.admin().await;
        let roles = include_str!("../../../services/roles.sql");
        sqlx::raw_sql(roles).execute(&mut admin).await.unwrap();
        for role in ["driver_management", "ride_management", "price_optimization"] {
            let alter = format!("ALTER ROLE {role} PASSWORD '{}'", self.password.reveal());
            let alter = sqlx::raw_sql(AssertSqlSafe(alter));
            alter.execute(&mut admin).await.unwrap();
        }
    }

    /// A connection of the superuser.
    pub async fn admin(&self) -> PgConnection {
        let url = self.postgres.admin_url();
        PgConnection::connect(&url).await.unwrap()
    }

    /// A connection as the role of one of the services.
    pub async fn connection_as(&self, role: &str) -> PgConnection {
        let url = self.database_url(role);
        PgConnection::connect(&url).await.unwrap()
    }

    /// A pool of at most `connections` connections as the role of one of the services.
    pub fn pool_as(&self, role: &str, connections: u32) -> PgPool {
        platform::postgres::pool(&self.database_url(role), "a test", connections).unwrap()
    }

    /// Runs SQL as the superuser.
    pub async fn administer(&self, statements: &str) {
        let statements = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
        statements.execute(&mut self.admin().await).await.unwrap();
    }

    /// Ends all sessions of a role, as an administrator or a proxy may at any time, and waits until
    /// they are gone.
    pub async fn end_sessions(&self, role: &str) {
        let mut admin = self.admin().await;
        let end = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
        let ended = sqlx::query_as(end).bind(role).fetch_all(&mut admin);
        let ended: Vec<(i32, bool)> = ended.await.unwrap();
        let ended: Vec<i32> = ended.into_iter().map(|(pid, _)| pid).collect();
        until("the sessions are gone", async || {
            let left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)";
            let left = sqlx::query_scalar(left).bind(&ended).fetch_one(&mut admin);
            let left: i64 = left.await.unwrap();
            left == 0
        })
        .await;
    }

    /// Whether the new sessions of a role only read, as all do on a standby. Those that are open
    /// are ended when that begins, and stay when it is over.
    pub async fn only_reads(&self, role: &str, only_reads: bool) {
        let alter = format!("ALTER ROLE {role} SET default_transaction_read_only = {only_reads}");
        self.administer(&alter).await;
        if only_reads {
            self.end_sessions(role).await;
        }
    }

    /// Changes the schema of a role as its next version may: each table gets a column and an index,
    /// each view a column. Meanwhile, and for a last time afterwards, callers do `work`, each of
    /// which also fails the test where it gets no answer.
    pub async fn grow_schema(&self, role: &str, work: impl AsyncFn()) {
        const CALLERS: usize = 8;
        // Now every connection has prepared its statements.
        for _ in 0..2 {
            join_all((0..CALLERS).map(|_| work())).await;
        }
        let mut owner = self.connection_as(role).await;
        let changes = growth(&mut owner).await;
        let is_grown = Cell::new(false);
        let grow = async {
            for change in changes {
                let change = sqlx::raw_sql(AssertSqlSafe(change));
                change.execute(&mut owner).await.unwrap();
            }
            is_grown.set(true);
        };
        let callers = join_all((0..CALLERS).map(async |_| {
            while !is_grown.get() {
                work().await;
            }
            work().await;
        }));
        tokio::join!(grow, callers);
    }

    /// The URL with which a service connects as its role.
    pub fn database_url(&self, role: &str) -> String {
        self.postgres.url(role, &self.password, "postgres")
    }

    /// A client that is connected to NATS.
    pub async fn nats_client(&self) -> async_nats::Client {
        let url = self.nats.url();
        let client = platform::nats::connect(&url, "a test", &NatsTls::default())
            .await
            .unwrap();
        until("there is a connection to NATS", async || {
            platform::nats::health_check(&client).is_ok()
        })
        .await;
        client
    }

    /// JetStream, to read what services publish and to publish in their place.
    pub async fn jetstream(&self) -> jetstream::Context {
        platform::nats::jetstream(self.nats_client().await)
    }

    /// Has a stream lose its messages.
    pub async fn lose(&mut self, stream: &str, loss: Loss<'_>) {
        let jetstream = self.jetstream().await;
        match loss {
            Loss::Purged => {
                let stream = jetstream.get_stream(stream).await.unwrap();
                stream.purge().await.unwrap();
            }
            Loss::Deleted => drop(jetstream.delete_stream(stream).await.unwrap()),
            Loss::Storage => self.restore_nats(None).await,
            Loss::SetBack(backup) => self.restore_nats(Some(backup)).await,
        }
    }

    /// Starts nats-server again on a copy that it made of its storage before, or on an empty one.
    async fn restore_nats(&mut self, backup: Option<&TempDir>) {
        self.nats.kill().await;
        // Not the folder itself, which may belong to another user.
        std::fs::remove_dir_all(self.nats.store().join(STREAMS)).unwrap();
        if let Some(backup) = backup {
            copy(&backup.path().join(STREAMS), self.nats.store());
        }
        self.nats.restart().await.unwrap();
    }

    /// A copy of the storage of nats-server, which is started again for it.
    pub async fn back_up_nats(&mut self) -> TempDir {
        let backup = tempfile::tempdir().unwrap();
        self.nats.kill().await;
        copy(&self.nats.store().join(STREAMS), backup.path());
        self.nats.restart().await.unwrap();
        backup
    }

    /// The last message on `subject`, once there is one for which `wanted` holds.
    pub async fn last_message(
        &self,
        stream: &str,
        subject: &str,
        wanted: impl Fn(&StreamMessage) -> bool,
    ) -> StreamMessage {
        let jetstream = self.jetstream().await;
        eventually(&format!("a message on {subject}"), async || {
            let stream = jetstream.get_stream(stream).await.ok()?;
            let message = stream.get_last_raw_message_by_subject(subject).await.ok()?;
            wanted(&message).then_some(message)
        })
        .await
    }
}

/// Where nats-server keeps the streams in its storage.
const STREAMS: &str = "jetstream";

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

async fn growth(owner: &mut PgConnection) -> Vec<String> {
    let changes = "
        SELECT format('ALTER TABLE %I ADD COLUMN grown text', tablename) FROM pg_tables
        WHERE schemaname = current_schema()
        UNION ALL
        SELECT format('CREATE INDEX CONCURRENTLY ON %I (grown)', tablename) FROM pg_tables
        WHERE schemaname = current_schema()
        UNION ALL
        SELECT format('CREATE OR REPLACE VIEW %I AS SELECT known.*, 1 AS grown FROM (%s) known',
                      viewname, rtrim(definition, ';')) FROM pg_views
        WHERE schemaname = current_schema()";
    sqlx::query_scalar(changes).fetch_all(owner).await.unwrap()
}
