//! A private nats-server with JetStream: its own configuration and store, on loopback, with one
//! generated password. All settings work from nats-server 2.9 on.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{
    Error, NatsBinary, Password,
    binaries::find_nats,
    error::on,
    instance::InstanceDir,
    log::ServerLog,
    ports,
    server::{Program, ServerProcess},
};

const NATS: Program = Program {
    name: "nats-server",
    stop: Signal::TERM,
};

/// A start takes 20 ms; one with large streams takes longer.
const START_LIMIT: Duration = Duration::from_secs(20);

const USER: &str = "admin";

/// The INFO line has about 400 bytes; another program on our port could send without end.
const GREETING_LIMIT: u64 = 64 * 1024;

/// The folder and port of a private nats-server.
#[derive(Debug, Clone, Default)]
pub struct NatsSettings {
    /// Folder under which instances get their own; made if missing.
    pub base_dir: PathBuf,
    /// Loopback port for clients, or none for a free one.
    pub port: Option<u16>,
    /// Server log, which is appended to; `None` for a log in the folder, which is removed with it.
    pub log_file: Option<PathBuf>,
    /// The cluster that it belongs to, if any.
    pub membership: Option<ClusterMembership>,
}

/// The routes of a node to the others of its cluster.
#[derive(Debug, Clone)]
pub struct ClusterMembership {
    /// The node's loopback port for the other nodes.
    pub(crate) route_port: u16,
    /// The route ports of all nodes.
    pub(crate) all_route_ports: Vec<u16>,
    /// The password of clients and nodes, the same at each node.
    pub(crate) password: Password,
}

/// A running (or killed) private nats-server. Dropping it stops the server and removes its streams.
#[derive(Debug)]
pub struct Nats {
    // Fields are dropped in this order: the server must end before its folder is removed.
    process: Option<ServerProcess>,
    port: u16,
    home: NatsHome,
}

impl Nats {
    /// Starts a server with empty storage and waits until it accepts a login: about 20 ms.
    ///
    /// # Errors
    /// [`Error::Missing`] without nats-server 2.9 or later, [`Error::PortTaken`] for a busy
    /// requested port, and [`Error::Ended`] or [`Error::NotReady`] with the end of the server's
    /// log.
    pub async fn start(settings: NatsSettings) -> Result<Self, Error> {
        let requested = settings.port;
        let home = NatsHome::create(settings)?;
        let start = async |port| Ok((port, home.start(port).await?));
        let (port, process) = ports::start_on(requested, start).await?;
        tracing::info!(
            port,
            pid = process.pid(),
            "private nats-server {} is ready",
            home.binary.version
        );
        Ok(Self {
            process: Some(process),
            port,
            home,
        })
    }

    /// Connection URL with user and password.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "nats://{USER}:{}@127.0.0.1:{}",
            self.home.password.reveal(),
            self.port
        )
    }

    /// The loopback port, the same over restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's own name, for example as the leader of a stream.
    #[must_use]
    pub fn name(&self) -> String {
        self.home.server_name()
    }

    /// The folder of the streams: a test takes it away, or puts an older one back.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.home.store
    }

    /// The server's process id; none after [`Nats::kill`].
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }

    /// Whether JetStream answers: a single server at once, a cluster after the election of a
    /// leader.
    pub(crate) async fn serves_streams(&self) -> bool {
        self.home.serves_streams(self.port).await.unwrap_or(false)
    }

    /// The error of a server that runs and does not answer.
    pub(crate) fn not_ready(&self, deadline: Duration) -> Error {
        Error::NotReady {
            program: NATS.name,
            deadline,
            log_tail: self.home.log.tail(),
        }
    }

    /// Kills the server with SIGKILL; the streams stay for [`Nats::restart`].
    pub async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().await;
        }
    }

    /// Starts the server again on the same streams and port, stopping it first if it runs.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn restart(&mut self) -> Result<(), Error> {
        if let Some(process) = self.process.take() {
            process.stop().await;
        }
        self.process = Some(self.home.start(self.port).await?);
        Ok(())
    }

    /// Stops the server and removes its streams.
    ///
    /// # Errors
    /// [`Error::File`] when the streams cannot be removed.
    pub async fn stop(mut self) -> Result<(), Error> {
        if let Some(process) = self.process.take() {
            process.stop().await;
        }
        self.home.dir.remove()
    }
}

/// The streams on disk and everything that serves them.
#[derive(Debug)]
struct NatsHome {
    binary: NatsBinary,
    dir: InstanceDir,
    log: ServerLog,
    password: Password,
    store: PathBuf,
    membership: Option<ClusterMembership>,
}

impl NatsHome {
    fn create(settings: NatsSettings) -> Result<Self, Error> {
        let binary = find_nats()?;
        let dir = InstanceDir::create(&settings.base_dir, "nats")?;
        let log = ServerLog::create(settings.log_file.unwrap_or_else(|| dir.path().join("log")))?;
        let store = dir.folder("jetstream")?;
        let membership = settings.membership;
        let known = membership.as_ref().map(|cluster| cluster.password.clone());
        Ok(Self {
            binary,
            dir,
            log,
            password: known.unwrap_or_else(Password::generate),
            store,
            membership,
        })
    }

    async fn start(&self, port: u16) -> Result<ServerProcess, Error> {
        ports::ensure_free(port)?;
        let config = self.write_config(port)?;
        let mut nats = Command::new(&self.binary.path);
        nats.arg("--config").arg(config);
        let process = ServerProcess::spawn(NATS, nats, &self.dir, &self.log)?;
        let answers = async || self.accepts_login(port).await.unwrap_or(false);
        let ready = process.ready(START_LIMIT, &self.log, answers).await;
        ports::blame_port(ready, port)
    }

    fn write_config(&self, port: u16) -> Result<PathBuf, Error> {
        let path = self.dir.path().join("nats.conf");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(on(&path, "replace")(error))
            }
            _ => self.dir.file("nats.conf", &self.config(port)),
        }
    }

    fn config(&self, port: u16) -> String {
        let (name, password, store) = (
            self.server_name(),
            self.password.reveal(),
            quoted(&self.store),
        );
        format!(
            "server_name: \"{name}\"\n\
             host: 127.0.0.1\n\
             port: {port}\n\
             authorization {{ user: \"{USER}\", password: \"{password}\" }}\n\
             jetstream {{ store_dir: {store}, max_memory_store: 256MB, max_file_store: 4GB }}\n\
             {}",
            self.cluster()
        )
    }

    /// The configuration of a node; empty for a single server.
    fn cluster(&self) -> String {
        let Some(cluster) = &self.membership else {
            return String::new();
        };
        let (password, port) = (self.password.reveal(), cluster.route_port);
        let others = cluster
            .all_route_ports
            .iter()
            .filter(|other| **other != port);
        let routes: Vec<String> = others
            .map(|other| format!("\"nats://{USER}:{password}@127.0.0.1:{other}\""))
            .collect();
        let routes = routes.join(", ");
        format!(
            "cluster {{\n  name: private\n  host: 127.0.0.1\n  port: {port}\n  \
             authorization {{ user: \"{USER}\", password: \"{password}\" }}\n  \
             routes: [{routes}]\n}}\n"
        )
    }

    /// The name of the folder, which is unique, so that the greeting shows whether the server is
    /// ours.
    fn server_name(&self) -> String {
        self.dir
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// One round of the NATS client protocol: INFO, then CONNECT and PING, then PONG.
    async fn accepts_login(&self, port: u16) -> io::Result<bool> {
        let answers = self.ask(port, "PING\r\n", 1).await?;
        Ok(answers == ["PONG"])
    }

    /// Asks JetStream for its account. Only the leader of a cluster answers that; without a leader
    /// there is no answer, or an error.
    async fn serves_streams(&self, port: u16) -> io::Result<bool> {
        let question = "SUB answer 1\r\nPUB $JS.API.INFO answer 0\r\n\r\n";
        let answers = self.ask(port, question, 2).await?;
        Ok(answers
            .last()
            .is_some_and(|answer| !answer.contains("\"error\"")))
    }

    /// Logs in, asks, and reads `lines` lines of answer; none from another program on our port.
    async fn ask(&self, port: u16, question: &str, lines: usize) -> io::Result<Vec<String>> {
        let (from_server, mut to_server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await?
            .into_split();
        let mut answers = BufReader::new(from_server.take(GREETING_LIMIT)).lines();
        let greeting = answers.next_line().await?.unwrap_or_default();
        if !greeting.contains(&self.server_name()) || !greeting.contains("\"jetstream\":true") {
            return Ok(Vec::new());
        }
        let password = self.password.reveal();
        let login = format!(
            "CONNECT {{\"verbose\":false,\"user\":\"{USER}\",\"pass\":\"{password}\"}}\r\n\
             {question}"
        );
        to_server.write_all(login.as_bytes()).await?;
        let mut received = Vec::new();
        while received.len() < lines {
            match answers.next_line().await? {
                // A cluster sends INFO again when a node joins or leaves.
                Some(line) if line.starts_with("INFO ") => {}
                Some(line) => received.push(line),
                None => return Ok(Vec::new()),
            }
        }
        Ok(received)
    }
}

/// A path for the configuration: NATS escapes quotes and backslashes as Rust does.
fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}
