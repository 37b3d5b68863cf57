//! The mode is switched while the exchange runs: for all quotes, for one quote, and by the command.
//! It survives the restart of the service and of the broker.

use anyhow::ensure;
use surge::Part;
use surge_proto::DataflowMode;

use crate::{
    api::{MODES, PublicApi, Quote, downtown, read_problem},
    stack_support::{surge, text},
    support::{Exchange, Market, Outcome, eventually},
};

#[tokio::test]
async fn switch_and_header_choose_the_mode() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let api = &exchange.api;
    let mut epoch = api.mode().await?.epoch;
    for mode in MODES {
        let switched = api.switch(mode).await?;
        ensure!(switched.mode == mode && switched.epoch == epoch + 1);
        ensure!(api.mode().await? == switched);
        epoch = switched.epoch;

        let quote = quoted(api, None).await?;
        ensure!((quote.dataflow, quote.epoch) == (mode, epoch), "{quote:?}");
        for other in MODES {
            let quote = quoted(api, other.into()).await?;
            ensure!((quote.dataflow, quote.epoch) == (other, epoch), "{quote:?}");
        }
        let quote = quoted(api, None).await?;
        ensure!(quote.dataflow == mode, "a header switched the others too");
    }
    exchange.close().await
}

#[tokio::test]
async fn unknown_mode_changes_nothing() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let before = exchange.api.mode().await?;
    let problem = read_problem(exchange.api.ask_switch("telepathy").await)?;
    ensure!(problem.status == 400, "{problem:?}");
    ensure!(problem.field.as_deref() == Some("mode"), "{problem:?}");
    for mode in MODES {
        ensure!(problem.detail.contains(mode.as_str()), "{problem:?}");
    }
    ensure!(exchange.api.mode().await? == before);
    exchange.close().await
}

#[tokio::test]
async fn mode_survives_service_and_broker() -> Outcome {
    let mut exchange = Exchange::open(Market::REAL_TIME).await?;
    let switched = exchange.api.switch(DataflowMode::Request).await?;
    exchange.kill(&[Part::PriceOptimization]).await;
    exchange.restart(&[Part::PriceOptimization]).await?;
    eventually("the restarted service knows the mode", async || {
        ensure!(exchange.api.mode().await? == switched);
        Ok(())
    })
    .await?;

    exchange.kill(&[Part::Nats]).await;
    ensure!(exchange.api.mode().await? == switched);
    let problem = eventually("a switch is refused", async || {
        read_problem(exchange.api.ask_switch("events").await)
    });
    let problem = problem.await?;
    ensure!(problem.status == 503, "{problem:?}");
    ensure!(exchange.api.mode().await? == switched);

    exchange.restart(&[Part::Nats]).await?;
    let again = eventually("a switch is possible again", async || {
        exchange.api.switch(DataflowMode::Events).await
    });
    ensure!(again.await?.epoch > switched.epoch);
    exchange.close().await
}

#[tokio::test]
async fn command_shows_and_switches_mode() -> Outcome {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let target = exchange.stack.target().price;
    let folder = tempfile::tempdir()?;
    let run = |arguments: &[&str]| {
        let arguments = [&["mode", "--target", &target], arguments].concat();
        surge(folder.path(), &arguments).output()
    };
    let shown = run(&[])?;
    ensure!(
        text(&shown).starts_with("events (epoch 0"),
        "{}",
        text(&shown)
    );
    let switched = run(&["request"])?;
    ensure!(
        text(&switched).starts_with("request (epoch 1"),
        "{}",
        text(&switched)
    );
    ensure!(exchange.api.quote(downtown(), None).await?.dataflow == DataflowMode::Request);
    let refused = run(&["telepathy"])?;
    ensure!(!refused.status.success(), "{}", text(&refused));
    exchange.close().await
}

/// A quote; on a busy machine the request is repeated.
async fn quoted(api: &PublicApi, mode: Option<DataflowMode>) -> anyhow::Result<Quote> {
    eventually("there is a quote", async || {
        api.quote(downtown(), mode).await
    })
    .await
}
