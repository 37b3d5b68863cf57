//! How a city begins: it reads the clock, opens its books, registers its fleet, and looks whether the services see what
//! it sees.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, ensure};
use marketplace::{DemandProfile, ServiceArea, Zone};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::CityConfig;
use super::draws::Draws;
use super::driver::Driver;
use super::errands::{self, News, Runner};
use super::replay::Replay;
use super::rider::TripSampler;
use super::services::Services;
use super::simulation::Simulation;
use crate::books::Books;
use crate::client::Client;
use crate::clock::MarketClock;

/// A city that is ready to live.
pub(super) struct Founded {
    pub(super) books: Arc<Books>,
    pub(super) trips: TripSampler,
    pub(super) clock: MarketClock,
    pub(super) simulation: Simulation,
    pub(super) runner: Runner,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) warnings: Vec<String>,
}

/// Does everything that comes before the first rider.
pub(super) async fn found(mut config: CityConfig, client: Client) -> anyhow::Result<Founded> {
    let clock = MarketClock::read(&client, &config.target).await?;
    let services = Services::new(client, config.target);
    let area = Arc::new(ServiceArea::new(config.service_area));
    check_area(&services, &area).await?;
    config
        .pickups
        .retain(|pickup| area.zone_of(pickup.position).is_ok());
    let replay = Replay::starting(&config.pickups, clock.now())
        .context("the record holds no pickup inside the service area")?;

    let draws = Draws::new(config.seed);
    let books = open_books(&services, area, config.profile).await?;
    let places = replay.places();
    let fleet: Vec<Driver> = (0..config.fleet as u64)
        .map(|number| Driver::starting(number, draws, &places, clock.now()))
        .collect();
    let mut simulation = Simulation::new(
        draws,
        Arc::clone(&books),
        replay,
        fleet,
        &clock,
        clock.now(),
    );
    for crowd in &config.crowds {
        simulation.expect_crowd(crowd);
    }
    register(simulation.fleet(), &services).await?;
    simulation.book_fleet();
    let warnings = disagreements(&services, &books).await?;

    // Room for all answers of a busy moment; an errand whose news do not fit waits, and nothing is lost.
    let (tell, news) = mpsc::channel(1_024);
    Ok(Founded {
        trips: TripSampler::new(draws, &places),
        runner: Runner {
            services,
            clock,
            news: tell,
        },
        books,
        clock,
        simulation,
        news,
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

/// Opens the books as of when ride-management began to count, with what it has counted: another city may have lived on
/// these services before. No rider of this one has asked for a ride yet, so nothing is counted twice, also not in the
/// window that is open.
async fn open_books(
    services: &Services,
    area: Arc<ServiceArea>,
    profile: DemandProfile,
) -> anyhow::Result<Arc<Books>> {
    let zone = *area.zones().first().context("the service area is empty")?;
    let observed_since = services.demand(zone).await?.observed_since;
    let books = Books::new(area, Arc::new(profile), observed_since);
    for zone in books.area().zones() {
        for window in services.demand(*zone).await?.windows {
            books.requests_counted(*zone, window.start, window.requests);
        }
    }
    Ok(Arc::new(books))
}

/// Brings all drivers online.
async fn register(fleet: &[Driver], services: &Services) -> anyhow::Result<()> {
    let mut registrations = JoinSet::new();
    for driver in fleet {
        let services = services.clone();
        let (id, position) = (driver.id, driver.leg.position(driver.leg.arrives_at));
        // A whole fleet at once is a crowd, so a driver who is not let in knocks again.
        registrations.spawn(async move {
            let register = || errands::bring_to_idle(&services, id, position);
            errands::insistently(register).await
        });
    }
    while let Some(registered) = registrations.join_next().await {
        registered?.context("cannot bring the fleet online")?;
    }
    Ok(())
}

/// Where the services see another market than the books, although nothing has happened yet. The drivers of a city that
/// was killed are facts that this one cannot know, and so is whoever else requests rides meanwhile.
async fn disagreements(services: &Services, books: &Books) -> anyhow::Result<Vec<String>> {
    let mut supply_differs = 0;
    let mut demand_differs = 0;
    for zone in books.area().zones() {
        let (supply, demand) = tokio::try_join!(services.supply(*zone), services.demand(*zone))?;
        supply_differs += usize::from(differ(supply.supply, books.supply(*zone, supply.as_of)));
        demand_differs += usize::from(differ(demand.demand, books.demand(*zone, demand.as_of)));
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
