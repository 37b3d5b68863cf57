//! The start of a stack: the servers first, then the services, then the wait until every dataflow
//! quotes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, bail};
use private_servers::{NatsCluster, NodeSettings, Postgres, PostgresSettings, sweep_stale};
use surge_proto::{DataAges, DataflowMode};
use tokio::time::{Instant, sleep};

use super::{
    Member, Part, READY_LIMIT, Stack, StackSettings,
    child::ChildProcess,
    database::Logins,
    launch::Launch,
    logs::Logs,
    ports::PortReservation,
    readiness::{POLL, ReadinessCheck},
    running_stack::FolderLock,
};

impl Stack {
    /// Starts everything and waits until a quote comes out of each dataflow.
    ///
    /// # Errors
    /// When a stack runs in this folder already, a port is busy, a server is not installed, or a
    /// part ends or is not ready within 30 s: the error names it and shows its log.
    pub async fn start(settings: StackSettings) -> anyhow::Result<Self> {
        let mut stack = Self::spawn(settings).await?;
        stack.publish()?;
        let deadline = Instant::now() + READY_LIMIT;
        let waits_for_batch = |mode: &DataflowMode| mode.profile().ages == DataAges::Batch;
        let (after_batch, live): (Vec<_>, Vec<_>) =
            DataflowMode::ALL.into_iter().partition(waits_for_batch);
        stack.ready(&live, deadline).await?;
        if stack.launch.has_city() {
            stack.start_city().await?;
        }
        // The first batch run reads the tables that the services have published by now.
        stack.launch_child(Part::Batch.into())?;
        stack.publish()?;
        stack.ready(&after_batch, deadline).await?;
        Ok(stack)
    }

    async fn spawn(settings: StackSettings) -> anyhow::Result<Self> {
        let lock = FolderLock::take(&settings.state_dir)?;
        let base = settings
            .state_dir
            .canonicalize()
            .context("the state folder vanished")?;
        sweep_stale(&base)?;
        let logs = Logs::start_anew(&base)?;
        let ports = settings.ports;
        let mut reservation = ports.reserve(settings.replicas, settings.nats_nodes)?;
        let ports = reservation.map.clone();
        let mut launch = Launch::prepare(&settings, ports.clone())?;

        let mut children = BTreeMap::new();
        let collector = Part::TraceView.into();
        let traces = start_child(collector, &launch, &logs, &mut reservation)?;
        children.insert(collector, traces);
        let (postgres, nats) = start_servers(&base, &logs, &mut reservation).await?;
        let logins = Logins::generate();
        logins.create(&postgres).await?;
        launch.connect(&postgres, &logins, &nats);
        for service in Part::SERVICES {
            for replica in Member::first(service, settings.replicas) {
                let child = start_child(replica, &launch, &logs, &mut reservation)?;
                children.insert(replica, child);
            }
        }
        Ok(Self {
            children,
            nats,
            postgres,
            launch,
            reservation,
            logs,
            readiness: ReadinessCheck::new(ports),
            reported: BTreeSet::new(),
            lock,
        })
    }

    async fn start_city(&mut self) -> anyhow::Result<()> {
        self.reservation.release(Part::City);
        self.launch_child(Part::City.into())?;
        self.publish()?;
        let deadline = Instant::now() + READY_LIMIT;
        while let Err(reason) = self.readiness.service(Part::City.into(), "/readyz").await {
            self.no_failure()?;
            if Instant::now() >= deadline {
                return Err(reason);
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Fails if a part has ended by itself.
    fn no_failure(&mut self) -> anyhow::Result<()> {
        match self.failures().into_iter().next() {
            Some(failure) => bail!("the stack did not start: {failure}"),
            None => Ok(()),
        }
    }

    async fn ready(&mut self, modes: &[DataflowMode], deadline: Instant) -> anyhow::Result<()> {
        while let Err(reason) = self.readiness.suite(modes).await {
            self.no_failure()?;
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
}

async fn start_servers(
    base: &Path,
    logs: &Logs,
    reservation: &mut PortReservation,
) -> anyhow::Result<(Postgres, NatsCluster)> {
    reservation.release(Part::Postgres);
    let nodes = Member::first(Part::Nats, reservation.map.count(Part::Nats));
    let nodes: Vec<NodeSettings> = nodes
        .map(|node| {
            reservation.release(node);
            NodeSettings {
                port: reservation.map.of(node).first().copied(),
                log_file: Some(logs.of(node).path().to_owned()),
            }
        })
        .collect();
    let postgres = Postgres::start(PostgresSettings {
        base_dir: base.to_owned(),
        port: Some(reservation.map.postgres),
        log_file: Some(logs.of(Part::Postgres).path().to_owned()),
    });
    let nats = NatsCluster::start(base.to_owned(), nodes);
    Ok(tokio::try_join!(postgres, nats)?)
}

fn start_child(
    member: Member,
    launch: &Launch,
    logs: &Logs,
    reservation: &mut PortReservation,
) -> anyhow::Result<ChildProcess> {
    reservation.release(member);
    ChildProcess::spawn(member, launch.command(member), logs.of(member))
}
