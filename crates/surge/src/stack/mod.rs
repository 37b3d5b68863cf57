//! The local stack: private PostgreSQL and NATS, the trace collector, three services and the batch job, each a process
//! of its own, all gone when the [`Stack`] is.
//!
//! This is the same suite that runs in containers, on one machine and from one executable: the services are started as
//! `surge service NAME`, so that there is one thing to build and there are still separate processes to kill.

mod child;
mod database;
mod launch;
mod logs;
mod part;
mod ports;
mod readiness;
mod record;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use loadtest::Target;
use private_servers::{Nats, NatsSettings, Postgres, PostgresSettings, sweep_stale};
use rustix::process::{Pid, Signal, kill_process};
use surge_proto::DataflowMode;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use child::ChildProcess;
use database::Logins;
use launch::Launch;
use logs::Logs;
use ports::Reservation;
use readiness::{POLL, Readiness};
use record::Claim;

pub use part::Part;
pub use ports::{PORT_BASE_VARIABLE, PortMap, Ports};
pub(crate) use ports::{address as loopback, check as check_ports, url};
pub use record::Record;
pub use settings::{DEMAND_PROFILE, FRIDAY_EVENING, STATE_DIR, StackSettings};

/// A stack is ready within 3 s; a debug build on a busy machine gets ten times that.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A trip to ask a price for, as JSON: from Grand Central Terminal to Wall Street.
pub(crate) const EXAMPLE_TRIP: &str =
    r#"{"pickup":{"lat":40.7527,"lon":-73.9772},"dropoff":{"lat":40.7074,"lon":-74.0113}}"#;

/// A running local stack. Dropping it ends every process and removes the private data; logs stay.
#[derive(Debug)]
pub struct Stack {
    // In the order in which they have to go: what leans on others first.
    children: BTreeMap<Part, ChildProcess>,
    nats: Nats,
    postgres: Postgres,
    launch: Launch,
    reservation: Reservation,
    logs: Logs,
    readiness: Readiness,
    /// Servers whose end was told.
    told: BTreeSet<Part>,
    claim: Claim,
}

impl Stack {
    /// Starts everything and waits until a quote comes out of each dataflow.
    ///
    /// # Errors
    /// When a stack runs in this folder already, a port is busy, a server is not installed, or a part ends or is not
    /// ready within 30 s: named, with its last words and its log.
    pub async fn start(settings: StackSettings) -> anyhow::Result<Self> {
        let mut stack = Self::spawn(settings).await?;
        stack.publish()?;
        let deadline = Instant::now() + READY_LIMIT;
        let live = [DataflowMode::Request, DataflowMode::Events];
        stack.ready(&live, deadline).await?;
        // The batch job reads what the services have published, so its first run has to come after that.
        stack.launch_child(Part::Batch)?;
        stack.publish()?;
        stack.ready(&[DataflowMode::Database], deadline).await?;
        Ok(stack)
    }

    async fn spawn(settings: StackSettings) -> anyhow::Result<Self> {
        let claim = Claim::stake(&settings.state_dir)?;
        let base = settings
            .state_dir
            .canonicalize()
            .context("the state folder vanished")?;
        sweep_stale(&base)?;
        let logs = Logs::start_anew(&base)?;
        let mut reservation = settings.ports.reserve()?;
        let ports = reservation.map;
        let mut launch = Launch::prepare(&settings, ports)?;

        let mut children = BTreeMap::new();
        let traces = start_child(Part::TraceView, &launch, &logs, &mut reservation)?;
        children.insert(Part::TraceView, traces);
        let (postgres, nats) = start_servers(&base, &logs, &mut reservation).await?;
        let logins = Logins::generate();
        logins.create(&postgres).await?;
        launch.connect(&postgres, &logins, &nats);
        for part in Part::SERVICES {
            children.insert(part, start_child(part, &launch, &logs, &mut reservation)?);
        }
        Ok(Self {
            children,
            nats,
            postgres,
            launch,
            reservation,
            logs,
            readiness: Readiness::new(ports),
            told: BTreeSet::new(),
            claim,
        })
    }

    async fn ready(&mut self, modes: &[DataflowMode], deadline: Instant) -> anyhow::Result<()> {
        while let Err(reason) = self.readiness.suite(modes).await {
            if let Some(news) = self.news().into_iter().next() {
                bail!("the stack did not start: {news}");
            }
            if Instant::now() >= deadline {
                let limit = READY_LIMIT.as_secs();
                let logs = self.logs.folder().display();
                return Err(reason.context(format!(
                    "the stack was not ready within {limit} s; its logs: {logs}"
                )));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Where everything listens.
    pub fn ports(&self) -> &PortMap {
        &self.reservation.map
    }

    /// Base URLs of the three services.
    pub fn target(&self) -> Target {
        let [driver, ride, price] = self.reservation.map.http.map(url);
        Target {
            driver,
            ride,
            price,
        }
    }

    /// URL of the Jaeger UI.
    pub fn traces_url(&self) -> String {
        url(self.reservation.map.traces)
    }

    /// Connection URL of the private PostgreSQL's administrator, for tests that look behind the services.
    pub fn admin_url(&self) -> String {
        database::admin_url(&self.postgres)
    }

    /// Connection URL of the private NATS.
    pub fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// The folder of all log files.
    pub fn logs_folder(&self) -> &Path {
        self.logs.folder()
    }

    /// The log file of a part.
    pub fn log(&self, part: Part) -> PathBuf {
        self.logs.of(part).path().to_owned()
    }

    /// The process of a part; none after [`Stack::kill`].
    pub fn pid(&self, part: Part) -> Option<u32> {
        match part {
            Part::Postgres => self.postgres.pid(),
            Part::Nats => self.nats.pid(),
            _ => self.children.get(&part).map(ChildProcess::pid),
        }
    }

    /// What ended since the last call without being asked to, in sentences for a person.
    pub fn news(&mut self) -> Vec<String> {
        let servers = [
            (Part::Postgres, self.postgres.pid()),
            (Part::Nats, self.nats.pid()),
        ];
        let of_servers = servers
            .into_iter()
            .filter(|(_, pid)| pid.is_some_and(child::has_ended))
            .filter(|(part, _)| self.told.insert(*part))
            .map(|(part, _)| {
                format!(
                    "{part} ended; its log: {}",
                    self.logs.of(part).path().display()
                )
            });
        let of_children = self.children.values_mut().filter_map(ChildProcess::news);
        of_servers.chain(of_children).collect()
    }

    /// Kills one part with SIGKILL, as a crash would; the rest goes on.
    pub async fn kill(&mut self, part: Part) {
        match part {
            Part::Postgres => self.postgres.kill().await,
            Part::Nats => self.nats.kill().await,
            _ => {
                if let Some(mut child) = self.children.remove(&part) {
                    child.kill();
                }
            }
        }
    }

    /// Starts one part again with the same settings, ports and data, ending it first if it runs, and waits until it
    /// answers. Whether it finds what it depends on is for the caller to see.
    ///
    /// # Errors
    /// When it does not start or answer within 30 s.
    pub async fn restart(&mut self, part: Part) -> anyhow::Result<()> {
        self.told.remove(&part);
        match part {
            Part::Postgres => self.postgres.restart().await?,
            Part::Nats => self.nats.restart().await?,
            _ => self.restart_child(part).await?,
        }
        self.publish()
    }

    async fn restart_child(&mut self, part: Part) -> anyhow::Result<()> {
        drop(self.children.remove(&part));
        self.launch_child(part)?;
        if Part::SERVICES.contains(&part) {
            self.alive(part).await?;
        }
        Ok(())
    }

    fn launch_child(&mut self, part: Part) -> anyhow::Result<()> {
        let child = ChildProcess::spawn(part, self.launch.command(part), self.logs.of(part))?;
        self.children.insert(part, child);
        Ok(())
    }

    async fn alive(&mut self, service: Part) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        while let Err(reason) = self.readiness.service(service, "/livez").await {
            if Instant::now() >= deadline {
                return Err(reason);
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Ends everything in order: services and batch job drain, then collector, NATS and PostgreSQL. A cancelled
    /// `hurry` kills what has not ended by then.
    ///
    /// # Errors
    /// When private data cannot be removed.
    pub async fn stop(self, hurry: &CancellationToken) -> anyhow::Result<()> {
        let Self {
            mut children,
            nats,
            postgres,
            claim,
            ..
        } = self;
        let traces = children.remove(&Part::TraceView);
        end_all(children.into_values(), hurry).await;
        end_all(traces, hurry).await;
        let (nats_pid, postgres_pid) = (nats.pid(), postgres.pid());
        let nats_ended = hurried(nats.stop(), nats_pid, Signal::KILL, hurry).await;
        // PostgreSQL's own immediate end: it also takes its sessions and shared memory along.
        let postgres_ended = hurried(postgres.stop(), postgres_pid, Signal::QUIT, hurry).await;
        drop(claim);
        nats_ended
            .and(postgres_ended)
            .context("private data is left behind")
    }

    fn publish(&self) -> anyhow::Result<()> {
        self.claim.publish(&Record {
            pid: std::process::id(),
            ports: self.reservation.map,
            parts: Part::ALL.map(|part| (part, self.pid(part))).into(),
            logs: self.logs.folder().to_owned(),
        })
    }
}

async fn start_servers(
    base: &Path,
    logs: &Logs,
    reservation: &mut Reservation,
) -> anyhow::Result<(Postgres, Nats)> {
    reservation.release(Part::Postgres);
    reservation.release(Part::Nats);
    let postgres = Postgres::start(PostgresSettings {
        base_dir: base.to_owned(),
        port: Some(reservation.map.postgres),
        log_file: Some(logs.of(Part::Postgres).path().to_owned()),
    });
    let nats = Nats::start(NatsSettings {
        base_dir: base.to_owned(),
        port: Some(reservation.map.nats),
        monitor_port: None,
        log_file: Some(logs.of(Part::Nats).path().to_owned()),
    });
    Ok(tokio::try_join!(postgres, nats)?)
}

fn start_child(
    part: Part,
    launch: &Launch,
    logs: &Logs,
    reservation: &mut Reservation,
) -> anyhow::Result<ChildProcess> {
    reservation.release(part);
    ChildProcess::spawn(part, launch.command(part), logs.of(part))
}

/// All are asked at once, so that the slowest alone decides how long it takes.
async fn end_all(children: impl IntoIterator<Item = ChildProcess>, hurry: &CancellationToken) {
    let mut children: Vec<_> = children.into_iter().collect();
    children.iter_mut().for_each(ChildProcess::ask_to_end);
    for child in children {
        child.end(hurry).await;
    }
}

/// Waits for the end of a server, and sends the signal that ends it at once when there is a hurry.
async fn hurried<T>(
    stop: impl Future<Output = T>,
    pid: Option<u32>,
    signal: Signal,
    hurry: &CancellationToken,
) -> T {
    tokio::pin!(stop);
    tokio::select! {
        ended = &mut stop => return ended,
        () = hurry.cancelled() => {}
    }
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        tracing::debug!(%error, "a server that ended just now cannot be hurried");
    }
    stop.await
}
