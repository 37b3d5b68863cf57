//! How a city begins: it reads the clock, opens its truth, registers its fleet, and looks whether the services see what
//! it sees.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, ensure};
use marketplace::{DemandProfile, ServiceArea, Zone};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::CityConfig;
use super::driver::Driver;
use super::executor::{self, CommandOutcome, Executor};
use super::random::RandomStreams;
use super::replay::Replay;
use super::rider::TripSampler;
use super::services::Services;
use super::simulation::Simulation;
use crate::client::Client;
use crate::clock::MarketClock;
use crate::ground_truth::GroundTruth;

/// A city that is ready to live.
pub(super) struct PreparedCity {
    pub(super) truth: Arc<GroundTruth>,
    pub(super) trips: TripSampler,
    pub(super) clock: MarketClock,
    pub(super) simulation: Simulation,
    pub(super) executor: Executor,
    pub(super) outcome: mpsc::Receiver<CommandOutcome>,
    pub(super) warnings: Vec<String>,
}

/// Does everything that comes before the first rider.
pub(super) async fn prepare(
    mut config: CityConfig,
    client: Client,
) -> anyhow::Result<PreparedCity> {
    let clock = MarketClock::read(&client, &config.target).await?;
    let services = Services::new(client, config.target);
    let area = Arc::new(ServiceArea::new(config.service_area));
    check_area(&services, &area).await?;
    config
        .pickups
        .retain(|pickup| area.zone_of(pickup.position).is_ok());
    let replay = Replay::starting(&config.pickups, clock.now())
        .context("the record holds no pickup inside the service area")?;

    let streams = RandomStreams::new(config.seed);
    let truth = open_ground_truth(&services, area, config.profile).await?;
    let places = replay.places();
    let fleet: Vec<Driver> = (0..config.fleet as u64)
        .map(|number| Driver::starting(number, streams, &places, clock.now()))
        .collect();
    let mut simulation = Simulation::new(
        streams,
        Arc::clone(&truth),
        replay,
        fleet,
        &clock,
        clock.now(),
    );
    for crowd in &config.crowds {
        simulation.expect_crowd(crowd);
    }
    register(simulation.fleet(), &services).await?;
    simulation.record_fleet();
    let warnings = disagreements(&services, &truth).await?;

    // Room for all answers of a busy moment; an command whose outcome do not fit waits, and nothing is lost.
    let (sender, outcome) = mpsc::channel(1_024);
    Ok(PreparedCity {
        trips: TripSampler::new(streams, &places),
        executor: Executor {
            services,
            clock,
            outcome: sender,
        },
        truth,
        clock,
        simulation,
        outcome,
        warnings,
    })
}

/// Makes sure that both sides mean the same zones.
async fn check_area(services: &Services, area: &ServiceArea) -> anyhow::Result<()> {
    let published: BTreeSet<Zone> = services.surge().await?.into_keys().collect();
    let ours: BTreeSet<Zone> = area.zones().iter().copied().collect();
    ensure!(
        published == ours,
        "the services price {} zones and the city has {}, not the same ones; give both the same SERVICE_AREA",
        published.len(),
        ours.len()
    );
    Ok(())
}

/// Opens the truth as of when ride-management began to count, with what it has counted: another city may have lived on
/// these services before. No rider of this one has asked for a ride yet, so nothing is counted twice, also not in the
/// window that is open.
async fn open_ground_truth(
    services: &Services,
    area: Arc<ServiceArea>,
    profile: DemandProfile,
) -> anyhow::Result<Arc<GroundTruth>> {
    let zone = *area.zones().first().context("the service area is empty")?;
    let observed_since = services.demand(zone).await?.observed_since;
    let truth = GroundTruth::new(area, Arc::new(profile), observed_since);
    for zone in truth.area().zones() {
        for window in services.demand(*zone).await?.windows {
            truth.requests_counted(*zone, window.start, window.requests);
        }
    }
    Ok(Arc::new(truth))
}

/// Brings all drivers online.
async fn register(fleet: &[Driver], services: &Services) -> anyhow::Result<()> {
    let mut registrations = JoinSet::new();
    for driver in fleet {
        let services = services.clone();
        let (id, position) = (driver.id, driver.leg.position(driver.leg.arrives_at));
        // A whole fleet at once is a crowd, so a driver who is not let in knocks again.
        registrations.spawn(async move {
            let register = || executor::bring_to_idle(&services, id, position);
            executor::insistently(register).await
        });
    }
    while let Some(registered) = registrations.join_next().await {
        registered?.context("cannot bring the fleet online")?;
    }
    Ok(())
}

/// Where the services see another market than the truth, although nothing has happened yet. The drivers of a city that
/// was killed are facts that this one cannot know, and so is whoever else requests rides meanwhile.
async fn disagreements(services: &Services, truth: &GroundTruth) -> anyhow::Result<Vec<String>> {
    let mut supply_differs = 0;
    let mut demand_differs = 0;
    for zone in truth.area().zones() {
        let (supply, demand) = tokio::try_join!(services.supply(*zone), services.demand(*zone))?;
        supply_differs += usize::from(differ(supply.supply, truth.supply(*zone, supply.as_of)));
        demand_differs += usize::from(differ(demand.demand, truth.demand(*zone, demand.as_of)));
    }
    let mut warnings = Vec::new();
    if supply_differs > 0 {
        warnings.push(format!(
            "driver-management knows drivers in {supply_differs} zones who are not of this city: the oracle misses them"
        ));
    }
    if demand_differs > 0 {
        warnings.push(format!(
            "ride-management expects other demand in {demand_differs} zones: somebody else is requesting rides, or it \
             uses another demand profile or forecast window; the oracle is off by that"
        ));
    }
    Ok(warnings)
}

/// Whether two levels differ by more than what never shows in a price.
fn differ(one: f64, other: f64) -> bool {
    const UNNOTICEABLE: f64 = 0.01;
    (one - other).abs() > UNNOTICEABLE * (1.0 + one.abs())
}
