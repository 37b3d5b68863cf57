//! A city on the wire: real pickups become riders, a seeded fleet of drivers serves them, all through the public APIs.
//!
//! The city runs on the market clock of the services and keeps its own [`GroundTruth`], which make it the oracle of a
//! comparison. Decisions depend on the seed alone; what drivers and riders *meet* depends on the services, as it should.
//! `simulation` says what happens, `commands` does it on the wire, and this file brings the two together.
//!
//! What is known of New York: trip lengths and durations from taxi trips, ten miles an hour on the way to a rider, the
//! elasticity of riders. What is assumed: their patience, that 15 % of the idle drivers a minute follow a dearer
//! neighbour zone, and that nobody joins or leaves the fleet.

pub mod client;
pub mod clock;
mod command;
mod counterfactual;
mod counters;
mod crowd;
mod driver;
mod event_queue;
mod executor;
pub mod ground_truth;
pub mod interrupt;
pub mod pickups;
mod prepare;
mod random;
mod replay;
mod rider;
mod services;
mod simulation;
pub mod target;
pub mod wall_clock;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use marketplace::backtest::Pickup;
use marketplace::{Bounds, DemandProfile};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use client::Client;
pub use command::{Args, ReplayArgs, run};
pub use counterfactual::{OfflineSimulation, Population, Pricing, Score};
pub use counters::CityProgress;
pub use crowd::Crowd;
pub use rider::{TripRequest, TripSampler};
pub use target::{Target, TargetArgs};

use crate::clock::MarketClock;
use crate::ground_truth::GroundTruth;
use counters::Counters;
use driver::Activity;
use executor::{CommandOutcome, Executor};
use simulation::Simulation;

/// Drivers unless told otherwise. With 210 the bundled evening is scarce: from 16:00 to midnight 47 % of quotes are above
/// 1.0 and the mean multiplier is 1.16. With 240 it is 28 % and 1.08.
pub const DEFAULT_FLEET: usize = 210;

/// What a city is made of.
#[derive(Debug, Clone)]
pub struct CityConfig {
    /// The services it lives on.
    pub target: Target,
    /// Decides who the drivers and riders are and what they want.
    pub seed: u64,
    /// How many drivers there are.
    pub fleet: usize,
    /// The demand profile of ride-management: the truth must forecast from the same.
    pub profile: DemandProfile,
    /// The record to replay. Pickups outside the service area are left out.
    pub pickups: Vec<Pickup>,
    /// The service area of the services.
    pub service_area: Bounds,
    /// Riders who come on top of the record.
    pub crowds: Vec<Crowd>,
}

/// A city that lives until it is stopped. Dropping it stops it too, but leaves its drivers where they are.
#[derive(Debug)]
pub struct City {
    truth: Arc<GroundTruth>,
    trips: TripSampler,
    clock: MarketClock,
    counters: Arc<Mutex<Counters>>,
    warnings: Vec<String>,
    stop: CancellationToken,
    /// Ends with the number of drivers that could not be sent home.
    city_loop: JoinHandle<usize>,
}

/// How a city ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CityOutcome {
    /// The last count.
    #[serde(flatten)]
    pub progress: CityProgress,
    /// Drivers that could not be taken offline and may still count as supply.
    pub drivers_left_behind: usize,
    /// What makes its truth doubtful.
    pub warnings: Vec<String>,
}

impl City {
    /// Registers the fleet and sets the city going. It then lives in tasks of its own.
    ///
    /// # Errors
    /// If a service does not answer, the clocks or service areas differ, or there is nothing to replay.
    pub async fn start(config: CityConfig, client: Client) -> anyhow::Result<Self> {
        let prepared = prepare::prepare(config, client).await?;
        let stop = CancellationToken::new();
        let counters = Arc::new(Mutex::new(Counters::default()));
        let city_loop = CityLoop {
            simulation: prepared.simulation,
            executor: prepared.executor,
            counters: Arc::clone(&counters),
        };
        Ok(Self {
            truth: prepared.truth,
            trips: prepared.trips,
            clock: prepared.clock,
            counters,
            warnings: prepared.warnings,
            city_loop: tokio::spawn(city_loop.run(prepared.outcome, stop.clone())),
            stop,
        })
    }

    /// What the city knows: the oracle.
    pub fn ground_truth(&self) -> Arc<GroundTruth> {
        Arc::clone(&self.truth)
    }

    /// Trips to ask quotes for.
    pub fn trips(&self) -> TripSampler {
        self.trips.clone()
    }

    /// The market clock it runs on.
    pub const fn clock(&self) -> MarketClock {
        self.clock
    }

    /// What happened so far.
    pub fn progress(&self) -> CityProgress {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.progress(self.clock.now())
    }

    /// What makes its truth doubtful, each as a sentence; none if the services agreed with them at the start.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Ends the city and takes its drivers offline, within a bounded time.
    pub async fn stop(mut self) -> CityOutcome {
        self.stop.cancel();
        let left_behind = (&mut self.city_loop).await;
        CityOutcome {
            progress: self.progress(),
            drivers_left_behind: left_behind.unwrap_or(usize::MAX),
            warnings: std::mem::take(&mut self.warnings),
        }
    }
}

impl Drop for City {
    fn drop(&mut self) {
        self.stop.cancel();
        self.city_loop.abort();
    }
}

/// The tasks of a city: one that lets things happen in market time, and one for each command under way.
struct CityLoop {
    simulation: Simulation,
    executor: Executor,
    counters: Arc<Mutex<Counters>>,
}

impl CityLoop {
    async fn run(
        mut self,
        mut outcome: mpsc::Receiver<CommandOutcome>,
        stop: CancellationToken,
    ) -> usize {
        let mut commands = JoinSet::new();
        while !stop.is_cancelled() {
            self.advance(&mut commands);
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(self.until_next()) => {}
                Some(outcome) = outcome.recv() => self.handle(outcome, &mut commands),
                Some(_) = commands.join_next() => {}
            }
        }
        self.wind_down(outcome, commands).await;
        self.retire_fleet().await
    }

    fn advance(&mut self, commands: &mut JoinSet<()>) {
        for command in self.simulation.advance(self.executor.clock.now()) {
            commands.spawn(self.executor.clone().run(command));
        }
    }

    fn handle(&mut self, outcome: CommandOutcome, commands: &mut JoinSet<()>) {
        let command = self.simulation.handle(outcome, self.executor.clock.now());
        if let Some(command) = command {
            commands.spawn(self.executor.clone().run(command));
        }
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) =
            self.simulation.counters().clone();
    }

    fn until_next(&self) -> Duration {
        const LONGEST_NAP: Duration = Duration::from_secs(1);
        let next_at = self.simulation.next_at();
        next_at.map_or(LONGEST_NAP, |at| {
            self.executor.clock.until(at).min(LONGEST_NAP)
        })
    }

    /// Starts nothing new, and gives what is under way a moment to end: an answer that is never read may be a driver sent.
    async fn wind_down(
        &mut self,
        mut outcome: mpsc::Receiver<CommandOutcome>,
        mut commands: JoinSet<()>,
    ) {
        const MOMENT: Duration = Duration::from_secs(3);
        let ended = async {
            while !commands.is_empty() {
                tokio::select! {
                    Some(outcome) = outcome.recv() => {
                        self.simulation.handle(outcome, self.executor.clock.now());
                    }
                    Some(_) = commands.join_next() => {}
                }
            }
            while let Ok(outcome) = outcome.try_recv() {
                self.simulation.handle(outcome, self.executor.clock.now());
            }
        };
        // What has not ended by then is dropped with its set.
        let _ = timeout(MOMENT, ended).await;
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) =
            self.simulation.counters().clone();
    }

    /// Sends all drivers home and returns how many did not go.
    async fn retire_fleet(&self) -> usize {
        const DEADLINE: Duration = Duration::from_secs(10);
        let now = self.executor.clock.now();
        let mut retirements = JoinSet::new();
        for driver in self.simulation.fleet() {
            let services = self.executor.services.clone();
            let (id, position) = (driver.id, driver.leg.position(now));
            let awaited_by = awaited_by(&driver.activity);
            retirements.spawn(async move {
                let retire = || executor::retire(&services, id, awaited_by, position);
                executor::insistently(retire).await.is_ok()
            });
        }
        let mut left_behind = self.simulation.fleet().len();
        let all_home = async {
            while let Some(is_home) = retirements.join_next().await {
                left_behind -= usize::from(is_home.unwrap_or(false));
            }
        };
        let _ = timeout(DEADLINE, all_home).await;
        left_behind
    }
}

/// The ride whose rider still waits for the car.
const fn awaited_by(activity: &Activity) -> Option<Uuid> {
    match activity {
        Activity::EnRoute(ride) => Some(ride.id),
        _ => None,
    }
}
