//! What the city does on the wire: each command a few calls, with bounded patience, and outcome of how it went.
//!
//! CityCommands know nothing of the rest of the city; the simulation sends them out and hears of them. A service that answers
//! badly or not at all is counted and lived with: services are killed under this city on purpose.

use std::collections::HashMap;
use std::time::Duration;

use marketplace::{DriverStatus, MarketTime, Multiplier, Position, Zone};
use tokio::sync::mpsc;
use tokio::time::sleep;
use uuid::Uuid;

use super::driver::Ride;
use super::rider::Rider;
use super::services::{self, RideState, ServiceFailure, Services};
use crate::clock::MarketClock;

/// Something to be done over the wire.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CityCommand {
    /// A rider asks for a quote and, if it suits, for a ride.
    SeekRide(Rider),
    /// A driver on this ride has picked up or dropped off.
    Progress {
        driver: Uuid,
        ride: Uuid,
        status: DriverStatus,
        position: Position,
    },
    /// A driver of unknown status is made idle, whatever it takes.
    Resync { driver: Uuid, position: Position },
    /// An idle driver says so again, to find out whether the service agrees.
    Confirm { driver: Uuid, position: Position },
    /// Drivers on the move report where they are.
    Report(Vec<(Uuid, Position)>),
    /// Drivers look at the published multipliers.
    ReadSurge,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CommandOutcome {
    /// A rider was quoted this multiplier.
    Quoted(Multiplier),
    /// The price was more than the rider would pay.
    PricedOut,
    /// A ride request was taken.
    Requested { zone: Zone, at: MarketTime },
    /// A ride request got no answer: a driver may be on the way of whom nobody knows.
    RequestLost,
    /// A driver was sent.
    Matched { driver: Uuid, ride: Ride },
    /// The rider did not want to wait so long; the driver is free again.
    Cancelled { driver: Uuid, ride: Uuid },
    /// There was no driver.
    Unserved,
    /// The rider's command is over, however it went.
    RiderDone,
    /// The driver on this ride now has this status.
    Progressed {
        driver: Uuid,
        ride: Uuid,
        status: DriverStatus,
    },
    /// The driver is idle here, and the service agrees.
    IsIdle { driver: Uuid, position: Position },
    /// The service does not agree that the driver is idle.
    Disputed(Uuid),
    /// A driver's answer to the roll call is in, whatever it was.
    ConfirmOver,
    /// The service would not take what the driver of this ride said.
    Desynced { driver: Uuid, ride: Uuid },
    /// The driver could not be made idle.
    StillDesynced(Uuid),
    /// These positions were taken, or none.
    Reported(Vec<(Uuid, Position)>),
    /// The published multipliers.
    Surge(HashMap<Zone, Multiplier>),
    /// A call failed; the words are for counting.
    Failed(String),
}

/// Who runs the commands.
#[derive(Debug, Clone)]
pub(crate) struct Executor {
    pub(crate) services: Services,
    pub(crate) clock: MarketClock,
    pub(crate) outcome: mpsc::Sender<CommandOutcome>,
}

impl Executor {
    /// Runs one command to its end, which a bounded number of calls with a deadline each makes certain.
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

    /// Quote, decision, request, and once more a decision when the pickup time is known.
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
            Some(ride) if ride.state == RideState::Matched => self.matched(rider, &ride).await,
            Some(_) => self.send(CommandOutcome::Unserved).await,
            None => {
                self.send(CommandOutcome::RequestLost).await;
                self.send(CommandOutcome::Unserved).await;
            }
        }
    }

    /// Asks for the ride, and asks again when the answer was lost: one quote never makes two rides.
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

    /// Waits while ride-management could not ask for a driver yet, as long as a rider would.
    async fn settled(&self, mut ride: services::RequestedRide) -> Option<services::RequestedRide> {
        const LOOKS: u32 = 40;
        const BETWEEN_LOOKS: Duration = Duration::from_secs(15);
        for _ in 0..LOOKS {
            if ride.state != RideState::Requested {
                return Some(ride);
            }
            sleep(self.clock.real(BETWEEN_LOOKS).max(AT_LEAST_BETWEEN_CALLS)).await;
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
        let ride = Ride {
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

    /// Cancels the ride. If that fails the rider rides after all.
    async fn give_up(&self, driver: Uuid, ride: Uuid) {
        if self.noted(self.services.cancel(ride).await).await.is_some() {
            self.send(CommandOutcome::Cancelled { driver, ride }).await;
        }
    }

    async fn progress(&self, driver: Uuid, ride: Uuid, status: DriverStatus, position: Position) {
        let set = || self.set_driver(driver, status, position);
        let outcome = match insistently(set).await {
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

    /// The answer, or `None` with the failure counted.
    async fn noted<T>(&self, answer: Result<T, ServiceFailure>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(failure) => {
                self.send(CommandOutcome::Failed(failure.kind())).await;
                None
            }
        }
    }

    /// A city that listens no longer has ended; its commands end quietly.
    async fn send(&self, outcome: CommandOutcome) {
        let _ = self.outcome.send(outcome).await;
    }
}

/// Calls again while the service is away or overrun, with growing pauses, but not for ever.
pub(crate) async fn insistently<Call>(call: impl Fn() -> Call) -> Result<(), ServiceFailure>
where
    Call: Future<Output = Result<(), ServiceFailure>>,
{
    const ATTEMPTS: u32 = 5;
    let mut pause = AT_LEAST_BETWEEN_CALLS;
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(failure) if failure.is_uncertain() => sleep(pause).await,
            outcome => return outcome,
        }
        pause *= 2;
    }
    call().await
}

/// Makes a driver idle from whatever status the service has it in: one that is on a ride finishes the ride here.
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

/// Sends a driver home, off a ride if need be: its rider, not picked up yet, is told so by a cancellation.
pub(crate) async fn retire(
    services: &Services,
    driver: Uuid,
    awaited_by: Option<Uuid>,
    position: Position,
) -> Result<(), ServiceFailure> {
    if let Some(ride) = awaited_by {
        // Whether or not this works, what follows gets the driver off the road.
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

/// Pause before a service that may be in trouble is asked again, in real time.
const AT_LEAST_BETWEEN_CALLS: Duration = Duration::from_millis(100);
