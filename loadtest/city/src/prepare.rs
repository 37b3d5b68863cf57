//! Prepares a city: everything that comes before its first rider.
//!
//! **A warm start.** At 17:00 on a Friday most drivers are busy. A fleet of which everybody is idle
//! would price the first minutes without surge, and a short measurement would find that old data
//! does no harm. So the city first simulates the 90 minutes before now, offline, in a fraction of a
//! second, and its drivers begin where that simulation leaves them:
//!
//! ```text
//! -90 min .............. now .................. now + 5 min ........... later
//!  simulation, offline    idle drivers, and those who drop off
//!                         within the forecast window, go online        the other busy drivers go
//!                                                                      online 5 min before dropoff
//! ```
//!
//! No service knows the trips that began before the city did: a ride needs a request, and requests
//! of a whole hour at one moment would be a surge of their own. A service that knew such a trip
//! would predict its driver as supply from one forecast window (5 min) before the dropoff. So the
//! driver goes online at that moment, at the place of the dropoff: supply is the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, ensure};
use marketplace::{MarketTime, ServiceArea, Zone};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::clock::CityClock;
use crate::counterfactual::OfflineSimulation;
use crate::crowd::Crowd;
use crate::driver::{Activity, Leg, SimulatedDriver};
use crate::executor::{self, CommandOutcome, Executor};
use crate::ground_truth::{FORECAST_WINDOW, GroundTruth};
use crate::random::RandomStreams;
use crate::replay::Replay;
use crate::rider::TripSampler;
use crate::services::Services;
use crate::simulation::Simulation;
use crate::state::{CityConfig, CityState};
use crate::trust;

/// A city that is ready to live.
pub(crate) struct PreparedCity {
    pub(crate) state: CityState,
    pub(crate) simulation: Simulation,
    pub(crate) executor: Executor,
    pub(crate) outcomes: mpsc::Receiver<CommandOutcome>,
    pub(crate) new_crowds: mpsc::UnboundedReceiver<Crowd>,
}

/// Reads the clock, simulates the past, brings the fleet online, and checks whether the services
/// see the same market.
pub(crate) async fn prepare(
    mut config: CityConfig,
    client: Client,
) -> anyhow::Result<PreparedCity> {
    let clock = CityClock::read(&client, &config.target).await?;
    let services = Services::new(client, config.target.clone());
    let area = Arc::new(ServiceArea::new(config.service_area));
    check_area(&services, &area).await?;
    config
        .pickups
        .retain(|pickup| area.zone_of(pickup.position).is_ok());

    let now = clock.now();
    let fleet = warm_fleet(&config, now).context(EMPTY_RECORD)?;
    let replay = Replay::starting(&config.pickups, now).context(EMPTY_RECORD)?;
    let streams = RandomStreams::new(config.seed);
    let trips = TripSampler::new(streams, &replay.places());
    let truth = ground_truth(&services, area, &config).await?;
    let mut simulation = Simulation::new(streams, Arc::clone(&truth), replay, fleet, &clock, now);
    for crowd in &config.crowds {
        simulation.expect_crowd(crowd);
    }
    bring_online(simulation.fleet(), &services, now).await?;
    simulation.record_fleet(now);
    let distrust = trust::at_start(&services, &truth).await?;

    // An outcome that finds the channel full waits, and nothing is lost.
    let (sender, outcomes) = mpsc::channel(1_024);
    let (state, new_crowds) = CityState::new(&config, clock, truth, trips, distrust);
    Ok(PreparedCity {
        state,
        executor: Executor {
            services,
            clock,
            outcomes: sender,
        },
        simulation,
        outcomes,
        new_crowds,
    })
}

const EMPTY_RECORD: &str = "the record holds no pickup inside the service area";

/// Makes sure that both sides mean the same zones.
async fn check_area(services: &Services, area: &ServiceArea) -> anyhow::Result<()> {
    let published = services.zones().await?;
    let ours: BTreeSet<Zone> = area.zones().iter().copied().collect();
    ensure!(
        published == ours,
        "the services price {} zones and the city has {}, not the same ones; give both the same \
         SERVICE_AREA",
        published.len(),
        ours.len()
    );
    Ok(())
}

/// The fleet as the simulation of the past leaves it; `None` if the record is empty.
fn warm_fleet(config: &CityConfig, now: MarketTime) -> Option<Vec<SimulatedDriver>> {
    let (area, profile) = (config.service_area, config.profile.clone());
    let past = OfflineSimulation::new(area, profile, &config.pickups, config.fleet, now..now)?;
    let drivers = past.population(config.seed).fleet_at_end();
    Some(
        drivers
            .into_iter()
            .map(|driver| warm(driver, now))
            .collect(),
    )
}

/// The driver, whom no service knows yet. One on a trip is idle at its end, if that is within the
/// forecast window.
fn warm(driver: SimulatedDriver, now: MarketTime) -> SimulatedDriver {
    let Some(leg) = driver.leg_to_dropoff(now) else {
        return driver;
    };
    let activity = if leg.arrives_at <= now + FORECAST_WINDOW {
        Activity::Idle
    } else {
        Activity::OnEarlierTrip
    };
    let leg = match activity {
        Activity::Idle => Leg::standing(leg.to, now),
        _ => leg,
    };
    SimulatedDriver {
        activity,
        leg,
        ..driver
    }
}

/// The ground truth as of when ride-management began to count, with its counts: another city may
/// have used these services before. No rider of this city has requested a ride yet, so nothing is
/// counted twice, not even in the current window.
async fn ground_truth(
    services: &Services,
    area: Arc<ServiceArea>,
    config: &CityConfig,
) -> anyhow::Result<Arc<GroundTruth>> {
    let zone = *area.zones().first().context("the service area is empty")?;
    let observed_since = services.demand(zone).await?.observed_since;
    let profile = Arc::new(config.profile.clone());
    let truth = GroundTruth::new(area, profile, observed_since);
    for zone in truth.area().zones() {
        for window in services.demand(*zone).await?.windows {
            truth.requests_counted(*zone, window.start, window.requests);
        }
    }
    Ok(Arc::new(truth))
}

/// Brings all idle drivers online.
async fn bring_online(
    fleet: &[SimulatedDriver],
    services: &Services,
    now: MarketTime,
) -> anyhow::Result<()> {
    let mut registrations = JoinSet::new();
    for driver in fleet.iter().filter(|driver| driver.is_idle()) {
        let services = services.clone();
        let (id, position) = (driver.id, driver.leg.position(now));
        // A whole fleet at once is a crowd, so a driver that the service rejects tries again.
        registrations.spawn(async move {
            let register = || executor::bring_to_idle(&services, id, position);
            executor::with_retries(register).await
        });
    }
    while let Some(registered) = registrations.join_next().await {
        registered?.context("cannot bring the fleet online")?;
    }
    Ok(())
}
