//! Mode changes age, never arithmetic: in a market that stands still, all three modes quote the
//! same price, and the batch job and the live services forecast the same.

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use marketplace::Multiplier;
use surge_proto::DataflowMode;
use uuid::Uuid;

use crate::{
    api::{MODES, PublicApi, Quote, SurgeMap, downtown, grand_central, wall_street},
    support::{Exchange, Market, Outcome, eventually},
};

/// Idle drivers at Grand Central Terminal in the rush.
const IDLE_UPTOWN: f64 = 3.0;

#[tokio::test]
async fn all_modes_quote_the_same_price() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let api = &exchange.api;
    evening_rush(api).await?;

    let quotes = eventually("all modes quote the same", async || {
        let quotes = try_join_all(MODES.map(|mode| api.quote(downtown(), mode))).await?;
        let same = |pair: &[_]| matches!(pair, [one, other] if is_same_price(one, other));
        ensure!(quotes.windows(2).all(same), "{quotes:?}");
        ensure!(
            quotes.iter().all(|quote| quote.supply == IDLE_UPTOWN),
            "{quotes:?}"
        );
        Ok(quotes)
    })
    .await?;
    let multiplier = quotes[0].surge_multiplier;
    ensure!(
        multiplier > Multiplier::ONE,
        "a rush without surge: {quotes:?}"
    );
    exchange.close().await
}

#[tokio::test]
async fn batch_forecasts_equal_live_forecasts() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let api = &exchange.api;
    evening_rush(api).await?;
    for mode in [DataflowMode::Database, DataflowMode::Events] {
        eventually(
            "the mode sees the market of the live services",
            async || {
                let live = api.surge(DataflowMode::Request).await?;
                is_same_market(&api.surge(mode).await?, &live)
            },
        )
        .await
        .with_context(|| format!("dataflow {mode}"))?;
    }
    exchange.close().await
}

/// Five drivers at either end of the town and the demand of a Friday evening; two of those uptown
/// are sent to riders.
async fn evening_rush(api: &PublicApi) -> Outcome {
    for position in [grand_central(), wall_street()] {
        for _ in 0..5 {
            api.goes_online(position).await?;
        }
    }
    for _ in 0..2 {
        let quote = api.quote(downtown(), DataflowMode::Request).await?;
        api.request_ride(Uuid::now_v7(), &quote, downtown()).await?;
    }
    Ok(())
}

fn is_same_price(one: &Quote, other: &Quote) -> bool {
    let price = |quote: &Quote| (quote.surge_multiplier, quote.fare_cents, quote.degraded);
    price(one) == price(other)
}

/// Supply must be equal; demand is as of another second.
fn is_same_market(seen: &SurgeMap, live: &SurgeMap) -> Outcome {
    ensure!(seen.zones.len() == live.zones.len() && !live.zones.is_empty());
    for (seen, live) in seen.zones.iter().zip(&live.zones) {
        let tolerance = 0.01 + 0.01 * live.demand;
        ensure!(
            seen.zone == live.zone
                && seen.supply == live.supply
                && (seen.demand - live.demand).abs() <= tolerance,
            "{seen:?} instead of {live:?}"
        );
    }
    Ok(())
}
