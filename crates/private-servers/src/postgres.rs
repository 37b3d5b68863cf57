//! A private PostgreSQL: a new cluster in its own folder, on loopback, with one generated password.
//!
//! The settings suit a laptop, except that `fsync` stays on: the suite acknowledges only stored
//! data. There is no Unix socket, so the length of the folder's path does not matter.

use std::{fs, net::Ipv4Addr, path::PathBuf, process::Command, time::Duration};

use rustix::process::Signal;
use sqlx::{
    ConnectOptions as _, Connection as _,
    postgres::{PgConnectOptions, PgSslMode},
};

use crate::{
    Error, Password, PostgresBinaries,
    binaries::find_postgres,
    error::on,
    instance::InstanceDir,
    log::ServerLog,
    ports,
    server::{Program, ServerProcess},
};

const INITDB: Program = Program {
    name: "initdb",
    stop: Signal::TERM,
};

const IPCRM: Program = Program {
    name: "ipcrm",
    stop: Signal::TERM,
};

/// SIGINT is PostgreSQL's fast shutdown: it ends sessions at once and leaves a clean cluster.
const POSTGRES: Program = Program {
    name: "postgres",
    stop: Signal::INT,
};

/// It takes a second; a loaded machine with a slow disk gets a minute.
const INITDB_LIMIT: Duration = Duration::from_secs(60);

/// A start takes 0.1 s, and 1 s after a crash.
const START_LIMIT: Duration = Duration::from_secs(20);

/// One system call.
const IPCRM_LIMIT: Duration = Duration::from_secs(2);

const ADMIN: &str = "admin";
const ADMIN_DATABASE: &str = "postgres";

/// `-c` settings that differ from PostgreSQL's own defaults.
const SETTINGS: [&str; 8] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=100",
    "shared_buffers=64MB",
    "max_wal_size=256MB",
    // Shared memory as files of the instance: a killed server leaves nothing in /dev/shm.
    "dynamic_shared_memory_type=mmap",
    // Compiling a query takes longer than any query of a small database.
    "jit=off",
    // In a list of processes this marks the private server.
    "cluster_name=private",
];

/// The folder and port of a private PostgreSQL.
#[derive(Debug, Clone, Default)]
pub struct PostgresSettings {
    /// Folder under which instances get their own; made if missing.
    pub base_dir: PathBuf,
    /// Loopback port, or none for a free one.
    pub port: Option<u16>,
    /// Server log, which is appended to; `None` for a log in the folder, which is removed with it.
    pub log_file: Option<PathBuf>,
}

/// A running (or killed) private PostgreSQL. Dropping it stops the server and removes its data.
#[derive(Debug)]
pub struct Postgres {
    // Fields are dropped in this order: the server must end before its folder is removed.
    process: Option<ServerProcess>,
    port: u16,
    cluster: Cluster,
}

impl Postgres {
    /// Makes a new cluster, starts it and waits until it accepts a connection: under a second.
    ///
    /// # Errors
    /// [`Error::Missing`] without PostgreSQL 15 or later, [`Error::PortTaken`] for a busy requested
    /// port, and [`Error::Ended`] or [`Error::NotReady`] with the end of the server's log.
    pub async fn start(settings: PostgresSettings) -> Result<Self, Error> {
        settings.port.map_or(Ok(()), ports::ensure_free)?;
        let cluster = Cluster::create(settings.base_dir, settings.log_file).await?;
        let start = async |port| Ok((port, cluster.start(port).await?));
        let (port, process) = ports::start_on(settings.port, start).await?;
        tracing::info!(
            port,
            pid = process.pid(),
            "private PostgreSQL {} is ready",
            cluster.binaries.version
        );
        Ok(Self {
            process: Some(process),
            port,
            cluster,
        })
    }

    /// Connection URL for any role and database of this server, which has no TLS.
    #[must_use]
    pub fn url(&self, role: &str, password: &Password, database: &str) -> String {
        format!(
            "postgres://{role}:{}@127.0.0.1:{}/{database}?sslmode=disable",
            password.reveal(),
            self.port
        )
    }

    /// Connection URL of the superuser, for making roles and databases.
    #[must_use]
    pub fn admin_url(&self) -> String {
        self.admin_url_of(ADMIN_DATABASE)
    }

    /// Connection URL of the superuser in this database.
    #[must_use]
    pub fn admin_url_of(&self, database: &str) -> String {
        self.url(ADMIN, &self.cluster.password, database)
    }

    /// The loopback port, the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id; none after [`Postgres::kill`].
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }

    /// Kills the server and all its sessions with SIGKILL; the data stays for
    /// [`Postgres::restart`].
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().await;
            self.cluster.release_shared_memory().await;
        }
    }

    /// Starts the server again on the same data and port, stopping it first if it runs.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub async fn restart(&mut self) -> Result<(), Error> {
        if let Some(process) = self.process.take() {
            process.stop().await;
        }
        self.process = Some(self.cluster.start(self.port).await?);
        Ok(())
    }

    /// Stops the server and removes its data.
    ///
    /// # Errors
    /// [`Error::File`] when the data cannot be removed.
    pub async fn stop(mut self) -> Result<(), Error> {
        if let Some(process) = self.process.take() {
            process.stop().await;
        }
        self.cluster.dir.remove()
    }
}

/// The data on disk and everything that serves it.
#[derive(Debug)]
struct Cluster {
    binaries: PostgresBinaries,
    dir: InstanceDir,
    log: ServerLog,
    password: Password,
    data: PathBuf,
}

impl Cluster {
    async fn create(base_dir: PathBuf, log_file: Option<PathBuf>) -> Result<Self, Error> {
        let binaries = find_postgres()?;
        let dir = InstanceDir::create(&base_dir, "postgres")?;
        let log = ServerLog::create(log_file.unwrap_or_else(|| dir.path().join("log")))?;
        let data = dir.folder("data")?;
        let cluster = Self {
            binaries,
            dir,
            log,
            password: Password::generate(),
            data,
        };
        cluster.initialise().await?;
        Ok(cluster)
    }

    async fn initialise(&self) -> Result<(), Error> {
        let password_file = self.dir.file("password", self.password.reveal())?;
        let mut initdb = Command::new(&self.binaries.initdb);
        initdb.args([
            "--username",
            ADMIN,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
        ]);
        // A sync would protect the empty cluster from a power cut, which the instance does not
        // survive.
        initdb
            .arg("--no-sync")
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&self.data);
        ServerProcess::spawn(INITDB, initdb, &self.dir, &self.log)?
            .done(INITDB_LIMIT, &self.log)
            .await?;
        fs::remove_file(&password_file).map_err(on(&password_file, "remove"))
    }

    async fn start(&self, port: u16) -> Result<ServerProcess, Error> {
        ports::ensure_free(port)?;
        let mut postgres = Command::new(&self.binaries.postgres);
        postgres
            .arg("-D")
            .arg(&self.data)
            .arg("-p")
            .arg(port.to_string());
        postgres.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        let process = ServerProcess::spawn(POSTGRES, postgres, &self.dir, &self.log)?;
        let ready = process
            .ready(START_LIMIT, &self.log, async || self.answers(port).await)
            .await;
        ports::blame_port(ready, port)
    }

    /// Removes the few bytes of System V shared memory with which PostgreSQL marks its data. A
    /// killed server leaves them behind; a power cut would remove them.
    async fn release_shared_memory(&self) {
        let lock_file = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let key_and_id = lock_file.lines().nth(6).unwrap_or_default();
        let Some(id) = key_and_id.split_whitespace().nth(1) else {
            return;
        };
        let mut ipcrm = Command::new("ipcrm");
        ipcrm.args(["-m", id]);
        let removed = match ServerProcess::spawn(IPCRM, ipcrm, &self.dir, &self.log) {
            Ok(process) => process.done(IPCRM_LIMIT, &self.log).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::debug!(
                "shared memory segment {id} stays until it is removed by hand: {error}"
            );
        }
    }

    /// Whether the server answers. The login with our password proves that it is ours.
    async fn answers(&self, port: u16) -> bool {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&Ipv4Addr::LOCALHOST.to_string())
            .port(port)
            .username(ADMIN)
            .password(self.password.reveal())
            .database(ADMIN_DATABASE)
            .ssl_mode(PgSslMode::Disable);
        match options.connect().await {
            Ok(connection) => connection.close().await.is_ok(),
            Err(_) => false,
        }
    }
}
