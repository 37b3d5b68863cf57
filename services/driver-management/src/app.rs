//! The use cases of driver-management, one method each. The edges parse and answer; between them
//! each use case decides by the rules of [`crate::driver`], writes through the store, and then
//! updates the fleet. What it acknowledges is committed. A use case that needs PostgreSQL fails
//! with [`Error::Database`] while that is away; the methods name their other errors.

use std::{sync::Arc, time::Duration};

use feeds::{outbox::Relay, trace_links::PendingTraceLinks};
use marketplace::{
    fare::{Trip, pickup_minutes},
    supply::DriverStatus,
    time::MarketTime,
    zone::{Position, ServiceArea, Zone},
};
use platform::{clock::MarketClock, metrics::report_end, postgres::once_more};
use surge_proto::v1::TripStage;
use uuid::Uuid;

use crate::{
    driver::{Driver, minutes, stage_between},
    error::Error,
    events,
    fleet::{Fleet, ReservedDriver, SupplySnapshot},
    metrics::DispatchMetrics,
    store::{Dispatch, DispatchClaim, OpenClaim, Store},
};

/// How often a change is tried when another one comes first. A driver has one phone and a ride one
/// dispatcher, so even the second attempt is rare.
const ATTEMPTS: usize = 4;

/// How many drivers are tried for a ride. The fleet is at most a moment behind the table, so the
/// first one nearly always succeeds.
const CANDIDATES: usize = 8;

/// How many drivers may give a ride back. It may be the rider who is not there, and the ride must
/// end at some time: then nobody is near.
const MOST_GIVEN_BACK: usize = 5;

/// The use cases. Cheap to clone: all clones share their parts.
#[derive(Clone, Debug)]
pub struct App(Arc<Parts>);

/// What the use cases are made of.
#[derive(Debug)]
pub struct Parts {
    /// The zones that are served.
    pub area: Arc<ServiceArea>,
    /// The market clock.
    pub clock: MarketClock,
    /// How far ahead supply is predicted, in market time.
    pub forecast_window: Duration,
    /// The longest way to a rider that a driver is sent on, in market time.
    pub max_pickup: Duration,
    /// Most drivers that the fleet holds.
    pub fleet_limit: usize,
    /// The drivers in memory.
    pub fleet: Arc<Fleet>,
    /// The drivers in PostgreSQL.
    pub store: Store,
    /// Publishes trip events; woken when one was committed.
    pub relay: Relay,
    /// Counters.
    pub dispatches: DispatchMetrics,
    /// The traced requests that changed supply.
    pub trace_links: Arc<PendingTraceLinks>,
}

/// A ride that waits for a driver.
#[derive(Clone, Copy, Debug)]
pub struct WaitingRide {
    /// Identifies the ride.
    pub ride_id: Uuid,
    /// Where the rider waits.
    pub pickup: Position,
    /// Where the ride ends.
    pub dropoff: Position,
}

impl App {
    /// The use cases on these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// A driver reports what it does, and where; perhaps that it declines a ride.
    ///
    /// # Errors
    /// [`Error::IllegalTransition`] or [`Error::FleetFull`].
    pub async fn report_status(
        &self,
        driver_id: Uuid,
        status: DriverStatus,
        position: Position,
        declines: Option<Uuid>,
    ) -> Result<Driver, Error> {
        for _ in 0..ATTEMPTS {
            let now = self.now();
            let before = match self.0.store.driver(driver_id).await? {
                Some(driver) => driver,
                None => self.newcomer(driver_id, position, now)?,
            };
            let after = match declines {
                Some(ride_id) => before.declines(ride_id, status, position, now),
                None => before.reports(status, position, now),
            }?;
            if self.change(&before, &after).await? {
                self.0.trace_links.record_request();
                return Ok(after);
            }
        }
        Err(Error::Contended(driver_id))
    }

    /// A driver reports where it is: kept in memory at once, in the table a moment later. False
    /// when the driver is unknown or offline; then the report is ignored.
    pub fn report_position(&self, driver_id: Uuid, position: Position) -> bool {
        let is_on_duty = self.0.fleet.move_driver(driver_id, position);
        if is_on_duty {
            self.0.trace_links.record_request();
        }
        is_on_duty
    }

    /// The traced requests that changed supply.
    pub fn trace_links(&self) -> &PendingTraceLinks {
        &self.0.trace_links
    }

    /// The zone that a position counts for; `None` outside the service area.
    pub fn served_zone(&self, position: Position) -> Option<Zone> {
        self.0.area.zone_of(position).ok()
    }

    /// Supply of some zones, all as of the same moment.
    ///
    /// # Errors
    /// [`Error::OutsideServiceArea`] names the first zone that is not served.
    pub fn supply(&self, zones: &[Zone]) -> Result<SupplySnapshot, Error> {
        match zones.iter().find(|zone| !self.0.area.contains(**zone)) {
            Some(unserved) => Err(Error::OutsideServiceArea(*unserved)),
            None => Ok(self.0.fleet.supply(zones, self.0.forecast_window)),
        }
    }

    /// The zones that are served, sorted.
    pub fn zones(&self) -> &[Zone] {
        self.0.area.zones()
    }

    /// Supply of the whole service area, in the order of its zones.
    pub fn supply_everywhere(&self) -> SupplySnapshot {
        self.0.fleet.supply(self.zones(), self.0.forecast_window)
    }

    /// Sends the nearest idle driver to a ride; `None` when no driver is near enough. A ride that
    /// has a driver keeps it, however often a caller repeats the dispatch.
    ///
    /// # Errors
    /// [`Error::RideReleased`].
    pub async fn dispatch(&self, ride: WaitingRide) -> Result<Option<Dispatch>, Error> {
        let dispatched = |answer: Option<&_>, _took| self.0.dispatches.count(answer);
        // Also safe when a commit is in doubt: a ride that has a driver keeps this one.
        let dispatch = once_more(|| self.driver_for(ride));
        let answer = report_end(dispatch, dispatched).await;
        if matches!(answer, Ok(Some(_))) {
            self.0.trace_links.record_request();
        }
        answer
    }

    /// Frees the driver on the way to a ride. False when there is none; a dispatch of the ride that
    /// arrives after its release is refused.
    ///
    /// # Errors
    /// [`Error::RideUnderWay`] when the rider is in the car.
    pub async fn release(&self, ride_id: Uuid) -> Result<bool, Error> {
        let store = &self.0.store;
        for _ in 0..ATTEMPTS {
            match store.driver_of(ride_id).await? {
                Some(driver) if driver.status == DriverStatus::OnTrip => {
                    return Err(Error::RideUnderWay(ride_id));
                }
                Some(driver) if self.free(driver.driver_id, ride_id).await? => return Ok(true),
                None if store.release_unsent(ride_id, self.now()).await? => return Ok(false),
                // The table knows the ride: it was released, or driven to its end.
                None if store.driver_of(ride_id).await?.is_none() => return Ok(false),
                // The ride changed between two statements.
                _ => {}
            }
        }
        Err(Error::Contended(ride_id))
    }

    /// Takes the rides whose pickups are long overdue from their drivers; returns their number.
    /// Their events tell ride-management, which has them dispatched anew.
    ///
    /// # Errors
    /// Those of the database. The rides that are left are taken by the next call.
    pub async fn give_up_overdue(&self) -> Result<usize, Error> {
        let now = self.now();
        let mut given_up = 0;
        for before in self.0.store.overdue_drivers(now).await? {
            if let Some(after) = before.gives_up(now)
                && self.change(&before, &after).await?
            {
                self.0.trace_links.record_request();
                given_up += 1;
            }
        }
        Ok(given_up)
    }

    fn newcomer(
        &self,
        driver_id: Uuid,
        position: Position,
        now: MarketTime,
    ) -> Result<Driver, Error> {
        if self.0.fleet.size() >= self.0.fleet_limit {
            return Err(Error::FleetFull(self.0.fleet_limit));
        }
        Ok(Driver::newcomer(driver_id, position, now))
    }

    /// Writes a change of a driver's own, with the event that it means; false when another change
    /// came first.
    async fn change(&self, before: &Driver, after: &Driver) -> Result<bool, Error> {
        let stage = stage_between(before.status, after.status);
        let event = stage.zip(before.ride).map(|(stage, ride)| {
            events::trip_progress(stage, ride.ride_id, after.driver_id, after.changed_at)
        });
        let given_back = stage.filter(|stage| *stage == TripStage::GivenBack);
        let given_back = given_back.and(before.ride).map(|ride| ride.ride_id);
        let has_event = event.is_some();
        let pending = self.0.fleet.expect_change(after.driver_id);
        if !self.0.store.change(after, given_back, event).await? {
            pending.not_made();
            return Ok(false);
        }
        pending.made(after);
        if has_event {
            self.0.relay.wake();
        }
        Ok(true)
    }

    async fn free(&self, driver_id: Uuid, ride_id: Uuid) -> Result<bool, Error> {
        let pending = self.0.fleet.expect_change(driver_id);
        match self.0.store.release(ride_id, self.now()).await? {
            Some(driver) => {
                pending.made(&driver);
                self.0.trace_links.record_request();
            }
            None => {
                pending.not_made();
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn driver_for(&self, ride: WaitingRide) -> Result<Option<Dispatch>, Error> {
        match self.0.store.claim(ride.ride_id, self.now()).await? {
            DispatchClaim::Ours(claim) => self.send_nearest(claim, ride).await,
            DispatchClaim::Sent(dispatch) => Ok(Some(dispatch)),
            DispatchClaim::Released => Err(Error::RideReleased(ride.ride_id)),
        }
    }

    async fn send_nearest(
        &self,
        mut claim: OpenClaim,
        ride: WaitingRide,
    ) -> Result<Option<Dispatch>, Error> {
        if claim.given_back_by.len() >= MOST_GIVEN_BACK {
            return Ok(None);
        }
        for _ in 0..CANDIDATES {
            let given_back_by = &claim.given_back_by;
            let Some(reservation) = self.0.fleet.reserve_nearest(ride.pickup, given_back_by) else {
                return Ok(None);
            };
            let now = self.now();
            let dispatch = plan(&reservation, ride, now);
            if dispatch.pickup_due_at > now + self.0.max_pickup {
                reservation.change.not_made();
                return Ok(None);
            }
            let sent = claim
                .send(&self.0.store, &dispatch, ride.dropoff, now)
                .await?;
            // Without a row the fleet was behind: the reservation is dropped without an outcome, so
            // the driver is read again.
            if let Some(driver) = sent {
                claim.commit().await?;
                reservation.change.made(&driver);
                return Ok(Some(dispatch));
            }
        }
        // There are drivers, but other replicas were faster each time.
        Err(Error::Contended(ride.ride_id))
    }

    /// Market time, now.
    pub fn now(&self) -> MarketTime {
        MarketTime::from_millis(self.0.clock.now_millis())
    }
}

fn plan(reservation: &ReservedDriver<'_>, ride: WaitingRide, now: MarketTime) -> Dispatch {
    let approach = pickup_minutes(reservation.position, ride.pickup);
    let trip = Trip::estimate(ride.pickup, ride.dropoff);
    let pickup_due_at = now + minutes(approach);
    Dispatch {
        driver_id: reservation.driver_id,
        position: reservation.position,
        pickup_due_at,
        dropoff_due_at: pickup_due_at + minutes(trip.minutes),
    }
}
