//! The city of a comparison: the one that lives on the services already, or one that the comparison
//! starts. A comparison sees no difference.
//!
//! ```text
//! started: oracle = the ground truth in this process
//! joined:  oracle = the last answer of GET /v1/truth, asked for every 20 ms
//! ```

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http::StatusCode;
use marketplace::{Multiplier, ServiceArea, Zone};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::city::{City, CityOutcome};
use crate::client::Client;
use crate::counters::CityProgress;
use crate::crowd::Crowd;
use crate::market_truth::{CrowdRequest, MarketTruth};
use crate::random::RandomStreams;
use crate::rider::TripSampler;
use crate::server::{self, CityAnswer, CityServer};
use crate::state::CityConfig;

/// The right multiplier of a zone now; `None` outside the service area, or if the city is silent.
type RightMultiplier = Arc<dyn Fn(Zone) -> Option<Multiplier> + Send + Sync>;

/// A living city, in this process or in another one.
#[derive(Debug)]
pub struct LiveCity {
    zones: Vec<Zone>,
    trips: TripSampler,
    fleet: usize,
    home: Home,
}

#[derive(Debug)]
enum Home {
    /// In this process; other cities find it at its server, if it has one.
    Started(Box<City>, Option<CityServer>),
    /// In another process.
    Joined(Joined),
}

#[derive(Debug)]
struct Joined {
    latest: Arc<Mutex<Latest>>,
    poll: JoinHandle<()>,
}

/// The last answer of the joined city.
#[derive(Debug)]
struct Latest {
    received_at: Instant,
    multipliers: HashMap<Zone, Multiplier>,
    progress: CityProgress,
    /// All reasons since the city was joined.
    distrust: BTreeSet<String>,
}

impl LiveCity {
    /// Joins the city at `url`, with the crowds of the configuration. If there is none, starts the
    /// configured one, which others then find at `url`.
    ///
    /// # Errors
    /// If a city lives there and does not answer as it should, or if none lives there and none can
    /// start.
    pub async fn join_or_start(
        config: CityConfig,
        client: Client,
        url: Option<&str>,
    ) -> anyhow::Result<Self> {
        let area = ServiceArea::new(config.service_area);
        if let Some(url) = url
            && let Some(truth) = living(url, &client).await?
        {
            return Self::join(&config, &area, client, url, *truth).await;
        }
        Self::start(config, &area, client, url).await
    }

    async fn start(
        config: CityConfig,
        area: &ServiceArea,
        client: Client,
        url: Option<&str>,
    ) -> anyhow::Result<Self> {
        // Where there is no free address, the city lives without a server.
        let server = match url {
            Some(url) => CityServer::claim(url, None, &client).await.ok(),
            None => None,
        };
        let fleet = config.fleet;
        let city = City::start(config, client).await?;
        if let Some(server) = &server {
            server.serve(city.state());
        }
        Ok(Self {
            zones: area.zones().to_vec(),
            trips: city.trips(),
            fleet,
            home: Home::Started(Box::new(city), server),
        })
    }

    async fn join(
        config: &CityConfig,
        area: &ServiceArea,
        client: Client,
        url: &str,
        truth: MarketTruth,
    ) -> anyhow::Result<Self> {
        let theirs: BTreeSet<Zone> = truth.zones.iter().map(|zone| zone.zone).collect();
        let ours: BTreeSet<Zone> = area.zones().iter().copied().collect();
        ensure!(
            theirs == ours,
            "the city at {url} has another service area; give both the same SERVICE_AREA"
        );
        for crowd in &config.crowds {
            add_crowd(crowd, url, &client).await?;
        }
        let places: Vec<_> = config
            .pickups
            .iter()
            .map(|pickup| pickup.position)
            .filter(|position| area.zone_of(*position).is_ok())
            .collect();
        ensure!(
            !places.is_empty(),
            "the record holds no pickup inside the service area"
        );
        let (zones, fleet) = (area.zones().to_vec(), truth.fleet);
        let latest = Arc::new(Mutex::new(Latest::of(truth, BTreeSet::new())));
        let poll = tokio::spawn(poll(url.to_owned(), client, Arc::clone(&latest)));
        Ok(Self {
            zones,
            trips: TripSampler::new(RandomStreams::new(config.seed), &places),
            fleet,
            home: Home::Joined(Joined { latest, poll }),
        })
    }

    /// Whether the city lived before this comparison, and goes on living after it.
    pub const fn is_joined(&self) -> bool {
        matches!(self.home, Home::Joined(_))
    }

    /// The oracle.
    pub fn oracle(&self) -> RightMultiplier {
        match &self.home {
            Home::Started(city, _) => {
                let (truth, clock) = (city.ground_truth(), city.clock());
                Arc::new(move |zone| truth.multiplier(zone, clock.now()))
            }
            Home::Joined(joined) => {
                let latest = Arc::clone(&joined.latest);
                Arc::new(move |zone| lock(&latest).multiplier(zone))
            }
        }
    }

    /// The zones of the service area.
    pub fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Trips to request quotes for.
    pub fn trips(&self) -> TripSampler {
        self.trips.clone()
    }

    /// The number of drivers.
    pub const fn fleet(&self) -> usize {
        self.fleet
    }

    /// The counts so far.
    pub fn progress(&self) -> CityProgress {
        match &self.home {
            Home::Started(city, _) => city.progress(),
            Home::Joined(joined) => lock(&joined.latest).progress.clone(),
        }
    }

    /// Why the oracle cannot be trusted, at any time until now; empty if it can.
    pub fn distrust(&self) -> Vec<String> {
        match &self.home {
            Home::Started(city, _) => city.distrust(),
            Home::Joined(joined) => lock(&joined.latest).distrust(),
        }
    }

    /// Ends a city that this process started; leaves another one alone.
    pub async fn stop(self) -> CityOutcome {
        match self.home {
            Home::Started(city, _server) => city.stop().await,
            Home::Joined(joined) => {
                joined.poll.abort();
                let latest = lock(&joined.latest);
                CityOutcome {
                    progress: latest.progress.clone(),
                    drivers_left_behind: 0,
                    warnings: latest.distrust(),
                }
            }
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.poll.abort();
    }
}

/// The city at this URL, if there is one; waits for one that is starting.
async fn living(url: &str, client: &Client) -> anyhow::Result<Option<Box<MarketTruth>>> {
    const PATIENCE: Duration = Duration::from_secs(15);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match server::find(url, client).await {
            None => return Ok(None),
            Some(CityAnswer::Truth(truth)) => return Ok(Some(truth)),
            Some(CityAnswer::Starting) if Instant::now() >= deadline => {
                bail!("the city at {url} is still starting after {PATIENCE:?}");
            }
            Some(CityAnswer::Starting) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn add_crowd(crowd: &Crowd, url: &str, client: &Client) -> anyhow::Result<()> {
    let url = format!("{url}/v1/crowds");
    let answer = client.post(&url, &CrowdRequest::from(crowd)).await;
    let answer = answer.with_context(|| url.clone())?;
    ensure!(
        answer.status == StatusCode::ACCEPTED,
        "{url} refuses a crowd: {}",
        answer.excerpt()
    );
    Ok(())
}

/// Asks for the truth until it is aborted. An answer that does not come leaves the last one.
async fn poll(url: String, client: Client, latest: Arc<Mutex<Latest>>) {
    const PERIOD: Duration = Duration::from_millis(20);
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(CityAnswer::Truth(truth)) = server::find(&url, &client).await {
            let mut latest = lock(&latest);
            let known = std::mem::take(&mut latest.distrust);
            *latest = Latest::of(*truth, known);
        }
    }
}

impl Latest {
    fn of(truth: MarketTruth, mut distrust: BTreeSet<String>) -> Self {
        distrust.extend(truth.distrust);
        let multipliers = truth.zones.iter();
        Self {
            received_at: Instant::now(),
            multipliers: multipliers
                .map(|zone| (zone.zone, zone.surge_multiplier))
                .collect(),
            progress: truth.progress,
            distrust,
        }
    }

    fn multiplier(&self, zone: Zone) -> Option<Multiplier> {
        let is_current = self.received_at.elapsed() < SILENT_AFTER;
        self.multipliers.get(&zone).copied().filter(|_| is_current)
    }

    fn distrust(&self) -> Vec<String> {
        let is_current = self.received_at.elapsed() < SILENT_AFTER;
        let silent = (!is_current).then(|| "the city no longer answers".to_owned());
        self.distrust.iter().cloned().chain(silent).collect()
    }
}

/// A truth of this age says nothing about the market now.
const SILENT_AFTER: Duration = Duration::from_millis(500);

fn lock(latest: &Mutex<Latest>) -> MutexGuard<'_, Latest> {
    latest.lock().unwrap_or_else(PoisonError::into_inner)
}
