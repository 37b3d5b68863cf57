//! Executes the commands of the simulation: each command makes a few calls, each call has a
//! deadline, and the outcome goes back to the simulation.
//!
//! The executor knows nothing else of the city. It counts a service that answers badly or not at
//! all, and goes on: tests kill services under this city on purpose.

use std::collections::HashMap;
use std::time::Duration;

use marketplace::{DriverStatus, MarketTime, Multiplier, Position, Zone};
use tokio::sync::mpsc;
use tokio::time::sleep;
use uuid::Uuid;

use super::driver::SimulatedRide;
use super::rider::Rider;
use super::services::{self, ObservedRideState, ServiceFailure, Services};
use crate::clock::CityClock;

/// A task for the executor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CityCommand {
    /// A rider requests a quote and, if the price and the wait are acceptable, a ride.
    SeekRide(Rider),
    /// The driver of this ride reports the pickup or the dropoff.
    Progress {
        driver: Uuid,
        ride: Uuid,
        status: DriverStatus,
        position: Position,
    },
    /// The driver becomes idle in the service, from any state.
    Resync { driver: Uuid, position: Position },
    /// An idle driver confirms this, to find out whether the service agrees.
    Confirm { driver: Uuid, position: Position },
    /// Drivers report their positions.
    Report(Vec<(Uuid, Position)>),
    /// Drivers read the published multipliers.
    ReadSurge,
}

/// The outcome of a command, or a step of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CommandOutcome {
    /// A rider received a quote with this multiplier.
    Quoted(Multiplier),
    /// The price was more than the rider would pay.
    PricedOut,
    /// The service accepted a ride request.
    Requested { zone: Zone, at: MarketTime },
    /// A ride request brought no answer: a driver may be on the way without the city knowing.
    RequestLost,
    /// The service sent a driver.
    Matched { driver: Uuid, ride: SimulatedRide },
    /// The rider did not accept the wait; the driver is free again.
    Cancelled { driver: Uuid, ride: Uuid },
    /// There was no driver.
    Unserved,
    /// The command of the rider is over.
    RiderDone,
    /// The driver on this ride now has this status.
    Progressed {
        driver: Uuid,
        ride: Uuid,
        status: DriverStatus,
    },
    /// The service agrees that the driver is idle here.
    IsIdle { driver: Uuid, position: Position },
    /// The service does not agree that the driver is idle.
    Disputed(Uuid),
    /// The confirmation of one driver is over.
    ConfirmOver,
    /// The service refused a change of the driver of this ride.
    Desynced { driver: Uuid, ride: Uuid },
    /// The driver did not become idle.
    StillDesynced(Uuid),
    /// The service accepted these positions; none if the report failed.
    Reported(Vec<(Uuid, Position)>),
    /// The published multipliers.
    Surge(HashMap<Zone, Multiplier>),
    /// A call failed; failures are counted by this text.
    Failed(String),
}

/// Runs commands. A clone runs each of them.
#[derive(Debug, Clone)]
pub(crate) struct Executor {
    pub(crate) services: Services,
    pub(crate) clock: CityClock,
    pub(crate) outcomes: mpsc::Sender<CommandOutcome>,
}

impl Executor {
    /// Runs one command to its end: a bounded number of calls, each with a deadline.
    pub(crate) async fn run(self, command: CityCommand) {
        match command {
            CityCommand::SeekRide(rider) => {
                self.seek_ride(&rider).await;
                self.send(CommandOutcome::RiderDone).await;
            }
            CityCommand::Progress {
                driver,
                ride,
                status,
                position,
            } => self.progress(driver, ride, status, position).await,
            CityCommand::Resync { driver, position } => self.resync(driver, position).await,
            CityCommand::Confirm { driver, position } => {
                self.confirm(driver, position).await;
                self.send(CommandOutcome::ConfirmOver).await;
            }
            CityCommand::Report(positions) => self.report(positions).await,
            CityCommand::ReadSurge => self.read_surge().await,
        }
    }

    /// Quote, decision on the price, request, and decision on the wait.
    async fn seek_ride(&self, rider: &Rider) {
        let Some(quote) = self.noted(self.services.quote(&rider.trip).await).await else {
            return;
        };
        self.send(CommandOutcome::Quoted(quote.surge_multiplier))
            .await;
        if quote.surge_multiplier.as_f64() > rider.willingness {
            return self.send(CommandOutcome::PricedOut).await;
        }
        let Some(ride) = self.request_ride(rider, &quote.token).await else {
            return;
        };
        match self.settled(ride).await {
            Some(ride) if ride.state == ObservedRideState::Matched => {
                self.matched(rider, &ride).await
            }
            Some(_) => self.send(CommandOutcome::Unserved).await,
            None => {
                self.send(CommandOutcome::RequestLost).await;
                self.send(CommandOutcome::Unserved).await;
            }
        }
    }

    /// Requests the ride, and again if the answer was lost: one quote never makes two rides.
    async fn request_ride(&self, rider: &Rider, quote: &str) -> Option<services::RequestedRide> {
        const ATTEMPTS: usize = 3;
        let zone = Zone::at(rider.trip.pickup);
        for _ in 0..ATTEMPTS {
            let at = self.clock.now();
            match self.services.request_ride(rider, quote).await {
                Ok(ride) => {
                    self.send(CommandOutcome::Requested { zone, at }).await;
                    return Some(ride);
                }
                Err(failure) => {
                    let is_uncertain = failure.is_uncertain();
                    self.send(CommandOutcome::Failed(failure.kind())).await;
                    if !is_uncertain {
                        return None;
                    }
                }
            }
        }
        self.send(CommandOutcome::RequestLost).await;
        None
    }

    /// Waits until ride-management has asked for a driver, as long as a rider would.
    async fn settled(&self, mut ride: services::RequestedRide) -> Option<services::RequestedRide> {
        const LOOKS: u32 = 40;
        const BETWEEN_LOOKS: Duration = Duration::from_secs(15);
        for _ in 0..LOOKS {
            if ride.state != ObservedRideState::Requested {
                return Some(ride);
            }
            sleep(self.clock.real(BETWEEN_LOOKS).max(SHORTEST_PAUSE)).await;
            if let Some(seen) = self.noted(self.services.ride(ride.ride_id).await).await {
                ride = seen;
            }
        }
        self.noted(self.services.cancel(ride.ride_id).await).await
    }

    async fn matched(&self, rider: &Rider, matched: &services::RequestedRide) {
        let Some(driver) = matched.driver_id else {
            return self
                .send(CommandOutcome::Failed("ride without driver".into()))
                .await;
        };
        let ride = SimulatedRide {
            id: matched.ride_id,
            trip: rider.trip,
            traffic: rider.traffic,
        };
        self.send(CommandOutcome::Matched { driver, ride }).await;
        let quoted_wait = matched
            .pickup_due_at
            .map(|due_at| self.clock.now().age_of(due_at));
        if quoted_wait.is_some_and(|wait| wait > rider.patience) {
            self.give_up(driver, ride.id).await;
        }
    }

    /// Cancels the ride. If that fails, the rider rides after all.
    async fn give_up(&self, driver: Uuid, ride: Uuid) {
        if self.noted(self.services.cancel(ride).await).await.is_some() {
            self.send(CommandOutcome::Cancelled { driver, ride }).await;
        }
    }

    async fn progress(&self, driver: Uuid, ride: Uuid, status: DriverStatus, position: Position) {
        let set = || self.set_driver(driver, status, position);
        let outcome = match with_retries(set).await {
            Ok(()) => CommandOutcome::Progressed {
                driver,
                ride,
                status,
            },
            Err(_) => CommandOutcome::Desynced { driver, ride },
        };
        self.send(outcome).await;
    }

    async fn resync(&self, driver: Uuid, position: Position) {
        let outcome = match bring_to_idle(&self.services, driver, position).await {
            Ok(()) => CommandOutcome::IsIdle { driver, position },
            Err(failure) => {
                self.send(CommandOutcome::Failed(failure.kind())).await;
                CommandOutcome::StillDesynced(driver)
            }
        };
        self.send(outcome).await;
    }

    async fn confirm(&self, driver: Uuid, position: Position) {
        let idle = DriverStatus::Idle;
        match self.services.set_driver(driver, idle, position).await {
            Ok(()) => self.send(CommandOutcome::IsIdle { driver, position }).await,
            Err(failure) if failure.is_conflict() => {
                self.send(CommandOutcome::Disputed(driver)).await
            }
            Err(failure) => self.send(CommandOutcome::Failed(failure.kind())).await,
        }
    }

    async fn report(&self, positions: Vec<(Uuid, Position)>) {
        let taken = self.noted(self.services.report(&positions).await).await;
        let positions = taken.map_or_else(Vec::new, |()| positions);
        self.send(CommandOutcome::Reported(positions)).await;
    }

    async fn read_surge(&self) {
        if let Some(multipliers) = self.noted(self.services.surge().await).await {
            self.send(CommandOutcome::Surge(multipliers)).await;
        }
    }

    async fn set_driver(
        &self,
        driver: Uuid,
        status: DriverStatus,
        position: Position,
    ) -> Result<(), ServiceFailure> {
        let set = self.services.set_driver(driver, status, position).await;
        if let Err(failure) = &set {
            self.send(CommandOutcome::Failed(failure.kind())).await;
        }
        set
    }

    /// The answer, or `None` after counting the failure.
    async fn noted<T>(&self, answer: Result<T, ServiceFailure>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(failure) => {
                self.send(CommandOutcome::Failed(failure.kind())).await;
                None
            }
        }
    }

    /// A city that no longer receives has ended; its commands end silently.
    async fn send(&self, outcome: CommandOutcome) {
        let _ = self.outcomes.send(outcome).await;
    }
}

/// Repeats the call a few times while the service is away or overloaded, with growing pauses.
pub(crate) async fn with_retries<Call>(call: impl Fn() -> Call) -> Result<(), ServiceFailure>
where
    Call: Future<Output = Result<(), ServiceFailure>>,
{
    const ATTEMPTS: u32 = 5;
    let mut pause = SHORTEST_PAUSE;
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(failure) if failure.is_uncertain() => sleep(pause).await,
            outcome => return outcome,
        }
        pause *= 2;
    }
    call().await
}

/// Makes a driver idle in the service, from any status: a driver on a ride finishes the ride here.
pub(crate) async fn bring_to_idle(
    services: &Services,
    driver: Uuid,
    position: Position,
) -> Result<(), ServiceFailure> {
    let idle = services.set_driver(driver, DriverStatus::Idle, position);
    match idle.await {
        Err(failure) if failure.is_conflict() => {
            let on_trip = DriverStatus::OnTrip;
            services.set_driver(driver, on_trip, position).await?;
            let idle = DriverStatus::Idle;
            services.set_driver(driver, idle, position).await
        }
        outcome => outcome,
    }
}

/// Takes a driver offline. If a rider still waits for this driver, the ride is cancelled first.
pub(crate) async fn retire(
    services: &Services,
    driver: Uuid,
    waiting_ride: Option<Uuid>,
    position: Position,
) -> Result<(), ServiceFailure> {
    if let Some(ride) = waiting_ride {
        // If this fails, the calls below still take the driver offline.
        let _ = services.cancel(ride).await;
    }
    let offline = DriverStatus::Offline;
    match services.set_driver(driver, offline, position).await {
        Err(failure) if failure.is_conflict() => {
            bring_to_idle(services, driver, position).await?;
            services.set_driver(driver, offline, position).await
        }
        outcome => outcome,
    }
}

/// The shortest pause before a repeated call, in real time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
