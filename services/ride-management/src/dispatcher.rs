//! Makes the calls to driver-management that rides are still owed: drivers for those whose request
//! it missed, and the freeing of drivers whose rides were cancelled meanwhile. Requests and
//! cancellations make their calls themselves; this loop is for the bad days, and after a crash it
//! is what keeps the promise of an acknowledged ride.

use std::time::Duration;

use futures::future::join_all;
use platform::{background::WorkLoop, propagation};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, error, info_span};

use crate::{app::App, error::Error, ride::Ride, store::LEASE};

/// Rides taken on in one step, all at once, so that their leases hold. Few enough to leave
/// driver-management and the connections to PostgreSQL to those who ask just now.
const BATCH: i64 = 16;

/// How often to look, in real time.
const EVERY: Duration = Duration::from_millis(250);

/// The loop. Several replicas may run it: each due call is taken on by one.
#[derive(Debug)]
pub struct Dispatcher {
    app: App,
}

impl Dispatcher {
    /// A dispatcher for the rides of `app`.
    pub const fn new(app: App) -> Self {
        Self { app }
    }

    /// Makes the oldest calls that are due; returns how many that were.
    ///
    /// # Errors
    /// The first failure. The calls that failed are due again when their lease is over.
    pub async fn step(&self) -> Result<usize, Error> {
        let rides = self.app.take_due_calls(BATCH).await?;
        let count = rides.len();
        let settling = rides.into_iter().map(|ride| {
            let span = settle_span(&ride);
            self.settle(ride).instrument(span)
        });
        let settled = join_all(settling).await;
        settled.into_iter().collect::<Result<(), Error>>()?;
        Ok(count)
    }

    async fn settle(&self, ride: Ride) -> Result<(), Error> {
        if ride.owed.is_none() {
            error!(ride.id = %ride.ride_id, "given up on freeing the driver of ride {}", ride.ride_id);
        }
        match tokio::time::timeout(LEASE, self.app.settle(ride)).await {
            Ok(settled) => settled.map(|_| ()),
            // The lease is over and with it our right to this ride; whoever takes it next will do
            // the same.
            Err(_) => Ok(()),
        }
    }

    /// Goes on until `shutdown`.
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
fn settle_span(ride: &Ride) -> Span {
    propagation::take_up(
        ride.traceparent.as_deref(),
        || info_span!("settle ride", ride.id = %ride.ride_id, ride.state = %ride.state),
    )
}
