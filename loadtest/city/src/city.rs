//! The living city: one task in which things happen at their market time, and one task for each
//! command in flight.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::clock::CityClock;
use crate::counters::CityProgress;
use crate::crowd::Crowd;
use crate::driver::Activity;
use crate::executor::{self, CommandOutcome, Executor};
use crate::ground_truth::GroundTruth;
use crate::prepare;
use crate::rider::TripSampler;
use crate::simulation::Simulation;
use crate::state::{CityConfig, CityState};
use crate::trust;

/// A city that runs until somebody stops it. Dropping it stops it too, but leaves its drivers
/// online.
#[derive(Debug)]
pub struct City {
    state: Arc<CityState>,
    stop: CancellationToken,
    /// Returns the number of drivers that could not be taken offline.
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
    /// Why its ground truth cannot be trusted.
    pub warnings: Vec<String>,
}

impl City {
    /// Brings the fleet online and starts the city, in tasks of its own.
    ///
    /// # Errors
    /// If a service does not answer, the clocks or service areas differ, or the record is empty.
    pub async fn start(config: CityConfig, client: Client) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let prepared = prepare::prepare(config, client).await?;
        let state = Arc::new(prepared.state);
        let services = prepared.executor.services.clone();
        tokio::spawn(trust::watch(Arc::clone(&state), services, stop.clone()));
        let city_loop = CityLoop {
            simulation: prepared.simulation,
            executor: prepared.executor,
            outcomes: prepared.outcomes,
            new_crowds: prepared.new_crowds,
            commands: JoinSet::new(),
            state: Arc::clone(&state),
        };
        Ok(Self {
            state,
            city_loop: tokio::spawn(city_loop.run(stop.clone())),
            stop,
        })
    }

    pub(crate) fn state(&self) -> Arc<CityState> {
        Arc::clone(&self.state)
    }

    /// The ground truth of the city: the oracle.
    pub fn ground_truth(&self) -> Arc<GroundTruth> {
        Arc::clone(&self.state.truth)
    }

    /// Trips to request quotes for.
    pub fn trips(&self) -> TripSampler {
        self.state.trips.clone()
    }

    /// The market clock that the city runs on.
    pub fn clock(&self) -> CityClock {
        self.state.clock
    }

    /// The counts so far.
    pub fn progress(&self) -> CityProgress {
        self.state.progress()
    }

    /// Why its ground truth cannot be trusted, at any time since the start; empty if it can.
    pub fn distrust(&self) -> Vec<String> {
        self.state.distrust_ever()
    }

    /// Ends the city and takes its drivers offline, within a bounded time.
    pub async fn stop(mut self) -> CityOutcome {
        self.stop.cancel();
        let left_behind = (&mut self.city_loop).await;
        CityOutcome {
            progress: self.progress(),
            drivers_left_behind: left_behind.unwrap_or(usize::MAX),
            warnings: self.distrust(),
        }
    }
}

impl Drop for City {
    fn drop(&mut self) {
        self.stop.cancel();
        self.city_loop.abort();
    }
}

/// The task in which things happen, and the tasks of its commands.
struct CityLoop {
    simulation: Simulation,
    executor: Executor,
    outcomes: mpsc::Receiver<CommandOutcome>,
    new_crowds: mpsc::UnboundedReceiver<Crowd>,
    commands: JoinSet<()>,
    state: Arc<CityState>,
}

impl CityLoop {
    async fn run(mut self, stop: CancellationToken) -> usize {
        while !stop.is_cancelled() {
            for command in self.simulation.advance(self.executor.clock.now()) {
                self.commands.spawn(self.executor.clone().run(command));
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(self.until_next()) => {}
                Some(outcome) = self.outcomes.recv() => self.handle(outcome),
                Some(crowd) = self.new_crowds.recv() => self.simulation.expect_crowd(&crowd),
                Some(_) = self.commands.join_next() => {}
            }
        }
        self.wind_down().await;
        self.retire_fleet().await
    }

    fn handle(&mut self, outcome: CommandOutcome) {
        let command = self.simulation.handle(outcome, self.executor.clock.now());
        if let Some(command) = command {
            self.commands.spawn(self.executor.clone().run(command));
        }
        self.state.set_counters(self.simulation.counters().clone());
    }

    fn until_next(&self) -> Duration {
        const LONGEST_NAP: Duration = Duration::from_secs(1);
        let next_at = self.simulation.next_at();
        next_at.map_or(LONGEST_NAP, |at| {
            self.executor.clock.until(at).min(LONGEST_NAP)
        })
    }

    /// Starts no new command and waits for those in flight: an answer that nobody reads may be a
    /// driver that was sent to a rider.
    async fn wind_down(&mut self) {
        const MOMENT: Duration = Duration::from_secs(3);
        let ended = async {
            while !self.commands.is_empty() {
                tokio::select! {
                    Some(outcome) = self.outcomes.recv() => {
                        self.simulation.handle(outcome, self.executor.clock.now());
                    }
                    Some(_) = self.commands.join_next() => {}
                }
            }
            while let Ok(outcome) = self.outcomes.try_recv() {
                self.simulation.handle(outcome, self.executor.clock.now());
            }
        };
        let _ = timeout(MOMENT, ended).await;
        self.state.set_counters(self.simulation.counters().clone());
    }

    /// Takes all drivers offline and returns how many stayed.
    async fn retire_fleet(&self) -> usize {
        const DEADLINE: Duration = Duration::from_secs(10);
        let now = self.executor.clock.now();
        let mut retirements = JoinSet::new();
        for driver in self.simulation.fleet() {
            let services = self.executor.services.clone();
            let (id, position) = (driver.id, driver.leg.position(now));
            let waiting_ride = match &driver.activity {
                Activity::EnRoute(ride) => Some(ride.id),
                Activity::OnEarlierTrip => continue,
                _ => None,
            };
            retirements.spawn(async move {
                let retire = || executor::retire(&services, id, waiting_ride, position);
                executor::with_retries(retire).await.is_ok()
            });
        }
        let mut left_behind = retirements.len();
        let all_offline = async {
            while let Some(is_offline) = retirements.join_next().await {
                left_behind -= usize::from(is_offline.unwrap_or(false));
            }
        };
        let _ = timeout(DEADLINE, all_offline).await;
        left_behind
    }
}
