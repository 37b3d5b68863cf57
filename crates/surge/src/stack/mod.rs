//! The local stack: private PostgreSQL and NATS, the trace collector, three services and the batch job, each a process
//! of its own, all gone when the [`Stack`] is.
//!
//! It is the whole suite on one machine and from one executable: the services are started as `surge service NAME`, so
//! that there is one thing to build and there are still separate processes to kill.

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

use loadtest::Target;
use private_servers::{Nats, Postgres};
use tokio::time::{Instant, sleep};

use child::ChildProcess;
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

    /// Base URL of price-optimization's gRPC.
    pub fn quotes_grpc_url(&self) -> String {
        let [_, _, price] = self.reservation.map.grpc;
        url(price)
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

    fn publish(&self) -> anyhow::Result<()> {
        self.claim.publish(&Record {
            pid: std::process::id(),
            ports: self.reservation.map,
            parts: Part::ALL.map(|part| (part, self.pid(part))).into(),
            logs: self.logs.folder().to_owned(),
        })
    }
}
