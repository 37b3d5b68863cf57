//! Acknowledged rides, their events and the market survive the SIGKILL of any process. Riders
//! repeat requests that got no answer, as an app does, and that never makes two rides.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use futures::{StreamExt as _, future::try_join_all, stream::FuturesUnordered};
use marketplace::{Bounds, DriverStatus, Position, ServiceArea, Zone};
use platform::nats::{self, NatsTls};
use prost::Message as _;
use surge::Part;
use surge_proto::{DataflowMode, subjects::RIDES, v1::RideEvent};
use uuid::Uuid;

use crate::{
    api::{PublicApi, Ride, crosstown, downtown, grand_central, wall_street},
    support::{Exchange, Market, Outcome, eventually},
};

/// Riders in each round; one of them has an answer when the process dies, the others wait.
const RIDERS: usize = 4;

/// Enough that each rider gets one, although some drivers are in doubt after a lost answer.
const DRIVERS: usize = 12;

/// The states that a completed ride publishes, once each.
const LIFE: [&str; 4] = ["requested", "matched", "picked_up", "completed"];

#[tokio::test]
async fn acknowledged_ride_survives_any_kill() -> Outcome {
    let mut exchange = Exchange::open(Market::REAL_TIME).await?;
    for _ in 0..DRIVERS {
        exchange.api.goes_online(grand_central()).await?;
    }

    let mut rides = Vec::new();
    for part in [
        Part::DriverManagement,
        Part::RideManagement,
        Part::PriceOptimization,
        Part::Nats,
        Part::Postgres,
    ] {
        let acknowledged = killed_while_riders_ask(&mut exchange, part).await;
        let acknowledged = acknowledged.with_context(|| format!("{part} was killed"))?;
        let driven = acknowledged.iter().map(|ride| driven(&exchange.api, ride));
        let driven = try_join_all(driven).await;
        driven.with_context(|| format!("{part} had been killed"))?;
        rides.extend(acknowledged);
    }
    published_exactly_once(&exchange, &rides).await?;
    exchange.close().await
}

#[tokio::test]
async fn restart_rebuilds_supply_and_demand() -> Outcome {
    let mut exchange = Exchange::open(Market::REAL_TIME).await?;
    let untouched = Levels::of(&exchange.api).await?;
    a_busy_moment(&exchange.api).await?;
    for part in Part::SERVICES {
        let before = Levels::of(&exchange.api).await?;
        ensure!(before.are_rebuilt_in(&untouched).is_err());
        exchange.kill(&[part]).await;
        exchange.restart(&[part]).await?;
        let after = eventually("it answers", async || Levels::of(&exchange.api).await).await?;
        let rebuilt = before.are_rebuilt_in(&after);
        rebuilt.with_context(|| format!("{part} was killed"))?;
        after.reach(&exchange.api, DataflowMode::Events).await?;
    }
    exchange.close().await
}

/// Riders request rides, the process dies after the first answer, and restarts. Returns the rides.
async fn killed_while_riders_ask(exchange: &mut Exchange, part: Part) -> anyhow::Result<Vec<Ride>> {
    let api = &exchange.api.clone();
    let quotes = try_join_all((0..RIDERS).map(|_| api.insists_on_quote(downtown()))).await?;
    let mut requests: FuturesUnordered<_> = quotes
        .iter()
        .map(|quote| api.insists_on_ride(quote, downtown()))
        .collect();
    let mut acknowledged = Vec::new();
    while let Some(ride) = requests.next().await {
        acknowledged.push(ride?);
        if acknowledged.len() == 1 {
            exchange.kill(&[part]).await;
            exchange.restart(&[part]).await?;
        }
    }
    Ok(acknowledged)
}

/// Drives an acknowledged ride to its end.
pub(crate) async fn driven(api: &PublicApi, acknowledged: &Ride) -> Outcome {
    let ride_id = acknowledged.ride_id;
    let matched = eventually("the ride has a driver", async || {
        api.ride_in("matched", ride_id).await
    });
    let matched = matched.await?;
    ensure!(matched.rider_id == acknowledged.rider_id, "{matched:?}");
    let driver_id = matched.driver_id.context("matched without a driver")?;

    let trip = downtown();
    reported(api, driver_id, DriverStatus::OnTrip, trip.pickup).await?;
    eventually("the rider is in the car", async || {
        api.ride_in("picked_up", ride_id).await
    })
    .await?;
    // Back at the station at once, so that the next riders find drivers.
    reported(api, driver_id, DriverStatus::Idle, trip.pickup).await?;
    eventually("the ride is completed", async || {
        api.ride_in("completed", ride_id).await
    })
    .await?;
    Ok(())
}

/// Repeats a driver's report until the service answers, as an app does.
async fn reported(
    api: &PublicApi,
    driver_id: Uuid,
    status: DriverStatus,
    position: Position,
) -> Outcome {
    eventually("the driver's report is taken", async || {
        api.report(driver_id, status, position).await
    })
    .await?;
    Ok(())
}

/// Every state of every ride is on the stream, and nothing twice.
pub(crate) async fn published_exactly_once(exchange: &Exchange, rides: &[Ride]) -> Outcome {
    let everything: BTreeSet<(Uuid, &str)> = rides
        .iter()
        .flat_map(|ride| LIFE.map(|state| (ride.ride_id, state)))
        .collect();
    eventually("every state of every ride is published", async || {
        let stream = RideStream::read(&exchange.stack.nats_url()).await?;
        ensure!(
            stream.events.len() >= everything.len(),
            "{}",
            stream.events.len()
        );
        Ok(stream)
    })
    .await?
    .is_exactly(&everything)
}

/// The messages of the stream of ride events.
struct RideStream {
    /// The number of messages for each state of each ride.
    events: BTreeMap<(Uuid, String), usize>,
    message_ids: BTreeSet<String>,
    messages: usize,
}

impl RideStream {
    async fn read(url: &str) -> anyhow::Result<Self> {
        let jetstream =
            nats::jetstream(nats::connect(url, "rides.test", &NatsTls::default()).await?);
        let mut stream = jetstream.get_stream(RIDES.name).await?;
        let state = stream.info().await?.state.clone();
        let mut read = Self {
            events: BTreeMap::new(),
            message_ids: BTreeSet::new(),
            messages: 0,
        };
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await?;
            let event = RideEvent::decode(message.payload)?;
            let entered = message.subject.rsplit('.').next().unwrap_or_default();
            let entered = (event.ride_id.parse()?, entered.to_owned());
            *read.events.entry(entered).or_default() += 1;
            let message_id = message.headers.get("Nats-Msg-Id");
            read.message_ids
                .insert(message_id.context("an event without an id")?.to_string());
            read.messages += 1;
        }
        Ok(read)
    }

    fn is_exactly(&self, everything: &BTreeSet<(Uuid, &str)>) -> Outcome {
        let found = self.events.keys();
        let found: BTreeSet<_> = found.map(|(ride, state)| (*ride, state.as_str())).collect();
        ensure!(found == *everything, "{found:?}\nis not\n{everything:?}");
        let twice: Vec<_> = self
            .events
            .iter()
            .filter(|(_, count)| **count > 1)
            .collect();
        ensure!(twice.is_empty(), "published more than once: {twice:?}");
        ensure!(
            self.message_ids.len() == self.messages,
            "two messages have one id"
        );
        Ok(())
    }
}

/// Drivers in every status, rides with and without a driver.
async fn a_busy_moment(api: &PublicApi) -> Outcome {
    for _ in 0..3 {
        api.goes_online(grand_central()).await?;
    }
    // Six riders and three drivers: two drivers on the way, one with a rider who gets out soon.
    for rider in 0..6 {
        let quote = api.quote(crosstown(), DataflowMode::Request).await?;
        let ride = api
            .request_ride(Uuid::now_v7(), &quote, crosstown())
            .await?;
        if rider == 0 {
            let matched = eventually("the first rider has a driver", async || {
                api.ride_in("matched", ride.ride_id).await
            });
            let driver_id = matched.await?.driver_id;
            let driver_id = driver_id.context("matched without a driver")?;
            api.report(driver_id, DriverStatus::OnTrip, grand_central())
                .await?;
        }
    }
    api.goes_online(grand_central()).await?;
    api.goes_online(wall_street()).await?;
    let offline = api.goes_online(wall_street()).await?;
    api.report(offline, DriverStatus::Offline, wall_street())
        .await?;
    Ok(())
}

/// Supply and demand around both ends of the town, as their services report them.
struct Levels {
    supply: BTreeMap<String, f64>,
    demand: BTreeMap<String, f64>,
    observed_since: DateTime<Utc>,
}

impl Levels {
    async fn of(api: &PublicApi) -> anyhow::Result<Self> {
        let zones = both_ends_of_town();
        let supply = try_join_all(zones.iter().map(|zone| api.supply(*zone))).await?;
        let demand = try_join_all(zones.iter().map(|zone| api.demand(*zone))).await?;
        let names = || zones.iter().map(Zone::to_string);
        let observed_since = demand.first().context("there are zones")?.observed_since;
        Ok(Self {
            supply: names()
                .zip(supply.iter().map(|level| level.supply))
                .collect(),
            demand: names()
                .zip(demand.iter().map(|level| level.demand))
                .collect(),
            observed_since,
        })
    }

    /// Compares with the levels after a restart. Some seconds have passed meanwhile, which change
    /// demand a little and supply not at all.
    fn are_rebuilt_in(&self, after: &Self) -> Outcome {
        ensure!(
            after.supply == self.supply,
            "{:?}\nwas\n{:?}",
            after.supply,
            self.supply
        );
        ensure!(after.observed_since == self.observed_since);
        for (zone, before) in &self.demand {
            let after = after.demand[zone];
            ensure!(
                is_near(after, *before),
                "demand of {zone}: {after}, was {before}"
            );
        }
        Ok(())
    }

    /// Waits until a quote has the same supply and demand.
    async fn reach(&self, api: &PublicApi, mode: DataflowMode) -> Outcome {
        eventually("the price sees supply and demand", async || {
            let quote = api.quote(downtown(), mode).await?;
            let zone = quote.zone.to_string();
            ensure!(
                !quote.degraded && quote.supply == self.supply[&zone],
                "{quote:?}"
            );
            ensure!(is_near(quote.demand, self.demand[&zone]), "{quote:?}");
            Ok(())
        })
        .await
    }
}

/// Equal within the fading of half a minute in a forecast for five minutes.
fn is_near(after: f64, before: f64) -> bool {
    (after - before).abs() <= 0.1 * before + 0.01
}

fn both_ends_of_town() -> Vec<Zone> {
    let area = ServiceArea::new(Bounds::NEW_YORK);
    let around = |position| {
        let ring = area.k_ring(Zone::at(position)).expect("it is served");
        ring.zones().to_vec()
    };
    [around(grand_central()), around(wall_street())].concat()
}
