//! What the simulated evenings show.

use super::{list, market_span};
use crate::report::{Estimate, MarketCost, MarketFigure, MarketRow};

pub(crate) const TITLE: &str = "What the age of data costs the market";

/// What was simulated, and how to read the table.
pub(crate) fn method(cost: &MarketCost) -> String {
    let span = market_span(&cost.from, &cost.until);
    format!(
        "{}We simulated the same evening {} times without the services, once per row, with data \
         of that age. The first row has the figures of fresh data, the others differences to it \
         in the same evening, with their standard errors.",
        span.map_or_else(String::new, |span| format!("{span}. ")),
        cost.seeds
    )
}

/// Rows without a detected effect; `detectable` is the difference in unserved riders that a run of
/// this size detects.
pub(crate) fn no_effect(labels: &[&str], cost: &MarketCost, detectable: Option<f64>) -> String {
    format!(
        "We could not detect an effect of {} on riders or drivers in {} evenings. {}",
        list(labels),
        cost.seeds,
        power(cost, detectable)
    )
}

/// What a run of this size could have found: a reader must not take the absence of evidence for
/// evidence.
fn power(cost: &MarketCost, detectable: Option<f64>) -> String {
    let fresh = cost.rows.first();
    let fresh = fresh.and_then(|row| row.figures.get(&MarketFigure::Unserved));
    match (detectable, fresh.map(|unserved| unserved.mean)) {
        (Some(riders), Some(fresh)) if riders < fresh => format!(
            "A run of this size detects a difference of {riders:.0} unserved riders ({:.0} % of \
             {fresh:.0}) four times in five.",
            100.0 * riders / fresh
        ),
        _ => "So few evenings would not even detect twice the unserved riders: --market-seeds \
            sets their number."
            .to_owned(),
    }
}

pub(crate) fn effect(row: &MarketRow, differences: &[(MarketFigure, Estimate)]) -> String {
    let parts = differences.iter().map(|(figure, difference)| {
        let (mean, error) = (
            difference.mean,
            difference.standard_error.unwrap_or_default(),
        );
        match figure {
            MarketFigure::Unserved => format!("{mean:+.0} ± {error:.0} unserved riders"),
            MarketFigure::MeanWaitMin => format!("{mean:+.2} ± {error:.2} min of wait"),
            MarketFigure::ValueUsd => format!("{mean:+.0} ± {error:.0} $ of value"),
            _ => format!("{mean:+.0} ± {error:.0} rides"),
        }
    });
    let parts: Vec<String> = parts.collect();
    format!(
        "Against fresh data, {} means {}.",
        row.label,
        parts.join(", ")
    )
}

/// The youngest age with an effect, and the next younger one that was tried.
pub(crate) fn youngest_age(age: &MarketRow, younger: Option<&MarketRow>) -> String {
    let found = format!(
        "Of the ages tried, data {} is the youngest with an effect that all older data has too",
        age.label
    );
    match younger {
        None => format!("{found}; no younger data was tried."),
        Some(younger) => format!(
            "{found}; for data {} we could not detect one.",
            younger.label
        ),
    }
}

pub(crate) fn no_age(oldest: &MarketRow, cost: &MarketCost, detectable: Option<f64>) -> String {
    format!(
        "We could not detect an effect of data up to {} in {} evenings. {}",
        oldest.label,
        cost.seeds,
        power(cost, detectable)
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use surge_proto::DataflowMode;

    use super::*;

    fn row(label: &str, mode: Option<DataflowMode>, age: f64, means: [f64; 7]) -> MarketRow {
        let figures = [
            MarketFigure::MultiplierErrorMeanAbs,
            MarketFigure::ShareOffBy02,
            MarketFigure::Unserved,
            MarketFigure::MeanWaitMin,
            MarketFigure::ValueUsd,
            MarketFigure::Completed,
            MarketFigure::RevenueUsd,
        ];
        let errors = [0.001, 0.001, 4.0, 0.004, 150.0, 5.0, 40.0];
        let estimates = means.into_iter().zip(errors).map(|(mean, error)| Estimate {
            mean,
            standard_error: Some(error),
        });
        let figures: BTreeMap<_, _> = figures.into_iter().zip(estimates).collect();
        MarketRow {
            label: label.to_owned(),
            mode,
            data_age_market_s: age.is_finite().then_some(age),
            batch_period_market_s: None,
            seeds: 24,
            against_fresh: if age > 0.0 {
                figures.clone()
            } else {
                BTreeMap::new()
            },
            figures,
        }
    }

    /// Made up: no evening ever gave these figures.
    pub(crate) fn made_up_cost() -> MarketCost {
        let fresh = [0.0, 0.0, 780.0, 3.7, 186_000.0, 3_690.0, 59_000.0];
        let nothing = [0.003, 0.0, 2.0, 0.001, 20.0, -3.0, 10.0];
        let harm = [0.084, 0.2, 20.0, 0.03, -700.0, -29.0, 0.0];
        let events = Some(DataflowMode::Events);
        let database = Some(DataflowMode::Database);
        MarketCost {
            from: "2014-04-04T20:30:00.000Z".to_owned(),
            until: "2014-04-05T04:00:00.000Z".to_owned(),
            seeds: 24,
            rows: vec![
                row("fresh", None, 0.0, fresh),
                row("events (8 s old)", events, 8.0, nothing),
                row("database (15 min batch)", database, 450.0, harm),
                row("5 min old", None, 300.0, harm),
                row("1 min old", None, 60.0, nothing),
                row("no surge for 26 min", None, f64::INFINITY, harm),
            ],
        }
    }
}
