//! Which replicas a callee has: looks its names up again and again, for as long as somebody has a
//! channel to it.
//!
//! ```text
//!   every few seconds,    name -> addresses     new address    Change::Insert
//!   or after a failure   ------------------>    gone address   Change::Remove  --> balance
//!                         no answer, or none    nothing changes
//! ```
//!
//! A headless name of Kubernetes has one address for each replica. A resolver that fails is no
//! reason to leave replicas that answer.

use std::{
    collections::BTreeMap, convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, channel::mpsc, future::BoxFuture};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tower::discover::Change;
use tracing::{debug, info};

use super::{
    callee::{Callee, Calls, Host},
    replica::Replica,
};

/// How often while a name has no address, and the least time between two lookups that failing calls
/// ask for.
const LOOKUP_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long a lookup may take.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(4);

/// How a channel finds and calls its callee.
#[derive(Clone, Debug)]
pub struct Settings {
    /// End of every call, however many replicas are tried.
    pub deadline: Duration,
    /// What the calls are.
    pub calls: Calls,
    /// What looks names up.
    pub resolver: Resolver,
    /// How often; give or take a fifth, so that callers that started together do not ask together.
    pub lookup_every: Duration,
}

/// Finds the addresses of a host.
#[derive(Clone)]
pub struct Resolver(Arc<Lookup>);

type Lookup = dyn Fn(&Host) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

impl Resolver {
    /// The system's own: DNS and the hosts file.
    pub fn system() -> Self {
        Self::new(|host| {
            let Host { name, port } = host.clone();
            async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) }.boxed()
        })
    }

    /// One that asks `lookup`.
    pub fn new(
        lookup: impl Fn(&Host) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(lookup))
    }

    async fn lookup(&self, host: &Host) -> io::Result<Vec<SocketAddr>> {
        timeout(LOOKUP_DEADLINE, (self.0)(host)).await?
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

/// Whether the names were looked up once.
#[derive(Clone, Debug)]
pub(super) struct Known(watch::Receiver<bool>);

impl Known {
    /// Waits for the first lookup, but no longer than `limit`.
    pub(super) async fn wait(mut self, limit: Duration) {
        if !*self.0.borrow() {
            let _ = timeout(limit, self.0.wait_for(|known| *known)).await;
        }
    }
}

/// The task that looks up.
pub(super) struct Discovery {
    targets: Vec<Callee>,
    settings: Settings,
    /// The addresses that the balancer has, and what they are addresses of.
    replicas: BTreeMap<SocketAddr, Host>,
    changes: mpsc::UnboundedSender<Change<SocketAddr, Replica>>,
    known: watch::Sender<bool>,
    /// A replica failed: perhaps there are others by now.
    stale: Arc<Notify>,
}

impl Discovery {
    /// Starts the task, which ends when its stream of changes is dropped.
    pub(super) fn start(
        targets: Vec<Callee>,
        settings: Settings,
    ) -> (
        impl Stream<Item = Result<Change<SocketAddr, Replica>, Infallible>> + Unpin + Send,
        Known,
    ) {
        let (changes, stream) = mpsc::unbounded();
        let known = watch::Sender::new(false);
        let first_lookup = Known(known.subscribe());
        let discovery = Self {
            targets,
            settings,
            replicas: BTreeMap::new(),
            changes,
            known,
            stale: Arc::new(Notify::new()),
        };
        tokio::spawn(discovery.run());
        (stream.map(Ok), first_lookup)
    }

    async fn run(mut self) {
        while !self.changes.is_closed() {
            self.step().await;
            self.pause().await;
        }
    }

    async fn step(&mut self) {
        let mut found = BTreeMap::new();
        for target in self.targets.clone() {
            for address in self.addresses_of(&target.host).await {
                found.entry(address).or_insert(target.clone());
            }
        }
        let before = std::mem::take(&mut self.replicas);
        let gone = before
            .keys()
            .filter(|address| !found.contains_key(*address));
        let new = found
            .iter()
            .filter(|(address, _)| !before.contains_key(*address));
        let (mut removed, mut inserted) = (0, 0);
        // Sending fails only when nobody has the channel any more, and then the task ends.
        for address in gone {
            removed += 1;
            let _ = self.changes.unbounded_send(Change::Remove(*address));
        }
        for (address, target) in new {
            inserted += 1;
            let replica = Replica::new(
                *address,
                target,
                self.settings.deadline,
                Arc::clone(&self.stale),
            );
            let _ = self
                .changes
                .unbounded_send(Change::Insert(*address, replica));
        }
        if removed + inserted > 0 {
            let (hosts, count) = (self.hosts(), found.len());
            info!("{hosts} has {count} addresses: {inserted} are new, {removed} are gone");
        }
        let hosts = found
            .into_iter()
            .map(|(address, target)| (address, target.host));
        self.replicas = hosts.collect();
        self.known.send_replace(true);
    }

    async fn addresses_of(&self, host: &Host) -> Vec<SocketAddr> {
        match self.settings.resolver.lookup(host).await {
            Ok(addresses) if !addresses.is_empty() => return addresses,
            Ok(_) => debug!("{} has no address", host.name),
            Err(error) => {
                debug!(error.message = %error, "{} cannot be looked up: {error}", host.name);
            }
        }
        let kept = self.replicas.iter().filter(|(_, known)| *known == host);
        kept.map(|(address, _)| *address).collect()
    }

    async fn pause(&self) {
        let period = match self.replicas.is_empty() {
            true => LOOKUP_AGAIN_AFTER,
            false => self.settings.lookup_every,
        };
        let least = LOOKUP_AGAIN_AFTER.min(period);
        sleep(least).await;
        let rest = period
            .mul_f64(rand::random_range(0.8..1.2))
            .saturating_sub(least);
        let _ = timeout(rest, self.stale.notified()).await;
    }

    fn hosts(&self) -> String {
        let hosts = self.targets.iter().map(|target| &*target.host.name);
        hosts.collect::<Vec<_>>().join(",")
    }
}
