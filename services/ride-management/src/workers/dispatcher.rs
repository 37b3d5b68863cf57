//! Makes the calls to driver-management that are still pending: a driver for a ride whose request
//! driver-management missed, or the release of a driver whose ride was cancelled meanwhile.
//! Requests and cancellations make their calls themselves; this worker is for outages, and after a
//! crash it keeps the promise of an acknowledged ride.

use std::time::Duration;

use futures::future::join_all;
use platform::{background::WorkLoop, propagation};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, error, info_span};

use crate::{
    app::App,
    error::Error,
    ride::Ride,
    store::{LEASE, Store},
};

/// Most calls of one step, all made at once, so that their leases hold. Few enough to leave
/// driver-management and the connections to PostgreSQL to the requests.
const BATCH: i64 = 16;

/// How often to look for pending calls, in real time.
const EVERY: Duration = Duration::from_millis(250);

/// Makes pending calls. Several replicas may run one: each call is leased to one of them.
#[derive(Debug)]
pub struct Dispatcher {
    app: App,
    store: Store,
}

impl Dispatcher {
    /// A dispatcher for the rides of `app`.
    pub const fn new(app: App, store: Store) -> Self {
        Self { app, store }
    }

    /// Makes the oldest calls that are due; returns their number.
    ///
    /// # Errors
    /// The first failure. The calls that failed are due again when their lease is over.
    pub async fn step(&self) -> Result<usize, Error> {
        let rides = self.store.lease_due_calls(BATCH).await?;
        let count = rides.len();
        let calls = rides.into_iter().map(|ride| {
            let span = call_span(&ride);
            self.make_call(ride).instrument(span)
        });
        let outcomes = join_all(calls).await;
        outcomes.into_iter().collect::<Result<(), Error>>()?;
        Ok(count)
    }

    async fn make_call(&self, ride: Ride) -> Result<(), Error> {
        if ride.pending_call.is_none() {
            let id = ride.ride_id;
            error!(ride.id = %id, "gave up on releasing the driver of ride {id}");
        }
        match tokio::time::timeout(LEASE, self.app.make_call(ride)).await {
            Ok(outcome) => outcome.map(|_| ()),
            // The lease is over, and another replica may make the call.
            Err(_) => Ok(()),
        }
    }

    /// Steps until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new("the dispatcher", &shutdown);
        let mut period = EVERY;
        while work.next_step(period).await {
            period = match work.run(self.step()).await {
                // More calls may be due.
                Some(Ok(count)) if count as i64 == BATCH => Duration::ZERO,
                _ => EVERY,
            };
        }
    }
}

/// A trace of its own, linked to the one in which the ride was requested.
fn call_span(ride: &Ride) -> Span {
    propagation::take_up(
        ride.traceparent.as_deref(),
        || info_span!("settle ride", ride.id = %ride.ride_id, ride.state = %ride.state),
    )
}
