//! One replica of a callee, and whether the balancer may choose it.
//!
//! # How this works
//!
//! tonic's channel reconnects by itself, and counts as ready even while nobody listens: a dead
//! replica would fail its share of the calls, and because it fails them quickly it would look idle
//! and attract more. So a replica that failed is *ejected*: it reports that it is not ready, and
//! the balancer chooses among the others.
//!
//! ```text
//!                 failure                        backoff over
//!   healthy  ---------------->  ejected  ------------------------->  half-open
//!      ^                           ^                                   | one call, the probe
//!      |                           |   the probe fails: twice the      |
//!      |                           +---------- backoff ----------------+
//!      |                                                               |
//!      +------------------------ the probe is answered ----------------+
//! ```
//!
//! A failure is a call that was not sent, whose connection broke, or that its caller gave up after
//! the whole deadline: a process that hangs breaks no connection.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use tokio::{
    sync::Notify,
    time::{Instant, Sleep, sleep_until},
};
use tonic::{body::Body, transport::Channel};
use tower::{
    BoxError, Service,
    load::{CompleteOnResponse, Load, PendingRequests, pending_requests},
};
use tracing::{info, warn};

use super::callee::{Callee, Failure, Host, open};

/// How long a replica is ejected after its first failure; twice as long after each probe that
/// fails.
const LEAST_BACKOFF: Duration = Duration::from_millis(250);

/// How long at most, and so how soon one that came back is used again.
const MOST_BACKOFF: Duration = Duration::from_secs(8);

/// One address of the callee.
#[derive(Debug)]
pub(super) struct Replica {
    address: SocketAddr,
    host: Host,
    deadline: Duration,
    /// Counts the calls in progress: the load by which the balancer compares replicas.
    channel: PendingRequests<Channel>,
    health: Arc<Health>,
    /// Wakes the balancer when the backoff is over.
    backoff: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Health {
    address: SocketAddr,
    ejection: Mutex<Ejection>,
    /// Asks for a lookup of the callee's name.
    stale: Arc<Notify>,
}

#[derive(Debug)]
struct Ejection {
    /// Failures in a row.
    failures: u32,
    until: Instant,
}

impl Replica {
    pub(super) fn new(
        address: SocketAddr,
        target: &Callee,
        deadline: Duration,
        stale: Arc<Notify>,
    ) -> Self {
        let url = format!("http://{address}").parse::<Uri>();
        let url = url.expect("a socket address is an authority");
        let channel = open(url, &target.url, deadline);
        Self {
            address,
            host: Host {
                port: address.port(),
                ..target.host.clone()
            },
            deadline,
            channel: PendingRequests::new(channel, CompleteOnResponse::default()),
            health: Arc::new(Health {
                address,
                ejection: Mutex::new(Ejection {
                    failures: 0,
                    until: Instant::now(),
                }),
                stale,
            }),
            backoff: None,
        }
    }
}

impl Load for Replica {
    type Metric = pending_requests::Count;

    fn load(&self) -> Self::Metric {
        self.channel.load()
    }
}

impl Service<Request<Body>> for Replica {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if let Some(until) = self.health.ejected_until() {
            let backoff = self
                .backoff
                .get_or_insert_with(|| Box::pin(sleep_until(until)));
            backoff.as_mut().reset(until);
            if backoff.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        self.channel.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.host.record_as_server(&self.address.ip());
        self.health.begin_probe();
        let attempt = Attempt {
            health: Arc::clone(&self.health),
            silent_at: Instant::now() + self.deadline.mul_f64(0.9),
            is_over: false,
        };
        let answer = self.channel.call(request);
        Box::pin(attempt.follow(async { Ok(answer.await?) }))
    }
}

/// A call in progress. Its caller drops it when the deadline is over, which is how a replica that
/// hangs is noticed.
struct Attempt {
    health: Arc<Health>,
    silent_at: Instant,
    is_over: bool,
}

impl Attempt {
    async fn follow(
        mut self,
        answer: impl Future<Output = Result<Response<Body>, BoxError>>,
    ) -> Result<Response<Body>, BoxError> {
        let answer = answer.await;
        self.is_over = true;
        match Failure::of(&answer) {
            None => self.health.mark_healthy(),
            Some(failure) => self.health.eject(&format!("{failure:?}")),
        }
        answer
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.is_over && Instant::now() >= self.silent_at {
            self.health.eject("TimedOut");
        }
    }
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, Ejection> {
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ejected_until(&self) -> Option<Instant> {
        let ejection = self.lock();
        (ejection.failures > 0 && Instant::now() < ejection.until).then_some(ejection.until)
    }

    /// After the backoff one call finds out how the replica is. Until it is answered, the replica
    /// counts as ejected.
    fn begin_probe(&self) {
        let mut ejection = self.lock();
        if ejection.failures > 0 {
            ejection.until = Instant::now() + backoff_after(ejection.failures);
            ejection.failures += 1;
        }
    }

    /// The calls that were in progress when the replica failed fail together: they are one failure.
    fn eject(&self, reason: &str) {
        let mut ejection = self.lock();
        if ejection.failures == 0 {
            ejection.failures = 1;
            ejection.until = Instant::now() + backoff_after(0);
            warn!(server.address = %self.address, "{} is ejected: {reason}", self.address);
        }
        self.stale.notify_one();
    }

    fn mark_healthy(&self) {
        let mut ejection = self.lock();
        if ejection.failures > 0 {
            ejection.failures = 0;
            info!(server.address = %self.address, "{} answers again", self.address);
        }
    }
}

/// How long a replica is ejected that had failed `before` times in a row.
fn backoff_after(before: u32) -> Duration {
    (LEAST_BACKOFF * (1 << before.min(8))).min(MOST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        let backoffs: Vec<u128> = (0..8)
            .map(|before| backoff_after(before).as_millis())
            .collect();
        assert_eq!(
            backoffs,
            [250, 500, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000]
        );
        assert_eq!(backoff_after(u32::MAX), MOST_BACKOFF);
    }
}
