//! Three replicas of each service form one exchange: everything counts once, and all replicas
//! agree.

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use marketplace::{DriverStatus, Zone};
use surge::{Member, Part};
use surge_proto::DataflowMode;

use crate::{
    api::{MODES, PublicApi, Quote, downtown, grand_central, wall_street},
    support::{Exchange, Market, Outcome, eventually},
};

/// Demand fades between the requests to three replicas.
const DEMAND_TOLERANCE: f64 = 0.01;

async fn three() -> anyhow::Result<Exchange> {
    Exchange::open(Market {
        replicas: 3,
        ..Market::REAL_TIME
    })
    .await
}

#[tokio::test]
async fn replicas_count_once_and_quote_equally() -> Outcome {
    let exchange = three().await?;
    let replicas = exchange.api_of_each();
    let at_each = || replicas.iter().cycle();

    // Nine drivers report to three replicas; six of them move downtown and report to other
    // replicas.
    let mut drivers = Vec::new();
    for api in at_each().take(9) {
        drivers.push(api.goes_online(grand_central()).await?);
    }
    for (driver, api) in drivers.iter().zip(at_each().skip(1)).take(6) {
        eventually("the other replica knows the driver", async || {
            api.moves(*driver, wall_street()).await
        })
        .await?;
    }
    idle_everywhere(&replicas, (3, 6)).await?;
    // Three riders get a quote from one replica and a ride from another, with the drivers who
    // stayed.
    for (api, other) in at_each().zip(at_each().skip(2)).take(3) {
        let quote = api.quote(downtown(), DataflowMode::Request).await?;
        other.insists_on_ride(&quote, downtown()).await?;
    }

    idle_everywhere(&replicas, (0, 6)).await?;
    for mode in MODES {
        eventually("all replicas quote the same", async || {
            quotes_are_the_same(&replicas, mode).await
        })
        .await
        .with_context(|| format!("in mode {mode}"))?;
    }
    exchange.close().await
}

/// Waits until every replica counts these idle drivers at Grand Central and at Wall Street.
async fn idle_everywhere(replicas: &[PublicApi], wanted: (u64, u64)) -> Outcome {
    for api in replicas {
        eventually("every driver is idle once or on the way once", async || {
            let here = api.supply(Zone::at(grand_central())).await?;
            let there = api.supply(Zone::at(wall_street())).await?;
            let idle = (here.idle_drivers, there.idle_drivers);
            ensure!(idle == wanted, "{idle:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn quotes_are_the_same(replicas: &[PublicApi], mode: DataflowMode) -> Outcome {
    let quotes = replicas.iter().map(|api| api.quote(downtown(), mode));
    let quotes = try_join_all(quotes).await?;
    let [first, others @ ..] = &quotes[..] else {
        return Ok(());
    };
    ensure!(first.demand > 0.0 && !first.degraded, "{first:?}");
    let is_same = |other: &Quote| {
        first.supply == other.supply
            && first.surge_multiplier == other.surge_multiplier
            && first.fare_cents == other.fare_cents
            && (first.demand / other.demand - 1.0).abs() < DEMAND_TOLERANCE
    };
    ensure!(others.iter().all(is_same), "{quotes:?}");
    Ok(())
}

#[tokio::test]
async fn replicas_quote_without_postgres_and_nats() -> Outcome {
    let mut exchange = three().await?;
    exchange.kill(&[Part::Postgres, Part::Nats]).await;
    for api in exchange.api_of_each() {
        for _ in 0..10 {
            let quote = api.quote(downtown(), DataflowMode::Request).await?;
            ensure!(!quote.degraded, "{quote:?}");
        }
    }
    exchange.close().await
}

#[tokio::test]
async fn mode_switch_reaches_every_replica() -> Outcome {
    let exchange = three().await?;
    let replicas = exchange.api_of_each();
    let switched = replicas[1].switch(DataflowMode::Request).await?;
    for api in &replicas {
        eventually("the replica has switched", async || {
            let in_force = api.mode().await?;
            ensure!(in_force == switched, "{in_force:?}");
            Ok(())
        })
        .await?;
    }
    exchange.close().await
}

#[tokio::test]
async fn killed_replicas_stop_nothing() -> Outcome {
    const QUOTES: usize = 200;
    const IN_FLIGHT: usize = 8;
    let mut exchange = three().await?;
    let driver = exchange.api.goes_online(grand_central()).await?;
    let replicas = exchange.api_of_each();
    let number = 3;
    let survivors = &replicas[..2];

    // The survivors quote while others die. Only the quotes in flight at that moment may fail.
    let mut failed = 0;
    for round in 0..QUOTES / IN_FLIGHT {
        if round == 5 {
            for part in [Part::DriverManagement, Part::RideManagement] {
                exchange.stack.kill(Member { part, number }).await;
            }
        }
        let asks = survivors.iter().cycle().take(IN_FLIGHT);
        let asks = asks.map(|api| api.quote(downtown(), DataflowMode::Request));
        let answers = futures::future::join_all(asks).await;
        failed += answers.iter().filter(|answer| answer.is_err()).count();
    }
    ensure!(failed <= IN_FLIGHT, "{failed} quotes failed");

    exchange
        .stack
        .kill(Member {
            part: Part::PriceOptimization,
            number,
        })
        .await;
    survivors[1]
        .report(driver, DriverStatus::Offline, grand_central())
        .await?;
    eventually("the survivors agree", async || {
        let supply = survivors[0].supply(Zone::at(grand_central())).await?;
        ensure!(supply.idle_drivers == 0, "{supply:?}");
        Ok(())
    })
    .await?;
    for mode in MODES {
        eventually("the survivors quote from young data", async || {
            for api in survivors {
                let quote = api.quote(downtown(), mode).await?;
                let is_young = quote.data_age_ms.is_some_and(|age| age < 5_000.0);
                ensure!(is_young && !quote.degraded, "{quote:?}");
            }
            Ok(())
        })
        .await?;
    }
    exchange.close().await
}
