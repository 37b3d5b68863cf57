//! The local stack: the whole suite on one machine, each part a process of its own.
//!
//! # How this works
//!
//! ```text
//! surge up
//!   +- postgres                private, in the state folder
//!   +- nats (1, 3 or 5 nodes)  private, in the state folder
//!   +- surge service trace-view
//!   +- surge service driver-management     1 to 5 replicas of each service
//!   +- surge service ride-management
//!   +- surge service price-optimization
//!   +- surge service price-optimization batch    after the services have published
//! ```
//!
//! One executable plays every part of ours, so that there is one program to build and there are
//! still separate processes to kill. All of them end when the [`Stack`] is dropped or its process
//! dies.

mod child;
mod database;
mod launch;
mod logs;
pub(crate) mod meant;
mod part;
mod ports;
mod readiness;
mod running_stack;
mod settings;
mod start;
mod stop;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use city::Target;
use private_servers::{Nats, NatsCluster, Postgres};
use tokio::time::{Instant, sleep};

use child::ChildProcess;
use launch::Launch;
pub use launch::PASSED_ON;
use logs::Logs;
use ports::PortReservation;
use readiness::{POLL, ReadinessCheck};
use running_stack::FolderLock;

pub use part::{Member, Part};
pub use ports::{PORT_BASE_VARIABLE, PortMap, Ports};
pub(crate) use ports::{address as loopback, check as check_ports, url};
pub use running_stack::RunningStack;
pub use settings::{DEMAND_PROFILE, FRIDAY_EVENING, STATE_DIR, StackSettings};

/// A stack is ready within 3 s; a debug build on a busy machine gets ten times that.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A trip to ask a price for, as JSON: from Grand Central Terminal to Wall Street.
pub(crate) const EXAMPLE_TRIP: &str =
    r#"{"pickup":{"lat":40.7527,"lon":-73.9772},"dropoff":{"lat":40.7074,"lon":-74.0113}}"#;

/// A running local stack. Dropping it ends every process and removes the private data; logs stay.
#[derive(Debug)]
pub struct Stack {
    // Fields are dropped in this order: a part before those it depends on.
    children: BTreeMap<Member, ChildProcess>,
    nats: NatsCluster,
    postgres: Postgres,
    launch: Launch,
    reservation: PortReservation,
    logs: Logs,
    readiness: ReadinessCheck,
    /// Servers whose end was reported.
    reported: BTreeSet<Member>,
    lock: FolderLock,
}

impl Stack {
    /// Where everything listens.
    pub fn ports(&self) -> &PortMap {
        &self.reservation.map
    }

    /// Base URLs of the first replicas of the three services.
    pub fn target(&self) -> Target {
        self.target_of(1)
            .expect("there is one replica of each service at least")
    }

    /// Base URLs of the replicas of this number, 1 being the first.
    pub fn target_of(&self, number: u8) -> Option<Target> {
        let edge = |part| self.ports().of(Member { part, number }).first().copied();
        let [driver, ride, price] = Part::SERVICES.map(|service| edge(service).map(url));
        Some(Target {
            driver: driver?,
            ride: ride?,
            price: price?,
        })
    }

    /// How many processes of each service there are.
    pub fn replicas(&self) -> u8 {
        self.ports().count(Part::PriceOptimization)
    }

    /// Base URL of the gRPC of the first price-optimization.
    pub fn quotes_grpc_url(&self) -> String {
        url(self.ports().grpc[2][0])
    }

    /// Base URL of the city, whether there is one or not.
    pub fn city_url(&self) -> String {
        url(self.ports().city)
    }

    /// URL of the Jaeger UI.
    pub fn traces_url(&self) -> String {
        url(self.reservation.map.traces)
    }

    /// Connection URL of the private PostgreSQL's administrator, for tests that look behind the
    /// services.
    pub fn admin_url(&self) -> String {
        self.postgres.admin_url_of(database::DATABASE)
    }

    /// Connection URLs of the private NATS, with commas between those of its nodes.
    pub fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// The folder of all log files.
    pub fn logs_folder(&self) -> &Path {
        self.logs.folder()
    }

    /// The log file of a part, or of one of its replicas.
    pub fn log(&self, member: impl Into<Member>) -> PathBuf {
        self.logs.of(member).path().to_owned()
    }

    /// The process of a part (the first, where there are several) or of a replica; none after
    /// [`Stack::kill`].
    pub fn pid(&self, member: impl Into<Member>) -> Option<u32> {
        let member = member.into();
        match member.part {
            Part::Postgres => self.postgres.pid(),
            Part::Nats => self.nats.nodes().get(member.index())?.pid(),
            _ => self.children.get(&member).map(ChildProcess::pid),
        }
    }

    /// The parts that ended by themselves since the last call, a sentence for each.
    pub fn failures(&mut self) -> Vec<String> {
        let nodes = Member::first(Part::Nats, self.reservation.map.count(Part::Nats));
        let nodes = nodes.zip(self.nats.nodes().iter().map(Nats::pid));
        let of_servers = nodes
            .chain([(Part::Postgres.into(), self.postgres.pid())])
            .filter(|(_, pid)| pid.is_some_and(child::has_ended))
            .filter(|(member, _)| self.reported.insert(*member))
            .map(|(member, _)| {
                format!(
                    "{member} ended; its log: {}",
                    self.logs.of(member).path().display()
                )
            });
        let of_children = self.children.values_mut().filter_map(ChildProcess::failure);
        of_servers.chain(of_children).collect()
    }

    /// Kills one part (the first, where there are several) or replica with SIGKILL. The rest goes
    /// on.
    pub async fn kill(&mut self, member: impl Into<Member>) {
        let member = member.into();
        match member.part {
            Part::Postgres => self.postgres.kill().await,
            Part::Nats => self.nats.node(member.index()).kill().await,
            _ => {
                if let Some(mut child) = self.children.remove(&member) {
                    child.kill();
                }
            }
        }
    }

    /// Starts one part or replica again with the same settings, ports and data, ending it first if
    /// it runs, and waits until it answers. It may answer before it finds its dependencies.
    ///
    /// # Errors
    /// When it does not start or answer within 30 s.
    pub async fn restart(&mut self, member: impl Into<Member>) -> anyhow::Result<()> {
        let member = member.into();
        self.reported.remove(&member);
        match member.part {
            Part::Postgres => self.postgres.restart().await?,
            Part::Nats => self.nats.node(member.index()).restart().await?,
            _ => self.restart_child(member).await?,
        }
        self.publish()
    }

    async fn restart_child(&mut self, member: Member) -> anyhow::Result<()> {
        drop(self.children.remove(&member));
        self.launch_child(member)?;
        if Part::SERVICES.contains(&member.part) {
            self.alive(member).await?;
        }
        Ok(())
    }

    fn launch_child(&mut self, member: Member) -> anyhow::Result<()> {
        let command = self.launch.command(member);
        let child = ChildProcess::spawn(member, command, self.logs.of(member))?;
        self.children.insert(member, child);
        Ok(())
    }

    async fn alive(&mut self, service: Member) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        while let Err(reason) = self.readiness.service(service, "/livez").await {
            if Instant::now() >= deadline {
                return Err(reason);
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    fn members(&self) -> impl Iterator<Item = Member> {
        let city = self.launch.has_city().then_some(Part::City.into());
        self.ports().members().chain(city)
    }

    fn publish(&self) -> anyhow::Result<()> {
        self.lock.publish(&RunningStack {
            pid: std::process::id(),
            ports: self.ports().clone(),
            parts: self
                .members()
                .map(|member| (member, self.pid(member)))
                .collect(),
            logs: self.logs.folder().to_owned(),
        })
    }
}
