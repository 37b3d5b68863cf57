//! A private NATS of one node or several. Several nodes form a cluster with a copy of each stream
//! on every node: it survives the loss of fewer than half of them.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{Error, Nats, NatsSettings, Password, nats::ClusterMembership, ports::free_port};

/// The election of a leader takes a few seconds.
const ELECTION_LIMIT: Duration = Duration::from_secs(20);

/// One request to one node.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

const POLL: Duration = Duration::from_millis(50);

/// The port and log of a node.
#[derive(Debug, Clone, Default)]
pub struct NodeSettings {
    /// Loopback port for clients, or none for a free one.
    pub port: Option<u16>,
    /// Server log; `None` for one that is removed with the node.
    pub log_file: Option<PathBuf>,
}

/// Running (or killed) private nats-servers that form one cluster.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<Nats>,
}

impl NatsCluster {
    /// Starts a node for each of `nodes` with empty storage, and waits until streams can be made:
    /// 20 ms for one, a few seconds for several.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn start(base_dir: PathBuf, nodes: Vec<NodeSettings>) -> Result<Self, Error> {
        let memberships = memberships(nodes.len())?;
        let starting = nodes
            .into_iter()
            .zip(memberships)
            .map(|(node, membership)| {
                Nats::start(NatsSettings {
                    base_dir: base_dir.clone(),
                    port: node.port,
                    log_file: node.log_file,
                    membership,
                })
            });
        let mut nodes = Vec::new();
        for started in futures::future::join_all(starting).await {
            nodes.push(started?);
        }
        let cluster = Self { nodes };
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Connection URLs of all nodes, with commas between.
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(Nats::url).collect();
        urls.join(",")
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Nats] {
        &self.nodes
    }

    /// One node, to kill or restart it; the first is 0.
    ///
    /// # Panics
    /// If there are fewer nodes.
    #[must_use]
    pub fn node(&mut self, index: usize) -> &mut Nats {
        &mut self.nodes[index]
    }

    /// Stops all nodes and removes their streams.
    ///
    /// # Errors
    /// The first error of [`Nats::stop`].
    pub async fn stop(self) -> Result<(), Error> {
        let stopping = self.nodes.into_iter().map(Nats::stop);
        futures::future::join_all(stopping)
            .await
            .into_iter()
            .collect()
    }

    /// Waits until a leader answers for JetStream.
    async fn ready(&self) -> Result<(), Error> {
        let deadline = Instant::now() + ELECTION_LIMIT;
        let Some(first) = self.nodes.first() else {
            return Ok(());
        };
        while !timeout(ANSWER_LIMIT, first.serves_streams())
            .await
            .unwrap_or(false)
        {
            if Instant::now() >= deadline {
                return Err(first.not_ready(ELECTION_LIMIT));
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

/// The routes of each node; a single one needs none.
fn memberships(nodes: usize) -> Result<Vec<Option<ClusterMembership>>, Error> {
    if nodes <= 1 {
        return Ok(vec![None; nodes]);
    }
    let mut ports = Vec::new();
    while ports.len() < nodes {
        let port = free_port()?;
        // The system may return the same free port twice.
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    let password = Password::generate();
    let membership = |port: &u16| {
        Some(ClusterMembership {
            route_port: *port,
            all_route_ports: ports.clone(),
            password: password.clone(),
        })
    };
    Ok(ports.iter().map(membership).collect())
}
