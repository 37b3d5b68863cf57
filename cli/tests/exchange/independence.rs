//! Each mode depends only on its own parts: it quotes while all others are dead, and names the
//! missing part when one of its own is dead. The tests kill real processes with SIGKILL.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::try_join_all;
use marketplace::Multiplier;
use rustix::process::{Pid, Signal, kill_process};
use surge::Part;
use surge_proto::DataflowMode;
use uuid::Uuid;

use crate::{
    api::{Quote, downtown, read_problem},
    support::{Exchange, Market, Outcome, eventually},
};

/// A rider gets a refusal within this time. The dataflow gives up after half a second; the rest is
/// for a busy machine, and less than the 5 s after which the service ends the request.
const CLEAR_WITHIN: Duration = Duration::from_secs(4);

#[tokio::test]
async fn request_quotes_without_postgres_and_nats() -> Outcome {
    let mut exchange = open_in(DataflowMode::Request).await?;
    exchange.kill(&[Part::Postgres, Part::Nats]).await;
    keeps_quoting(&exchange, DataflowMode::Request).await?;
    is_ready_without(&exchange, &["nats", "postgres"]).await?;

    exchange.kill(&[Part::RideManagement]).await;
    fails_clearly(&exchange, DataflowMode::Request, "ride-management").await?;

    exchange
        .restart(&[Part::Postgres, Part::RideManagement])
        .await?;
    quotes_again(&exchange, DataflowMode::Request).await?;
    exchange.kill(&[Part::DriverManagement]).await;
    fails_clearly(&exchange, DataflowMode::Request, "driver-management").await?;
    exchange.close().await
}

#[tokio::test]
async fn request_ends_when_service_hangs() -> Outcome {
    let exchange = open_in(DataflowMode::Request).await?;
    send(&exchange, Signal::STOP)?;
    fails_clearly(&exchange, DataflowMode::Request, "driver-management").await?;
    keeps_quoting(&exchange, DataflowMode::Events).await?;
    send(&exchange, Signal::CONT)?;
    quotes_again(&exchange, DataflowMode::Request).await?;
    exchange.close().await
}

#[tokio::test]
async fn events_quotes_without_postgres_and_both_peers() -> Outcome {
    let mut exchange = open_in(DataflowMode::Events).await?;
    exchange
        .kill(&[
            Part::Postgres,
            Part::DriverManagement,
            Part::RideManagement,
            Part::Batch,
        ])
        .await;
    let first = keeps_quoting(&exchange, DataflowMode::Events).await?;
    is_ready_without(
        &exchange,
        &["driver-management", "postgres", "ride-management"],
    )
    .await?;

    // It depends on its own memory, whose data age grows without the broker.
    exchange.kill(&[Part::Nats]).await;
    let later = keeps_quoting(&exchange, DataflowMode::Events).await?;
    ensure!(later.data_age_ms > first.data_age_ms, "{later:?}");
    is_ready_without(
        &exchange,
        &["driver-management", "nats", "postgres", "ride-management"],
    )
    .await?;
    exchange.close().await
}

#[tokio::test]
async fn database_quotes_without_nats_and_both_peers() -> Outcome {
    let mut exchange = open_in(DataflowMode::Database).await?;
    exchange
        .kill(&[Part::Nats, Part::DriverManagement, Part::RideManagement])
        .await;
    keeps_quoting(&exchange, DataflowMode::Database).await?;
    is_ready_without(&exchange, &["driver-management", "nats", "ride-management"]).await?;

    exchange.kill(&[Part::Postgres]).await;
    fails_clearly(&exchange, DataflowMode::Database, "postgres").await?;

    exchange.restart(&[Part::Postgres]).await?;
    quotes_again(&exchange, DataflowMode::Database).await?;
    exchange.close().await
}

#[tokio::test]
async fn old_data_gives_degraded_quotes() -> Outcome {
    const MODES: [DataflowMode; 2] = [DataflowMode::Database, DataflowMode::Events];
    let mut exchange = Exchange::open(Market::FAST).await?;
    let fresh = eventually("riders without drivers drive the price up", async || {
        some_ride_requests(&exchange).await?;
        let quotes = try_join_all(MODES.map(|mode| exchange.api.quote(downtown(), mode))).await?;
        let is_surged = |quote: &Quote| !quote.degraded && quote.surge_multiplier > Multiplier::ONE;
        ensure!(quotes.iter().all(is_surged), "{quotes:?}");
        Ok(quotes)
    });
    let fresh = fresh.await?;

    exchange.kill(&[Part::Batch, Part::DriverManagement]).await;
    for (mode, fresh) in MODES.into_iter().zip(fresh) {
        let old = eventually("the data is too old", async || {
            let quote = exchange.api.quote(downtown(), mode).await?;
            ensure!(quote.degraded, "{quote:?}");
            Ok(quote)
        });
        let old = old.await?;
        ensure!(old.surge_multiplier == Multiplier::ONE, "{old:?}");
        ensure!(old.fare_cents < fresh.fare_cents, "{old:?} after {fresh:?}");
        ensure!(
            old.data_age_ms >= Some(Market::FAST_PRICE_LIMIT_MS),
            "{old:?}"
        );
    }
    exchange.close().await
}

async fn some_ride_requests(exchange: &Exchange) -> Outcome {
    for _ in 0..5 {
        let quote = exchange
            .api
            .quote(downtown(), DataflowMode::Request)
            .await?;
        let ride = exchange
            .api
            .request_ride(Uuid::now_v7(), &quote, downtown());
        ensure!(ride.await?.driver_id.is_none());
    }
    Ok(())
}

/// A stack in this mode, so that readiness checks the needs of the mode, with open connections.
async fn open_in(mode: DataflowMode) -> anyhow::Result<Exchange> {
    let exchange = Exchange::open(Market {
        mode,
        ..Market::REAL_TIME
    })
    .await?;
    quotes_again(&exchange, mode).await?;
    Ok(exchange)
}

/// Checks that every quote in this mode is good, from the first one on. Returns the last one.
async fn keeps_quoting(exchange: &Exchange, mode: DataflowMode) -> anyhow::Result<Quote> {
    const QUOTES: usize = 20;
    for _ in 1..QUOTES {
        good_quote(exchange, mode).await?;
    }
    good_quote(exchange, mode).await
}

async fn good_quote(exchange: &Exchange, mode: DataflowMode) -> anyhow::Result<Quote> {
    let quote = exchange.api.quote(downtown(), mode).await?;
    ensure!(quote.dataflow == mode && !quote.degraded, "{quote:?}");
    Ok(quote)
}

async fn quotes_again(exchange: &Exchange, mode: DataflowMode) -> Outcome {
    eventually("it quotes and is ready", async || {
        keeps_quoting(exchange, mode).await?;
        let readiness = exchange.api.readiness(Part::PriceOptimization).await?;
        ensure!(readiness.is_ready(), "{readiness:?}");
        Ok(())
    })
    .await
}

/// Checks that every quote is refused soon and with a reason, and that readiness names the missing
/// part.
async fn fails_clearly(exchange: &Exchange, mode: DataflowMode, missing: &str) -> Outcome {
    for _ in 0..5 {
        let asked_at = Instant::now();
        let answer = exchange.api.ask_quote(downtown(), mode).await;
        let took = asked_at.elapsed();
        let problem = read_problem(answer)?;
        ensure!(matches!(problem.status, 503 | 504), "{problem:?}");
        ensure!(problem.detail.contains(mode.as_str()), "{problem:?}");
        ensure!(took < CLEAR_WITHIN, "{took:?} for {problem:?}");
    }
    is_unready_for(exchange, missing).await
}

async fn is_ready_without(exchange: &Exchange, away: &[&str]) -> Outcome {
    eventually("readiness names the parts that are away", async || {
        let readiness = exchange.api.readiness(Part::PriceOptimization).await?;
        let unneeded: Vec<_> = away.iter().map(|name| (*name, false)).collect();
        ensure!(readiness.is_ready(), "{readiness:?}");
        ensure!(readiness.away() == unneeded, "{readiness:?}");
        Ok(())
    })
    .await
}

async fn is_unready_for(exchange: &Exchange, missing: &str) -> Outcome {
    eventually("readiness names the missing part", async || {
        let readiness = exchange.api.readiness(Part::PriceOptimization).await?;
        ensure!(!readiness.is_ready(), "{readiness:?}");
        ensure!(readiness.away().contains(&(missing, true)), "{readiness:?}");
        Ok(())
    })
    .await
}

/// Sends a signal to driver-management.
fn send(exchange: &Exchange, signal: Signal) -> Outcome {
    let pid = exchange.stack.pid(Part::DriverManagement);
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    Ok(kill_process(pid.expect("it runs"), signal)?)
}
