//! A call to one of several replicas, and to another one where that is allowed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout, timeout_at},
};
use tonic::{Status, body::Body};

use super::{
    BoxError,
    attempt::Outcome,
    names::Names,
    replica::{Replica, Replicas, less_busy},
    settings::{Calls, Settings, Target},
};

/// How many replicas a call is tried at, if it did not get as far as leaving.
const MOST_ATTEMPTS: usize = 3;

/// The replicas of a callee, as of the last look-up.
#[derive(Debug)]
pub(super) struct Pool {
    settings: Settings,
    opened: Instant,
    /// `None` until names have been looked up once.
    known: watch::Receiver<Option<Replicas>>,
    /// Told when a replica cannot be reached: perhaps there are others by now.
    stale: Arc<Notify>,
}

impl Pool {
    pub(super) fn open(targets: Vec<Target>, settings: Settings) -> Arc<Self> {
        let (tell, known) = watch::channel(None);
        let stale = Arc::new(Notify::new());
        let names = Names {
            targets,
            settings: settings.clone(),
            tell,
            stale: Arc::clone(&stale),
        };
        tokio::spawn(names.run());
        Arc::new(Self {
            settings,
            opened: Instant::now(),
            known,
            stale,
        })
    }

    pub(super) async fn call(
        self: Arc<Self>,
        request: Request<Bytes>,
    ) -> Result<Response<Body>, BoxError> {
        let replicas = self.replicas().await;
        match &replicas[..] {
            [] => Err(unknown().into()),
            // Nowhere else to go, so no copy has to be kept for it.
            [only] => {
                let answer = only.call(request).await;
                self.note(only, Outcome::of(&answer));
                answer
            }
            _ => self.call_one_of(&replicas, request).await,
        }
    }

    /// Those that are known; the very first calls wait for the first look-up.
    async fn replicas(&self) -> Replicas {
        if let Some(replicas) = &*self.known.borrow() {
            return Arc::clone(replicas);
        }
        let mut known = self.known.clone();
        let first = known.wait_for(Option::is_some);
        match timeout(self.settings.deadline / 2, first).await {
            Ok(Ok(replicas)) => replicas.clone().unwrap_or_default(),
            _ => Replicas::default(),
        }
    }

    async fn call_one_of(
        &self,
        replicas: &[Arc<Replica>],
        request: Request<Bytes>,
    ) -> Result<Response<Body>, BoxError> {
        let deadline = Instant::now() + self.settings.deadline;
        let mut tried = Vec::new();
        let mut failure = None;
        while let Some(replica) = self.choose(replicas, &tried) {
            let attempt = timeout_at(deadline, replica.call(request.clone()));
            // Whoever could not be reached before tells more than that the time is over.
            let Ok(answer) = attempt.await else {
                self.note(replica, Outcome::Silent);
                return failure.unwrap_or_else(|| Err(overdue(self.settings.deadline).into()));
            };
            let outcome = Outcome::of(&answer);
            self.note(replica, outcome);
            if !self.goes_elsewhere(outcome, tried.len() + 1) {
                return answer;
            }
            tried.push(replica.address);
            failure = Some(answer);
        }
        failure.unwrap_or_else(|| Err(unknown().into()))
    }

    /// Whether a call that ended so is made once more. One whose answer was lost may have been carried out.
    fn goes_elsewhere(&self, outcome: Outcome, attempts: usize) -> bool {
        match outcome {
            Outcome::NeverLeft => attempts < MOST_ATTEMPTS,
            Outcome::Lost => self.settings.calls == Calls::Read && attempts < 2,
            Outcome::Answered | Outcome::Silent => false,
        }
    }

    /// The less busy of two random ones; of those that rest only if there are no others.
    fn choose<'a>(&self, all: &'a [Arc<Replica>], tried: &[SocketAddr]) -> Option<&'a Replica> {
        let now = self.now_ms();
        let new = || all.iter().filter(|one| !tried.contains(&one.address));
        let awake = less_busy(new().filter(|one| !one.rests(now)));
        let chosen = awake.or_else(|| less_busy(new()))?;
        chosen.begin_trial(now);
        Some(chosen)
    }

    fn note(&self, replica: &Replica, outcome: Outcome) {
        match outcome {
            Outcome::Answered => replica.is_well(),
            Outcome::NeverLeft | Outcome::Lost | Outcome::Silent => {
                replica.failed(self.now_ms(), outcome);
                self.stale.notify_one();
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }
}

fn unknown() -> Status {
    Status::unavailable("no address of it is known")
}

fn overdue(deadline: Duration) -> Status {
    Status::deadline_exceeded(format!("not done within {deadline:?}"))
}
