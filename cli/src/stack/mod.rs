//! The local stack: private PostgreSQL and NATS, the trace collector, three services and the batch
//! job, each a process of its own, all gone when the [`Stack`] is.
//!
//! It is the whole suite on one machine and from one executable: the services are started as `surge
//! service NAME`, so that there is one thing to build and there are still separate processes to
//! kill.

mod child;
mod database;
mod launch;
mod logs;
mod part;
mod ports;
mod readiness;
mod record;
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
use logs::Logs;
use ports::Reservation;
use readiness::{POLL, Readiness};
use record::Claim;

pub use part::{Member, Part};
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
    children: BTreeMap<Member, ChildProcess>,
    nats: NatsCluster,
    postgres: Postgres,
    launch: Launch,
    reservation: Reservation,
    logs: Logs,
    readiness: Readiness,
    /// Servers whose end was told.
    told: BTreeSet<Member>,
    claim: Claim,
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

    /// URL of the Jaeger UI.
    pub fn traces_url(&self) -> String {
        url(self.reservation.map.traces)
    }

    /// Connection URL of the private PostgreSQL's administrator, for tests that look behind the
    /// services.
    pub fn admin_url(&self) -> String {
        database::admin_url(&self.postgres)
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

    /// What ended since the last call without being asked to, in sentences for a person.
    pub fn news(&mut self) -> Vec<String> {
        let nodes = Member::first(Part::Nats, self.reservation.map.count(Part::Nats));
        let nodes = nodes.zip(self.nats.nodes().iter().map(Nats::pid));
        let of_servers = nodes
            .chain([(Part::Postgres.into(), self.postgres.pid())])
            .filter(|(_, pid)| pid.is_some_and(child::has_ended))
            .filter(|(member, _)| self.told.insert(*member))
            .map(|(member, _)| {
                format!(
                    "{member} ended; its log: {}",
                    self.logs.of(member).path().display()
                )
            });
        let of_children = self.children.values_mut().filter_map(ChildProcess::news);
        of_servers.chain(of_children).collect()
    }

    /// Kills one part (the first, where there are several) or replica with SIGKILL, as a crash
    /// would; the rest goes on.
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
    /// it runs, and waits until it answers. Whether it finds what it depends on is for the caller
    /// to see.
    ///
    /// # Errors
    /// When it does not start or answer within 30 s.
    pub async fn restart(&mut self, member: impl Into<Member>) -> anyhow::Result<()> {
        let member = member.into();
        self.told.remove(&member);
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

    fn publish(&self) -> anyhow::Result<()> {
        self.claim.publish(&Record {
            pid: std::process::id(),
            ports: self.ports().clone(),
            parts: self
                .ports()
                .members()
                .map(|member| (member, self.pid(member)))
                .collect(),
            logs: self.logs.folder().to_owned(),
        })
    }
}
