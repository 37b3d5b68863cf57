//! Which differences between simulated evenings are real.
//!
//! **False alarms.** A table of 8 rows and 4 figures is 32 tests. Each at 1 %, one in four tables
//! shows a difference that is not there. So all of them are corrected together ([`holm`]), such
//! that one table in twenty has a false one. And an age counts only if all older ages that were
//! tried have the same effect: if data of
//! 5 minutes has no effect, data of 1 minute has none either. Where nothing
//! is detected, the sentence says what a run of this size could have detected.

use std::collections::BTreeSet;

use crate::report::{Estimate, MarketCost, MarketFigure, MarketRow};
use crate::statistics::{detectable, holm, p_value};
use crate::wording::market as say;

/// The probability that any difference of a whole table is a false alarm.
const LEVEL: f64 = 0.05;

/// The figures that riders and drivers notice.
const NOTICEABLE: [MarketFigure; 4] = [
    MarketFigure::Unserved,
    MarketFigure::MeanWaitMin,
    MarketFigure::ValueUsd,
    MarketFigure::Completed,
];

/// What the simulated evenings show, a sentence or two for each kind of row.
pub(crate) fn findings(cost: &MarketCost) -> Vec<String> {
    let table = Tests::of(cost);
    let modes = table.rows(|row| row.mode.is_some());
    let (with, without): (Vec<usize>, Vec<usize>) = modes
        .into_iter()
        .partition(|&row| !table.effects(row).is_empty());
    let mut findings = Vec::new();
    if !without.is_empty() {
        let labels: Vec<&str> = without
            .iter()
            .map(|&row| cost.rows[row].label.as_str())
            .collect();
        findings.push(say::no_effect(&labels, cost, table.detectable(&without)));
    }
    let ageless = table.rows(|row| row.mode.is_none() && row.data_age_market_s.is_none());
    let effect = |row: usize| {
        let effects = table.effects(row);
        (!effects.is_empty()).then(|| say::effect(&cost.rows[row], &effects))
    };
    findings.extend(with.into_iter().filter_map(effect));
    findings.extend(table.ages());
    findings.extend(ageless.into_iter().filter_map(effect));
    findings
}

/// All tests of a table, corrected together.
struct Tests<'a> {
    cost: &'a MarketCost,
    count: usize,
    detected: BTreeSet<(usize, MarketFigure)>,
}

impl<'a> Tests<'a> {
    fn of(cost: &'a MarketCost) -> Self {
        let mut tests = Vec::new();
        for (index, row) in cost.rows.iter().enumerate() {
            for figure in NOTICEABLE {
                let difference = row.against_fresh.get(&figure);
                if let Some(Estimate {
                    mean,
                    standard_error: Some(error),
                }) = difference
                {
                    tests.push(((index, figure), p_value(*mean, *error, row.seeds as usize)));
                }
            }
        }
        let p_values: Vec<f64> = tests.iter().map(|(_, p_value)| *p_value).collect();
        let rejected = holm(&p_values, LEVEL);
        let detected = tests.iter().zip(rejected).filter(|(_, rejected)| *rejected);
        Self {
            cost,
            count: tests.len(),
            detected: detected.map(|(test, _)| test.0).collect(),
        }
    }

    /// The rows of a kind, fresh data aside.
    fn rows(&self, is_kind: impl Fn(&MarketRow) -> bool) -> Vec<usize> {
        let rows = 1..self.cost.rows.len();
        rows.filter(|&row| is_kind(&self.cost.rows[row])).collect()
    }

    fn effects(&self, row: usize) -> Vec<(MarketFigure, Estimate)> {
        let differences = &self.cost.rows[row].against_fresh;
        let effect = |figure| self.detected.contains(&(row, figure)).then_some(figure);
        let detected = NOTICEABLE.into_iter().filter_map(effect);
        detected
            .map(|figure| (figure, differences[&figure]))
            .collect()
    }

    /// The difference in unserved riders that a run of this size detects in the row with the most
    /// noise.
    fn detectable(&self, rows: &[usize]) -> Option<f64> {
        let level = LEVEL / self.count.max(1) as f64;
        let each = rows.iter().filter_map(|&row| {
            let row = &self.cost.rows[row];
            let unserved = row.against_fresh.get(&MarketFigure::Unserved)?;
            detectable(unserved.standard_error?, row.seeds as usize, level)
        });
        each.reduce(f64::max)
    }

    /// The youngest age with an effect.
    fn ages(&self) -> Option<String> {
        let rows = &self.cost.rows;
        let mut ages = self.rows(|row| row.mode.is_none() && row.data_age_market_s.is_some());
        let age = |row: usize| rows[row].data_age_market_s.unwrap_or_default();
        ages.sort_by(|&one, &other| age(one).total_cmp(&age(other)));
        let &oldest = ages.last()?;
        let first = NOTICEABLE
            .into_iter()
            .filter_map(|figure| self.first_of_order(&ages, figure));
        Some(match first.min() {
            None => say::no_age(&rows[oldest], self.cost, self.detectable(&ages)),
            Some(first) => {
                let younger = first.checked_sub(1).map(|younger| &rows[ages[younger]]);
                say::youngest_age(&rows[ages[first]], younger)
            }
        })
    }

    /// From which of the ages on, which ascend, all have a detected difference of the same
    /// direction.
    fn first_of_order(&self, ages: &[usize], figure: MarketFigure) -> Option<usize> {
        let sign = |row: usize| self.cost.rows[row].against_fresh[&figure].mean.signum();
        let &oldest = ages.last()?;
        let in_order = ages.iter().rev().take_while(|&&row| {
            self.detected.contains(&(row, figure)) && sign(row) == sign(oldest)
        });
        let count = in_order.count();
        (count > 0).then(|| ages.len() - count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wording::market::tests::made_up_cost;

    #[test]
    fn findings_name_effects_and_power() {
        assert_eq!(
            findings(&made_up_cost()),
            [
                "We could not detect an effect of events (8 s old) on riders or drivers in 24 \
                 evenings. A run of this size detects a difference of 17 unserved riders (2 % of \
                 780) four times in five.",
                "Against fresh data, database (15 min batch) means +20 ± 4 unserved riders, +0.03 \
                 ± 0.00 min of wait, -700 ± 150 $ of value, -29 ± 5 rides.",
                "Of the ages tried, data 5 min old is the youngest with an effect that all older \
                 data has too; for data 1 min old we could not detect one.",
                "Against fresh data, no surge for 26 min means +20 ± 4 unserved riders, +0.03 ± \
                 0.00 min of wait, -700 ± 150 $ of value, -29 ± 5 rides.",
            ]
        );
    }

    #[test]
    fn single_evening_detects_nothing() {
        let mut cost = made_up_cost();
        for difference in cost
            .rows
            .iter_mut()
            .flat_map(|row| row.against_fresh.values_mut())
        {
            difference.standard_error = None;
        }
        let findings = findings(&cost);
        assert!(
            findings[0].contains("events (8 s old) and database"),
            "{findings:?}"
        );
        assert!(findings[1].contains("up to 5 min old") && findings[1].contains("--market-seeds"));
        assert_eq!(findings.len(), 2);
    }

    #[test]
    fn young_age_without_order_is_no_effect() {
        let mut cost = made_up_cost();
        // 1 min has the effect, 5 min has not: a false alarm.
        let (five, one) = (
            cost.rows[3].against_fresh.clone(),
            cost.rows[4].against_fresh.clone(),
        );
        (cost.rows[3].against_fresh, cost.rows[4].against_fresh) = (one, five);
        let findings = findings(&cost);
        assert!(
            findings[2].starts_with("We could not detect an effect of data up to 5 min old"),
            "{findings:?}"
        );
    }

    #[test]
    fn correction_counts_all_tests_of_table() {
        let mut cost = made_up_cost();
        // Alone, at 1 %, 3 standard errors of 24 evenings would be a difference.
        for row in &mut cost.rows {
            for difference in row.against_fresh.values_mut() {
                difference.mean = 0.5 * difference.standard_error.unwrap();
            }
        }
        let unserved = cost.rows[4]
            .against_fresh
            .get_mut(&MarketFigure::Unserved)
            .unwrap();
        unserved.mean = 3.0 * unserved.standard_error.unwrap();
        assert!(p_value(unserved.mean, unserved.standard_error.unwrap(), 24) < 0.01);
        assert!(Tests::of(&cost).detected.is_empty());
    }
}
