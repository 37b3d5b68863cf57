//! Every question that a dashboard or a rule asks has an answer: asked of a real Prometheus that
//! scrapes the real processes while a market lives on them. A metric that was renamed, a label that
//! is not there and a panel that stays empty all look the same in a browser, like nothing; here
//! they are named.

mod labels;
mod prometheus;
mod questions;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use marketplace::DriverStatus;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use self::{
    labels::Known,
    prometheus::Prometheus,
    questions::{Question, exemplar_label, of_dashboards},
};
use crate::{
    api::{MODES, PublicApi, downtown, grand_central},
    support::{Exchange, Market, Outcome, eventually},
};

#[test]
fn what_is_not_there_is_named() {
    let series = [
        ("__name__", "surge_quotes_total"),
        ("dataflow", "events"),
        ("outcome", "quoted"),
    ];
    let series = series.map(|(label, value)| (label.to_owned(), value.to_owned()));
    let known = Known::from(vec![series.into()]);
    let complaints = |expr, legend| {
        let asked = Question::new("a panel".to_owned(), expr, legend);
        asked.check(&known).len()
    };
    let right =
        r#"sum by (dataflow) (rate(surge_quotes_total{outcome="quoted"}[$__rate_interval]))"#;
    assert_eq!(complaints(right, "{{dataflow}}"), 0);
    for (wrong, legend) in [
        ("surge_quote_total", ""),
        (r#"surge_quotes_total{mode="events"}"#, ""),
        (r#"surge_quotes_total{outcome="made"}"#, ""),
        ("sum by (mode) (surge_quotes_total)", ""),
        ("sum(surge_quotes_total)", "{{dataflow}}"),
        ("histogram_quantile(0.5, surge_quotes_total)", ""),
        ("rate(surge_quotes_total)", ""),
    ] {
        assert_eq!(complaints(wrong, legend), 1, "{wrong}");
    }
}

#[tokio::test]
async fn dashboards_and_rules_ask_for_what_the_services_expose() -> Outcome {
    let (exchange, prometheus) = watched().await?;
    let questions = [of_dashboards()?, prometheus.rules().await?].concat();
    let answered = eventually("every metric and label is there", async || {
        let known = Known::from(prometheus.series().await?);
        let complaints: Vec<String> = questions
            .iter()
            .flat_map(|asked| asked.check(&known))
            .collect();
        ensure!(complaints.is_empty(), "{complaints:#?}");
        Ok(())
    });
    beside_a_market(&exchange.api, answered).await?;
    prometheus.stop()?;
    exchange.close().await
}

#[tokio::test]
async fn no_panel_is_empty_and_every_rule_can_be_evaluated() -> Outcome {
    let (exchange, prometheus) = watched().await?;
    let questions = of_dashboards()?;
    let answered = eventually("every panel shows something", async || {
        let mut empty = Vec::new();
        for panel in questions.chunk_by(|one, other| one.at == other.at) {
            if !shows_something(&prometheus, panel).await? {
                empty.push(panel);
            }
        }
        ensure!(empty.is_empty(), "no data: {empty:#?}");
        prometheus.rules_are_healthy().await
    });
    beside_a_market(&exchange.api, answered).await?;
    prometheus.stop()?;
    exchange.close().await
}

#[tokio::test]
async fn every_dot_on_a_latency_panel_opens_a_trace() -> Outcome {
    let (exchange, prometheus) = watched().await?;
    let label = exemplar_label()?;
    let questions = of_dashboards()?;
    let with_dots: Vec<&Question> = questions.iter().filter(|asked| asked.exemplars).collect();
    ensure!(!with_dots.is_empty(), "no panel shows exemplars");
    let answered = eventually("each has dots, and their traces are kept", async || {
        for asked in &with_dots {
            let dots = prometheus.exemplars(&asked.expr).await?;
            let dot = dots
                .first()
                .with_context(|| format!("no dots: {asked:?}"))?;
            let trace_id = dot
                .get(&label)
                .with_context(|| format!("no {label} in {dot:?}"))?;
            let url = format!("{}/api/traces/{trace_id}", exchange.stack.traces_url());
            let _trace: Value = exchange.api.fetch(&url).await?;
        }
        Ok(())
    });
    beside_a_market(&exchange.api, answered).await?;
    prometheus.stop()?;
    exchange.close().await
}

/// An exchange, and the Prometheus that looks at it.
async fn watched() -> anyhow::Result<(Exchange, Prometheus)> {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let prometheus = Prometheus::start(&exchange.stack).await?;
    Ok((exchange, prometheus))
}

/// A panel may have a query that has an answer on bad days only, but not every one of its queries
/// may.
async fn shows_something(prometheus: &Prometheus, panel: &[Question]) -> anyhow::Result<bool> {
    for asked in panel {
        let answer = prometheus.ask(&asked.expr).await;
        let values = answer.with_context(|| format!("{asked:?}"))?;
        if asked.may_be_empty || values.iter().any(|value| value.is_finite()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Riders ask for quotes in every mode and drivers drive until `done`.
async fn beside_a_market(api: &PublicApi, done: impl Future<Output = Outcome>) -> Outcome {
    let market = async {
        let mut rounds = interval(Duration::from_millis(200));
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            a_ride(api).await?;
        }
    };
    tokio::select! {
        done = done => done,
        failed = market => failed,
    }
}

/// Somebody asks all modes, takes the last quote, and is driven to the end.
async fn a_ride(api: &PublicApi) -> Outcome {
    let driver = api.goes_online(grand_central()).await?;
    api.moves(driver, grand_central()).await?;
    let trip = downtown();
    for mode in MODES {
        api.quote(trip, mode).await?;
    }
    let quote = api.quote(trip, None).await?;
    let ride = api.request_ride(Uuid::now_v7(), &quote, trip).await?;
    let ride = eventually("a driver is sent", async || {
        api.ride_in("matched", ride.ride_id).await
    });
    let driver = ride.await?.driver_id.context("matched without a driver")?;
    api.report(driver, DriverStatus::OnTrip, trip.pickup)
        .await?;
    api.report(driver, DriverStatus::Idle, trip.dropoff).await?;
    Ok(())
}
