//! A private NATS of one node or several. Several make a cluster whose streams can have copies on
//! each, so that it outlives the loss of the lesser half.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{Error, Nats, NatsSettings, Password, nats::Membership, ports::free_port};

/// The election of a leader takes a few seconds.
const ELECTION_LIMIT: Duration = Duration::from_secs(20);

/// One question to one node.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

const POLL: Duration = Duration::from_millis(50);

/// Where each node listens and logs.
#[derive(Debug, Clone, Default)]
pub struct NodeSettings {
    /// Loopback port for clients, or none for a free one.
    pub port: Option<u16>,
    /// Server log, or none to lose it with the node.
    pub log_file: Option<PathBuf>,
}

/// Running (or killed) private nats-servers that are one to their clients.
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

    /// One node, to kill or to start again; the first is 0.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn node(&mut self, index: usize) -> &mut Nats {
        &mut self.nodes[index]
    }

    /// Stops all nodes and removes their streams.
    ///
    /// # Errors
    /// The first that [`Nats::stop`] has.
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

/// How each of so many nodes finds the others; one alone needs nobody.
fn memberships(nodes: usize) -> Result<Vec<Option<Membership>>, Error> {
    if nodes <= 1 {
        return Ok(vec![None; nodes]);
    }
    let mut ports = Vec::new();
    while ports.len() < nodes {
        let port = free_port()?;
        // A port that was free a moment ago still is, so it may be told twice.
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    let password = Password::generate();
    let membership = |port: &u16| {
        Some(Membership {
            route_port: *port,
            all_route_ports: ports.clone(),
            password: password.clone(),
        })
    };
    Ok(ports.iter().map(membership).collect())
}
