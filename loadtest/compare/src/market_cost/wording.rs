//! What the figures come to, in a sentence or two. Each is computed; where nothing can be told, it says so.

use super::super::wording::market_span;
use super::{Figure, MarketCost, Row};

/// What was found out.
pub(crate) const TITLE: &str = "What the age of data costs the market";

/// What was done.
pub(crate) fn done(cost: &MarketCost) -> String {
    let span = market_span(&cost.from, &cost.until);
    format!(
        "{}{} evenings lived off the wire with the data of each row: first the figures of fresh data, then differences to \
         them in the same evening, with their standard errors.",
        span.map_or_else(String::new, |span| format!("{span}. ")),
        cost.seeds
    )
}

/// What to look at.
pub(crate) fn findings(cost: &MarketCost) -> Vec<String> {
    let others = || cost.rows.iter().skip(1);
    let (felt, unfelt): (Vec<&Row>, Vec<&Row>) = others()
        .filter(|row| row.mode.is_some())
        .partition(|row| is_felt(row));
    let mut findings = Vec::new();
    findings.extend(nothing_to_see(&unfelt, cost.seeds));
    findings.extend(felt.into_iter().map(harm));
    findings.extend(threshold(cost));
    findings.extend(
        others()
            .filter(|row| is_ageless(row) && is_felt(row))
            .map(harm),
    );
    findings
}

/// Whether it is no matter of age: no surge for a while, or prices that were made last night.
const fn is_ageless(row: &Row) -> bool {
    row.mode.is_none() && row.data_age_market_s.is_none()
}

/// Whether any figure of the market can be told from that of fresh data.
fn is_felt(row: &Row) -> bool {
    let mut figures = Figure::OF_THE_MARKET.into_iter();
    figures.any(|figure| row.told(figure).is_some())
}

fn nothing_to_see(rows: &[&Row], seeds: u32) -> Option<String> {
    let labels: Vec<&str> = rows.iter().map(|row| row.label.as_str()).collect();
    let (last, others) = labels.split_last()?;
    let all = match others {
        [] => (*last).to_owned(),
        others => format!("{} and {last}", others.join(", ")),
    };
    Some(format!(
        "Riders and drivers feel nothing of {all}: over {seeds} evenings, no difference to fresh data in unserved riders, \
         wait, value or rides can be told from noise."
    ))
}

/// The harm of a row that has some: only what can be told from noise.
fn harm(row: &Row) -> String {
    let parts: Vec<String> = Figure::OF_THE_MARKET
        .into_iter()
        .filter_map(|figure| told(row, figure))
        .collect();
    format!("{} costs the market: {}.", row.label, parts.join(", "))
}

fn told(row: &Row, figure: Figure) -> Option<String> {
    let difference = row.told(figure)?;
    let (mean, error) = (difference.mean, difference.standard_error?);
    Some(match figure {
        Figure::Unserved => format!("{mean:+.0} ± {error:.0} unserved riders"),
        Figure::MeanWaitMin => format!("{mean:+.2} ± {error:.2} min of wait"),
        Figure::ValueUsd => format!("{mean:+.0} ± {error:.0} $ of value"),
        _ => format!("{mean:+.0} ± {error:.0} rides"),
    })
}

/// From which age of the dial on it is felt.
fn threshold(cost: &MarketCost) -> Option<String> {
    let mut delayed: Vec<&Row> = cost.rows.iter().skip(1).collect();
    delayed.retain(|row| row.mode.is_none() && row.data_age_market_s.is_some());
    delayed.sort_by(|a, b| {
        a.data_age_market_s
            .partial_cmp(&b.data_age_market_s)
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    let oldest = delayed.last()?;
    let felt = delayed.iter().position(|row| is_felt(row));
    Some(match felt {
        None => format!(
            "Of the ages tried, not even {} is felt: over {} evenings, no difference can be told from noise.",
            oldest.label, cost.seeds
        ),
        Some(0) => format!("Of the ages tried, already {} is felt.", delayed[0].label),
        Some(first) => format!(
            "Of the ages tried, {} is the first to be felt; at {} and below no difference can be told from noise.",
            delayed[first].label,
            delayed[first - 1].label
        ),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use surge_proto::DataflowMode;

    use super::super::statistics::{Estimate, estimate};
    use super::*;

    fn row(label: &str, mode: Option<DataflowMode>, age: f64, figures: [f64; 7]) -> Row {
        let known = [
            Figure::MultiplierErrorMeanAbs,
            Figure::ShareOffBy02,
            Figure::Unserved,
            Figure::MeanWaitMin,
            Figure::ValueUsd,
            Figure::Completed,
            Figure::RevenueUsd,
        ];
        let errors = [0.001, 0.001, 4.0, 0.004, 150.0, 5.0, 40.0];
        let estimates = figures.into_iter().zip(errors);
        let estimates = estimates.map(|(mean, error)| estimate(mean, error));
        let figures: BTreeMap<Figure, Estimate> = known.into_iter().zip(estimates).collect();
        Row {
            label: label.to_owned(),
            mode,
            data_age_market_s: age.is_finite().then_some(age),
            batch_period_market_s: None,
            seeds: 12,
            against_fresh: if age > 0.0 {
                figures.clone()
            } else {
                BTreeMap::new()
            },
            figures,
        }
    }

    /// Made up: no evening ever gave these figures.
    pub(crate) fn cost() -> MarketCost {
        let fresh = [0.0, 0.0, 780.0, 3.7, 186_000.0, 3_690.0, 59_000.0];
        let nothing = [0.003, 0.0, 2.0, 0.001, 20.0, -3.0, 10.0];
        let harm = [0.084, 0.2, 20.0, 0.03, -700.0, -29.0, 0.0];
        let events = Some(DataflowMode::Events);
        let database = Some(DataflowMode::Database);
        MarketCost {
            from: "2014-04-04T20:30:00.000Z".to_owned(),
            until: "2014-04-05T04:00:00.000Z".to_owned(),
            seeds: 12,
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

    #[test]
    fn what_cannot_be_told_from_noise_is_said_to_be_nothing() {
        let findings = findings(&cost());
        assert_eq!(
            findings,
            [
                "Riders and drivers feel nothing of events (8 s old): over 12 evenings, no difference to fresh data in \
                 unserved riders, wait, value or rides can be told from noise.",
                "database (15 min batch) costs the market: +20 ± 4 unserved riders, +0.03 ± 0.00 min of wait, -700 ± \
                 150 $ of value, -29 ± 5 rides.",
                "Of the ages tried, 5 min old is the first to be felt; at 1 min old and below no difference can be told \
                 from noise.",
                "no surge for 26 min costs the market: +20 ± 4 unserved riders, +0.03 ± 0.00 min of wait, -700 ± 150 $ of \
                 value, -29 ± 5 rides.",
            ]
        );
    }

    #[test]
    fn a_single_evening_proves_nothing() {
        let mut cost = cost();
        for row in &mut cost.rows {
            for difference in row.against_fresh.values_mut() {
                difference.standard_error = None;
            }
        }
        let findings = findings(&cost);
        assert!(
            findings[0].contains("events (8 s old) and database"),
            "{findings:?}"
        );
        assert!(
            findings[1].starts_with("Of the ages tried, not even 5 min old is felt"),
            "{findings:?}"
        );
    }
}
