//! Looking up the names of a callee, again and again, for as long as somebody calls it.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tracing::{debug, info};

use super::{
    replica::{Replica, Replicas},
    settings::{Settings, Target},
};

/// How often while a name has no address, and the least time between two look-ups that failing calls ask for.
const LOOK_UP_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How long a look-up may take.
const LOOK_UP_DEADLINE: Duration = Duration::from_secs(4);

/// Addresses of a host and port, as of now.
pub type LookUp =
    Arc<dyn Fn(&Host) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name, or an address.
    pub name: String,
    /// Where its replicas listen.
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

/// Asks the system's resolver.
pub fn system() -> LookUp {
    Arc::new(|host| {
        let Host { name, port } = host.clone();
        async move { Ok(tokio::net::lookup_host((name, port)).await?.collect()) }.boxed()
    })
}

/// Looks the names of a callee up, for as long as somebody has a channel to it.
pub(super) struct Names {
    pub(super) targets: Vec<Target>,
    pub(super) settings: Settings,
    pub(super) tell: watch::Sender<Option<Replicas>>,
    pub(super) stale: Arc<Notify>,
}

impl Names {
    pub(super) async fn run(self) {
        loop {
            self.step().await;
            tokio::select! {
                () = self.pause() => {}
                () = self.tell.closed() => return,
            }
        }
    }

    /// Looks all names up and tells what came out, keeping the connections to those that stay.
    async fn step(&self) {
        let known = self.tell.borrow().clone();
        let before = known.as_deref().unwrap_or_default();
        let mut found: Vec<Arc<Replica>> = Vec::new();
        for target in &self.targets {
            let mut replicas = self.replicas_of(target, before).await;
            replicas.retain(|one| !found.iter().any(|other| other.address == one.address));
            found.append(&mut replicas);
        }
        let stays = |one: &&Arc<Replica>| found.iter().any(|other| Arc::ptr_eq(one, other));
        let stay = before.iter().filter(stays).count();
        let (gone, new) = (before.len() - stay, found.len() - stay);
        if gone + new > 0 || known.is_none() {
            let (host, count) = (self.hosts(), found.len());
            info!("{host} has {count} addresses now: {new} new ones, {gone} are gone");
            self.tell.send_replace(Some(found.into()));
        }
    }

    /// A resolver that fails is no reason to leave replicas that answer.
    async fn replicas_of(&self, target: &Target, before: &[Arc<Replica>]) -> Vec<Arc<Replica>> {
        let known = || before.iter().filter(|one| one.host == target.host);
        let addresses = match self.look_up(&target.host).await {
            Ok(addresses) if !addresses.is_empty() => addresses,
            Ok(_) => return known().cloned().collect(),
            Err(error) => {
                debug!(error.message = %error, "{} cannot be looked up: {error}", target.host);
                return known().cloned().collect();
            }
        };
        let replica = |address| match known().find(|one| one.address == address) {
            Some(replica) => Arc::clone(replica),
            None => Arc::new(Replica::new(address, target, self.settings.deadline)),
        };
        addresses.into_iter().map(replica).collect()
    }

    async fn look_up(&self, host: &Host) -> io::Result<Vec<SocketAddr>> {
        let answer = (self.settings.look_up)(host);
        match timeout(LOOK_UP_DEADLINE, answer).await {
            Ok(addresses) => addresses,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn pause(&self) {
        let nobody = self
            .tell
            .borrow()
            .as_ref()
            .is_none_or(|known| known.is_empty());
        let period = if nobody {
            LOOK_UP_AGAIN_AFTER
        } else {
            self.settings.look_up_every
        };
        let least = LOOK_UP_AGAIN_AFTER.min(period);
        tokio::time::sleep(least).await;
        let rest = period
            .mul_f64(rand::random_range(0.8..1.2))
            .saturating_sub(least);
        let _ = timeout(rest, self.stale.notified()).await;
    }

    fn hosts(&self) -> String {
        let hosts: Vec<String> = self
            .targets
            .iter()
            .map(|one| one.host.to_string())
            .collect();
        hosts.join(",")
    }
}
