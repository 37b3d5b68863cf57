//! Every query of a dashboard or rule has an answer from a real Prometheus that scrapes the real
//! processes while a market runs on them. A renamed metric, a missing label and an empty panel all
//! look the same in a browser; here a failure names them.

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
fn missing_metrics_and_labels_are_named() {
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
async fn queried_metrics_and_labels_exist() -> Outcome {
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
async fn panels_have_data_and_rules_evaluate() -> Outcome {
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
async fn dots_of_latency_panels_open_traces() -> Outcome {
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

/// An exchange, and a Prometheus that scrapes it.
async fn watched() -> anyhow::Result<(Exchange, Prometheus)> {
    let exchange = Exchange::open(Market::REAL_TIME).await?;
    let prometheus = Prometheus::start(&exchange.stack).await?;
    Ok((exchange, prometheus))
}

/// Whether a query of the panel has an answer. Some queries have one only on bad days.
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

/// Riders request quotes in every mode and drivers drive until `done`.
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

/// A rider requests quotes in all modes, takes the last one, and rides to the end.
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
