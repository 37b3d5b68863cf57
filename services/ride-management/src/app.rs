//! The use cases of ride-management, one method each. Both edges and all loops end here; what a
//! ride may do is decided in `ride.rs`, what is stored in `store.rs`.
//!
//! A request is answered as soon as it can be kept: its ride is committed first and matched after
//! that, and whatever goes wrong then is made good by the dispatcher, never by the rider.

use std::{sync::Arc, time::Duration};

use feeds::{
    change_log::{ChangeLog, Changes},
    outbox::Relay,
    trace_links::PendingTraceLinks,
};
use marketplace::{
    quote::QuoteRefusal,
    time::MarketTime,
    view::Level,
    zone::{Position, ServiceArea, Zone},
};
use platform::clock::MarketClock;
use surge_proto::token::QuoteKey;
use tracing::{Instrument, Span, debug};
use uuid::Uuid;

use crate::{
    demand::{Demand, DemandReading},
    error::Error,
    metrics::RideMetrics,
    ride::{Change, Outcome, Ride, SupplyCall},
    store::{Advanced, Placed, Store, market_time},
    supply::Supply,
};

/// The use cases. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct App {
    parts: Arc<Parts>,
}

/// What the use cases are made of.
#[derive(Debug)]
pub struct Parts {
    /// The market clock.
    pub clock: MarketClock,
    /// What is served.
    pub area: ServiceArea,
    /// The key that quotes are verified with.
    pub quote_key: QuoteKey,
    /// How long a rider waits for a driver while driver-management is away, in market time.
    pub patience: Duration,
    /// The database.
    pub store: Store,
    /// The count of demand.
    pub demand: Demand,
    /// The way to driver-management.
    pub supply: Supply,
    /// To be woken when events were committed.
    pub relay: Relay,
    /// Counters.
    pub metrics: RideMetrics,
    /// The requests that changed demand.
    pub origins: PendingTraceLinks,
}

/// A rider's wish.
#[derive(Clone, Debug)]
pub struct RideRequest {
    /// Who wants a ride.
    pub rider_id: Uuid,
    /// The token of the quote to redeem.
    pub quote: String,
    /// Where the rider gets in.
    pub pickup: Position,
    /// Where the rider gets out.
    pub dropoff: Position,
}

impl App {
    /// Composes the use cases.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// Market time, now.
    pub fn now(&self) -> MarketTime {
        MarketTime::from_millis(self.parts.clock.now_millis())
    }

    /// The requests that changed demand.
    pub fn origins(&self) -> &PendingTraceLinks {
        &self.parts.origins
    }

    /// The zones that are served, sorted.
    pub fn zones(&self) -> &[Zone] {
        self.parts.area.zones()
    }

    /// Redeems a quote for a ride, and sends a driver to it. Once this returns, the ride is
    /// committed; it is still `requested` if driver-management did not answer.
    ///
    /// # Errors
    /// When the quote or the pickup is refused, or the database is away: then there is no ride, or,
    /// if only the answer of the database was lost, the same request will find it.
    pub async fn request_ride(&self, request: RideRequest) -> Result<Placed, Error> {
        let now = self.now();
        let zone = self.parts.area.zone_of(request.pickup)?;
        let quote = self.parts.quote_key.verify(&request.quote)?;
        let ride = Ride::request(request.rider_id, &quote, zone, now);
        match quote.redeem(now, request.pickup, request.dropoff) {
            Ok(()) => {}
            // The rider may be asking again for a ride that they have: an answer that was lost,
            // say.
            Err(QuoteRefusal::Expired) => return self.placed_before(&request, &ride).await,
            Err(refusal) => return Err(refusal.into()),
        }
        match self.place(ride).await? {
            Placed::New(ride) => Ok(Placed::New(self.settle_soon(ride).await)),
            before => Ok(before),
        }
    }

    /// The ride of that id.
    ///
    /// # Errors
    /// [`Error::NoSuchRide`], or the database is away.
    pub async fn ride(&self, ride_id: Uuid) -> Result<Ride, Error> {
        self.parts.store.ride(ride_id).await
    }

    /// Cancels a ride that was not picked up yet, and frees its driver. Doing it again changes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::NotCancellable`], [`Error::NoSuchRide`], or the database is away.
    pub async fn cancel_ride(&self, ride_id: Uuid) -> Result<Ride, Error> {
        let cancelled = self.advance(ride_id, Change::Cancel).await?;
        let ride = cancelled.ride;
        match cancelled.outcome {
            Outcome::Refused => Err(Error::NotCancellable(ride.state)),
            Outcome::Unmoved => Ok(ride),
            // Without a known driver a dispatch may be under way, so that ride waits until its
            // lease is over.
            Outcome::Moved if ride.driver_id.is_none() => Ok(ride),
            Outcome::Moved => Ok(self.settle_soon(ride).await),
        }
    }

    /// Takes in news of a trip; returns what it did.
    ///
    /// # Errors
    /// [`Error::NoSuchRide`], or the database is away.
    pub async fn progress_ride(&self, ride_id: Uuid, change: Change) -> Result<Outcome, Error> {
        Ok(self.advance(ride_id, change).await?.outcome)
    }

    /// Expected requests of a zone in the coming window, with the counts behind them for whoever
    /// wants to forecast the same.
    ///
    /// # Errors
    /// [`Error::ZoneNotServed`].
    pub fn demand(&self, zone: Zone) -> Result<DemandReading, Error> {
        if !self.parts.area.contains(zone) {
            return Err(Error::ZoneNotServed(zone));
        }
        Ok(self.parts.demand.reading(zone, self.known_as_of()))
    }

    /// Expected requests of several zones, in their order and as of one instant.
    ///
    /// # Errors
    /// [`Error::ZoneNotServed`].
    pub fn demands(&self, zones: &[Zone]) -> Result<Vec<Level>, Error> {
        let unserved = zones.iter().find(|zone| !self.parts.area.contains(**zone));
        match unserved {
            Some(zone) => Err(Error::ZoneNotServed(*zone)),
            None => Ok(self.parts.demand.levels(zones, self.known_as_of())),
        }
    }

    /// The levels of all zones served, in their order.
    pub fn all_demands(&self, as_of: MarketTime) -> Vec<Level> {
        self.parts.demand.levels(self.zones(), as_of)
    }

    /// Market time of what is known of demand: now, or when other replicas were heard last.
    pub fn known_as_of(&self) -> MarketTime {
        self.parts.demand.known_at(self.now())
    }

    /// Counts what other replicas took, or everything anew where that is in doubt, then publishes
    /// in the database how far this replica's requests are complete.
    ///
    /// # Errors
    /// The database is away.
    pub async fn mark_demand(&self, journal: &mut ChangeLog) -> Result<(), Error> {
        if self.parts.demand.take_doubt() {
            journal.mark_in_doubt();
        }
        let reading = match journal.needs_full_read() || journal.is_in_doubt() {
            true => self.recount(journal).await?,
            false => self.count_of_others(journal).await?,
        };
        self.parts
            .demand
            .heard(reading.peers_as_of.map(market_time));
        journal.commit_offset(reading);
        self.parts.store.mark(self.now()).await
    }

    /// Now and then throws away what other replicas have long read.
    ///
    /// # Errors
    /// The database is away.
    pub async fn clean_journal(&self, journal: &mut ChangeLog) -> Result<(), Error> {
        Ok(journal.prune().await?)
    }

    async fn recount(&self, journal: &ChangeLog) -> Result<Changes, Error> {
        let _nobody_commits = self.parts.demand.recounting().await;
        let (counts, reading) = self.parts.store.window_counts(journal).await?;
        self.parts.demand.recounted(&counts);
        Ok(reading)
    }

    async fn count_of_others(&self, journal: &ChangeLog) -> Result<Changes, Error> {
        let reading = journal.read().await?;
        let unseen = journal.unseen(&reading);
        for (zone, at) in self.parts.store.requests(&unseen).await? {
            self.parts.demand.record(zone, at);
        }
        Ok(reading)
    }

    /// This replica will take no more requests.
    ///
    /// # Errors
    /// The database is away.
    pub async fn leave(&self) -> Result<(), Error> {
        self.parts.store.leave().await
    }

    /// Takes on calls to driver-management that are due, at most `most`.
    ///
    /// # Errors
    /// The database is away.
    pub async fn take_due_calls(&self, most: i64) -> Result<Vec<Ride>, Error> {
        self.parts.store.take_due_calls(most).await
    }

    /// Makes the call to driver-management that a ride is owed, and draws the consequence. A ride
    /// whose rider has waited long enough is given up instead. Returns the ride as it is then.
    ///
    /// # Errors
    /// driver-management or the database is away: the call stays due.
    pub async fn settle(&self, ride: Ride) -> Result<Ride, Error> {
        match ride.owed {
            Some(SupplyCall::Dispatch) if self.is_out_of_patience(&ride) => {
                self.change(ride, Change::PatienceOver).await
            }
            Some(SupplyCall::Dispatch) => self.dispatch(ride).await,
            Some(SupplyCall::Release) => self.release(ride).await,
            None => Ok(ride),
        }
    }

    async fn placed_before(&self, request: &RideRequest, ride: &Ride) -> Result<Placed, Error> {
        let asked = Ride {
            pickup: request.pickup,
            dropoff: request.dropoff,
            ..ride.clone()
        };
        match self.parts.store.placed_before(&asked).await {
            Err(Error::QuoteUsed) => Err(QuoteRefusal::Expired.into()),
            found => found.map(Placed::Before),
        }
    }

    /// A caller who leaves must not part a commit from its count, so both happen in a task of their
    /// own. Everything in it has a deadline, so such tasks do not pile up behind a database that
    /// hangs.
    async fn place(&self, ride: Ride) -> Result<Placed, Error> {
        let app = self.clone();
        let placing = async move { app.commit_and_count(ride).await };
        tokio::spawn(placing.instrument(Span::current()))
            .await
            .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }

    async fn commit_and_count(&self, ride: Ride) -> Result<Placed, Error> {
        let _until_recorded = self.parts.demand.counting().await?;
        let placed = self.parts.store.place(ride).await;
        match &placed {
            Ok(Placed::New(ride)) => {
                self.parts.demand.record(ride.zone, ride.requested_at);
                self.parts.origins.record_request();
                self.entered(ride);
            }
            Err(error) if error.leaves_doubt() => self.parts.demand.doubt(),
            _ => {}
        }
        placed
    }

    /// Settles now if possible; if not, the dispatcher will, and logs what is in the way.
    async fn settle_soon(&self, ride: Ride) -> Ride {
        match self.settle(ride.clone()).await {
            Ok(settled) => settled,
            Err(error) => {
                debug!(ride.id = %ride.ride_id, error.message = %error, "left to the dispatcher: {error}");
                ride
            }
        }
    }

    async fn dispatch(&self, ride: Ride) -> Result<Ride, Error> {
        let change = match self.parts.supply.dispatch(&ride).await? {
            Some(found) => Change::Match(found),
            None => Change::NobodyNear,
        };
        self.change(ride, change).await
    }

    async fn release(&self, ride: Ride) -> Result<Ride, Error> {
        self.parts.supply.release(&ride).await?;
        self.parts.store.released(ride.ride_id).await?;
        Ok(Ride { owed: None, ..ride })
    }

    async fn change(&self, ride: Ride, change: Change) -> Result<Ride, Error> {
        Ok(self.advance(ride.ride_id, change).await?.ride)
    }

    async fn advance(&self, ride_id: Uuid, change: Change) -> Result<Advanced, Error> {
        let advanced = self
            .parts
            .store
            .advance(ride_id, change, self.now())
            .await?;
        if advanced.outcome == Outcome::Moved {
            self.entered(&advanced.ride);
        }
        Ok(advanced)
    }

    /// A ride entered a state, and the outbox has an event of it.
    fn entered(&self, ride: &Ride) {
        self.parts.metrics.entered(ride.state);
        self.parts.relay.wake();
    }

    fn is_out_of_patience(&self, ride: &Ride) -> bool {
        ride.requested_at.age_of(self.now()) >= self.parts.patience
    }
}
