//! The use cases of ride-management, one method each. Both edges and all workers end here. `ride`
//! decides what may happen to a ride, and `store` writes it.
//!
//! A use case that needs PostgreSQL fails with [`Error::Database`] while that is away; the methods
//! name their other errors.
//!
//! A request is answered as soon as it is safe: its ride is committed first and matched after that.
//! When the match fails, the ride keeps a pending call, and the dispatcher makes it.

use std::{sync::Arc, time::Duration};

use feeds::{outbox::Relay, trace_links::PendingTraceLinks};
use marketplace::{
    quote::QuoteRefusal,
    time::MarketTime,
    view::Level,
    zone::{Position, ServiceArea, Zone},
};
use platform::{clock::MarketClock, propagation};
use surge_proto::token::QuoteKey;
use tracing::{Instrument, Span, debug};
use uuid::Uuid;

use crate::{
    demand::{DemandTracker, ZoneDemand},
    error::Error,
    metrics::RideMetrics,
    ride::{ChangeOutcome, Ride, RideChange, RideState, SupplyCall},
    store::{ChangedRide, PlacedRide, Store},
    supply_client::SupplyClient,
};

/// The use cases. Cheap to clone: all clones share their parts.
#[derive(Clone, Debug)]
pub struct App(Arc<Parts>);

/// What the use cases are made of.
#[derive(Debug)]
pub struct Parts {
    /// The zones that are served.
    pub area: ServiceArea,
    /// The market clock.
    pub clock: MarketClock,
    /// The key that verifies quotes.
    pub quote_key: QuoteKey,
    /// How long a rider waits for a driver while driver-management is away, in market time.
    pub match_patience: Duration,
    /// The rides in PostgreSQL.
    pub store: Store,
    /// The demand in memory.
    pub demand: Arc<DemandTracker>,
    /// The client of driver-management.
    pub supply: SupplyClient,
    /// Publishes ride events; woken when one was committed.
    pub relay: Relay,
    /// Counters.
    pub rides: RideMetrics,
    /// The traced requests that changed demand.
    pub trace_links: Arc<PendingTraceLinks>,
}

/// A rider's request.
#[derive(Clone, Debug)]
pub struct RideRequest {
    /// The rider.
    pub rider_id: Uuid,
    /// The token of the quote to redeem.
    pub quote: String,
    /// Where the rider gets in.
    pub pickup: Position,
    /// Where the rider gets out.
    pub dropoff: Position,
}

impl App {
    /// The use cases on these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Market time, now.
    pub fn now(&self) -> MarketTime {
        MarketTime::from_millis(self.0.clock.now_millis())
    }

    /// The traced requests that changed demand.
    pub fn trace_links(&self) -> &PendingTraceLinks {
        &self.0.trace_links
    }

    /// The zones that are served, sorted.
    pub fn zones(&self) -> &[Zone] {
        self.0.area.zones()
    }

    /// Redeems a quote for a ride, and sends a driver to it. Once this returns, the ride is
    /// committed; it is still `requested` if driver-management did not answer.
    ///
    /// # Errors
    /// When the quote or the pickup is refused, or the database is away: then there is no ride, or,
    /// if only the answer of the database was lost, the same request will find it.
    pub async fn request_ride(&self, request: RideRequest) -> Result<PlacedRide, Error> {
        let now = self.now();
        let zone = self.0.area.zone_of(request.pickup)?;
        let quote = self.0.quote_key.verify(&request.quote)?;
        let traceparent = propagation::traceparent();
        let (ride_id, rider_id) = (Uuid::now_v7(), request.rider_id);
        let ride = Ride::request(ride_id, rider_id, &quote, zone, now, traceparent);
        match quote.redeem(now, request.pickup, request.dropoff) {
            Ok(()) => {}
            // The rider may repeat a request whose answer was lost.
            Err(QuoteRefusal::Expired) => return self.repeated(&request, ride).await,
            Err(refusal) => return Err(refusal.into()),
        }
        let app = self.clone();
        let placing = async move { app.commit_and_count(ride).await };
        match commit_in_task(placing).await? {
            PlacedRide::New(ride) => Ok(PlacedRide::New(self.try_call(ride).await)),
            repeated => Ok(repeated),
        }
    }

    /// The ride of that id.
    ///
    /// # Errors
    /// [`Error::NoSuchRide`].
    pub async fn ride(&self, ride_id: Uuid) -> Result<Ride, Error> {
        self.0.store.ride(ride_id).await
    }

    /// Cancels a ride before its pickup, and frees its driver. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`Error::NotCancellable`] or [`Error::NoSuchRide`].
    pub async fn cancel_ride(&self, ride_id: Uuid) -> Result<Ride, Error> {
        let ChangedRide { ride, outcome } = self.apply(ride_id, RideChange::Cancel).await?;
        match outcome {
            ChangeOutcome::Refused => Err(Error::NotCancellable(ride.state)),
            ChangeOutcome::Unmoved => Ok(ride),
            // Without a known driver a dispatch may be under way, so the release waits until the
            // lease of the dispatch is over.
            ChangeOutcome::Moved if ride.driver_id.is_none() => Ok(ride),
            ChangeOutcome::Moved => Ok(self.try_call(ride).await),
        }
    }

    /// Expected requests of a zone in the coming window, with the counts behind the forecast.
    ///
    /// # Errors
    /// [`Error::ZoneNotServed`].
    pub fn demand(&self, zone: Zone) -> Result<ZoneDemand, Error> {
        match self.0.area.contains(zone) {
            true => Ok(self.0.demand.zone(zone, self.known_as_of())),
            false => Err(Error::ZoneNotServed(zone)),
        }
    }

    /// Expected requests of several zones, in their order and as of the same moment.
    ///
    /// # Errors
    /// [`Error::ZoneNotServed`] names the first zone that is not served.
    pub fn demands(&self, zones: &[Zone]) -> Result<Vec<Level>, Error> {
        match zones.iter().find(|zone| !self.0.area.contains(**zone)) {
            Some(unserved) => Err(Error::ZoneNotServed(*unserved)),
            None => Ok(self.0.demand.levels(zones, self.known_as_of())),
        }
    }

    /// The levels of all zones served, in their order.
    pub fn all_demands(&self, as_of: MarketTime) -> Vec<Level> {
        self.0.demand.levels(self.zones(), as_of)
    }

    /// The moment up to which demand is known: now, or what was read from the other replicas.
    pub fn known_as_of(&self) -> MarketTime {
        self.0.demand.known_at(self.now())
    }

    /// Applies a change to a ride.
    ///
    /// # Errors
    /// [`Error::NoSuchRide`].
    pub(crate) async fn apply(
        &self,
        ride_id: Uuid,
        change: RideChange,
    ) -> Result<ChangedRide, Error> {
        let app = self.clone();
        commit_in_task(async move {
            let changed = app.0.store.apply(ride_id, change, app.now()).await?;
            if changed.outcome == ChangeOutcome::Moved {
                app.entered_state(&changed.ride);
            }
            Ok(changed)
        })
        .await
    }

    /// Applies what a driver did to a ride. A ride that was given back gets its next driver at
    /// once, whatever the patience: the rider did not wait for us.
    ///
    /// # Errors
    /// [`Error::NoSuchRide`].
    pub(crate) async fn follow_trip(
        &self,
        ride_id: Uuid,
        change: RideChange,
    ) -> Result<ChangedRide, Error> {
        let changed = self.apply(ride_id, change).await?;
        if changed.outcome == ChangeOutcome::Moved
            && changed.ride.state == RideState::Requested
            && let Err(error) = self.dispatch(&changed.ride).await
        {
            left_to_dispatcher(ride_id, &error);
        }
        Ok(changed)
    }

    /// Makes the pending call of a ride, and applies its result. A ride whose rider has waited long
    /// enough becomes unserved instead. Returns the ride as it is then.
    ///
    /// # Errors
    /// driver-management or the database is away: the call stays pending.
    pub async fn make_call(&self, ride: Ride) -> Result<Ride, Error> {
        let change = match ride.pending_call {
            None => return Ok(ride),
            Some(SupplyCall::Release) => {
                self.0.supply.release(&ride).await?;
                self.0.store.released(ride.ride_id).await?;
                let pending_call = None;
                return Ok(Ride {
                    pending_call,
                    ..ride
                });
            }
            Some(SupplyCall::Dispatch) if self.is_out_of_patience(&ride) => {
                RideChange::PatienceOver
            }
            Some(SupplyCall::Dispatch) => return self.dispatch(&ride).await,
        };
        Ok(self.apply(ride.ride_id, change).await?.ride)
    }

    async fn dispatch(&self, ride: &Ride) -> Result<Ride, Error> {
        let change = match self.0.supply.dispatch(ride).await? {
            Some(driver) => RideChange::Match(driver),
            None => RideChange::NobodyNear,
        };
        Ok(self.apply(ride.ride_id, change).await?.ride)
    }

    /// Makes the pending call now if possible; if not, the dispatcher makes it, and logs why.
    async fn try_call(&self, ride: Ride) -> Ride {
        match self.make_call(ride.clone()).await {
            Ok(ride) => ride,
            Err(error) => {
                left_to_dispatcher(ride.ride_id, &error);
                ride
            }
        }
    }

    async fn repeated(&self, request: &RideRequest, ride: Ride) -> Result<PlacedRide, Error> {
        let requested = Ride {
            pickup: request.pickup,
            dropoff: request.dropoff,
            ..ride
        };
        match self.0.store.repeated(&requested).await {
            Err(Error::QuoteUsed) => Err(QuoteRefusal::Expired.into()),
            found => found.map(PlacedRide::Repeated),
        }
    }

    async fn commit_and_count(&self, ride: Ride) -> Result<PlacedRide, Error> {
        let _until_recorded = self.0.demand.commit_guard().await?;
        let placed = self.0.store.place(ride).await;
        match &placed {
            Ok(PlacedRide::New(ride)) => {
                self.0.demand.record(ride.zone, ride.requested_at);
                self.0.trace_links.record_request();
                self.entered_state(ride);
            }
            Err(error) if error.leaves_doubt() => self.0.demand.mark_in_doubt(),
            _ => {}
        }
        placed
    }

    /// A ride entered a state, and the outbox has an event of it.
    fn entered_state(&self, ride: &Ride) {
        self.0.rides.entered(ride.state);
        self.0.relay.wake();
    }

    fn is_out_of_patience(&self, ride: &Ride) -> bool {
        ride.requested_at.age_of(self.now()) >= self.0.match_patience
    }
}

fn left_to_dispatcher(id: Uuid, error: &Error) {
    debug!(ride.id = %id, error.message = %error, "left to the dispatcher: {error}");
}

/// Commits and counts a change in a task of its own, because a caller that leaves must not part
/// the commit from its count. Everything in the task has a deadline, so such tasks do not pile up
/// behind a database that hangs.
async fn commit_in_task<T: Send + 'static>(
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(change.instrument(Span::current()))
        .await
        .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}
