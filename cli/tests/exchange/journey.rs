//! The journey of a quote is true: in every mode its stops are those of the mode, its hops add up
//! to the data age, and the traces of its stops belong to the named processes.

use anyhow::{Context as _, ensure};
use price_optimization::explain::{FeedPath, Journey, Stage, Stop, TraceLink};
use serde_json::Value;
use surge_proto::DataflowMode;

use crate::{
    api::{MODES, grand_central},
    support::{Exchange, Market, Outcome, eventually},
};

/// Faster than life, so that the two clocks differ: a market minute takes a second.
const MINUTES_A_SECOND: Market = Market {
    speed: 60.0,
    mode: DataflowMode::Events,
    batch_every: std::time::Duration::from_secs(60),
    ..Market::REAL_TIME
};

/// Several processes read their clocks, and may have to wait for a processor before.
const TOLERANCE_MS: f64 = 3.0;

const PRODUCERS: [&str; 2] = ["driver-management", "ride-management"];

#[tokio::test]
async fn journey_is_true_in_every_mode() -> Outcome {
    let exchange = Exchange::open(MINUTES_A_SECOND).await?;
    exchange.api.goes_online(grand_central()).await?;
    for mode in MODES {
        check_journey(&exchange, mode)
            .await
            .with_context(|| format!("dataflow {mode}"))?;
    }
    exchange.close().await
}

async fn check_journey(exchange: &Exchange, mode: DataflowMode) -> Outcome {
    let (quote, trace_id) = exchange.quoted(mode).await?;
    let price = exchange.stack.target().price;
    let url = format!("{price}/v1/quotes/{}/journey", quote.quote_id);
    let journey: Journey = exchange.api.fetch(&url).await?;

    ensure!(journey.dataflow == mode && journey.epoch == quote.epoch);
    ensure!(journey.notes.is_empty(), "{:?}", journey.notes);
    let own = journey.trace.as_ref().context("it was traced")?;
    ensure!(own.trace_id == trace_id, "{own:?}");
    ensure!(journey.zones.len() == 7, "{:?}", journey.zones);
    let pickup = &journey.zones[0];
    ensure!(pickup.zone == quote.zone.to_string());
    let levels =
        [&pickup.supply, &pickup.demand].map(|level| level.as_ref().map(|level| level.value));
    ensure!(
        levels == [Some(quote.supply), Some(quote.demand)],
        "{levels:?}"
    );

    for (feed, producer) in journey.feeds.iter().zip(PRODUCERS) {
        let stages: Vec<Stage> = feed.stops.iter().map(|stop| stop.stage).collect();
        ensure!(stages == stages_of(mode), "{stages:?}");
        ensure!(stop(feed, Stage::Observed)?.by == producer);
        adds_up(&journey, feed).with_context(|| format!("{feed:#?}"))?;
        for stage in traced_in(mode) {
            let stop = stop(feed, *stage)?;
            let link = stop.trace.as_ref();
            let link = link.with_context(|| format!("no trace: {stop:?}"))?;
            opens(exchange, link, &stop.by).await?;
        }
    }
    let quoted = quote.data_age_ms.context("it has data")?;
    let older = journey.feeds.iter().filter(|feed| feed.is_older);
    for feed in older {
        let age = feed.age_ms.context("it has data")?;
        ensure!(
            (age - quoted).abs() < TOLERANCE_MS,
            "{age} ms, not {quoted} ms"
        );
    }
    let costliest = journey.costliest_hop.context("a hop took longest")?;
    ensure!(costliest.hop_ms <= quoted + TOLERANCE_MS, "{costliest:?}");
    Ok(())
}

const fn stages_of(mode: DataflowMode) -> &'static [Stage] {
    use Stage::{Asked, Observed, Priced, Published, Read, Received, Written};
    match mode {
        DataflowMode::Database => &[Observed, Published, Received, Written, Read, Priced],
        DataflowMode::Request => &[Asked, Observed, Received, Priced],
        DataflowMode::Events => &[Observed, Published, Received, Read, Priced],
    }
}

/// The stops in other processes that do not work for the quote, and so have traces of their own.
const fn traced_in(mode: DataflowMode) -> &'static [Stage] {
    match mode {
        DataflowMode::Database => &[Stage::Published, Stage::Received, Stage::Written],
        DataflowMode::Request => &[],
        DataflowMode::Events => &[Stage::Published],
    }
}

fn stop(feed: &FeedPath, stage: Stage) -> anyhow::Result<&Stop> {
    let stop = feed.stops.iter().find(|stop| stop.stage == stage);
    stop.with_context(|| format!("no stop {stage:?}: {feed:#?}"))
}

/// Checks that stops are in order on both clocks, and that the hops after the observation add up to
/// the age.
fn adds_up(journey: &Journey, feed: &FeedPath) -> Outcome {
    for pair in feed.stops.windows(2) {
        let real_ms = (pair[1].at - pair[0].at).as_seconds_f64() * 1_000.0;
        ensure!(real_ms > -TOLERANCE_MS, "not in order");
        let market_ms = (pair[1].market_time - pair[0].market_time).as_seconds_f64() * 1_000.0;
        let drift_ms = market_ms - real_ms * journey.market_speed;
        ensure!(
            drift_ms.abs() <= 2.0,
            "{market_ms} market ms in {real_ms} ms"
        );
    }
    let since = feed
        .stops
        .iter()
        .filter(|stop| stop.stage > Stage::Observed);
    let hops: f64 = since.filter_map(|stop| stop.hop_ms).sum();
    let age = feed.age_ms.context("it has data")?;
    ensure!((hops - age).abs() < 0.01, "{hops} ms of hops, {age} ms old");
    Ok(())
}

/// Waits until the link opens a trace of this service.
async fn opens(exchange: &Exchange, link: &TraceLink, service: &str) -> Outcome {
    let base = exchange.stack.traces_url();
    let page = format!("{base}/trace/{}", link.trace_id);
    ensure!(link.url.as_ref() == Some(&page), "{link:?}");
    let url = format!("{base}/api/traces/{}", link.trace_id);
    eventually("the trace is there", async || {
        let found: Value = exchange.api.fetch(&url).await?;
        let processes = found["data"][0]["processes"].as_object();
        let processes = processes.context("no such trace yet")?;
        let mut services = processes.values().map(|process| &process["serviceName"]);
        ensure!(services.all(|name| name == service), "{found}");
        Ok(())
    })
    .await
}
