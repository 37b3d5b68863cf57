//! Figures of several evenings, and how much of a difference is noise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use city::Score;

/// A figure of an evening. Completed rides and revenue alone are no measure of a market: without surge more rides are
/// driven and more riders are left standing. Read the error of the multiplier, the unserved and the wait first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Mean distance between the multiplier quoted and the right one.
    MultiplierErrorMeanAbs,
    /// Share of quotes off by 0.2 or more, 0 to 1.
    #[serde(rename = "share_off_by_0_2")]
    ShareOffBy02,
    /// Mean multiplier quoted.
    MeanMultiplier,
    /// Requests without a driver soon enough.
    Unserved,
    /// Mean wait of the riders who were driven, market minutes.
    MeanWaitMin,
    /// What the riders who were driven would have paid, at most five times the normal fare each, US dollars.
    ValueUsd,
    /// Requests that were driven.
    Completed,
    /// What they paid, US dollars.
    RevenueUsd,
    /// Riders who requested a ride at the price quoted.
    Requests,
    /// Riders who found the price too high.
    PricedOut,
}

impl Figure {
    /// All of them, what matters most first.
    pub const ALL: [Self; 10] = [
        Self::MultiplierErrorMeanAbs,
        Self::ShareOffBy02,
        Self::MeanMultiplier,
        Self::Unserved,
        Self::MeanWaitMin,
        Self::ValueUsd,
        Self::Completed,
        Self::RevenueUsd,
        Self::Requests,
        Self::PricedOut,
    ];

    /// The figures that riders and drivers feel.
    pub(crate) const OF_THE_MARKET: [Self; 4] = [
        Self::Unserved,
        Self::MeanWaitMin,
        Self::ValueUsd,
        Self::Completed,
    ];

    fn of(self, score: &Score) -> Option<f64> {
        match self {
            Self::MultiplierErrorMeanAbs => score.mean_multiplier_error(),
            Self::ShareOffBy02 => score.share_off_by_0_2(),
            Self::MeanMultiplier => score.mean_multiplier(),
            Self::MeanWaitMin => score.mean_wait_minutes(),
            Self::ValueUsd => Some(score.value_cents / 100.0),
            Self::RevenueUsd => Some(score.revenue_cents / 100.0),
            Self::Unserved => Some(score.unserved as f64),
            Self::Completed => Some(score.completed as f64),
            Self::Requests => Some(score.requests as f64),
            Self::PricedOut => Some(score.priced_out as f64),
        }
    }
}

/// A mean over evenings, and how far it may be from that of all evenings there could be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error: the standard deviation over the root of the number. One evening has none.
    pub standard_error: Option<f64>,
}

impl Estimate {
    fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        let mean = (count > 0).then(|| values.iter().sum::<f64>() / count as f64)?;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let standard_error =
            (count > 1).then(|| (squares / (count - 1) as f64 / count as f64).sqrt());
        Some(Self {
            mean,
            standard_error,
        })
    }

    /// Whether the mean of so many evenings can be told from zero: it would be as far from it by chance once in a hundred times at most
    /// (Student's t test; so strict because several figures of several rows are looked at).
    pub(crate) fn differs_from_zero(&self, evenings: u32) -> bool {
        self.standard_error.is_some_and(|error| {
            let threshold = T_99[(evenings.saturating_sub(2) as usize).min(T_99.len() - 1)];
            self.mean.abs() > threshold * error
        })
    }
}

/// Student's t that 99 of 100 draws stay within, for 1 to 12 degrees of freedom (any table of the t distribution); that
/// of 12 is on the safe side for more.
const T_99: [f64; 12] = [
    63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055,
];

/// Each figure over these evenings.
pub(super) fn figures(scores: &[Score]) -> BTreeMap<Figure, Estimate> {
    estimates(|figure| scores.iter().map(|score| figure.of(score)).collect())
}

/// Each figure minus that of fresh data in the same evening.
pub(super) fn differences(scores: &[Score], fresh: &[Score]) -> BTreeMap<Figure, Estimate> {
    estimates(|figure| {
        let pairs = scores.iter().zip(fresh);
        pairs
            .map(|(score, fresh)| Some(figure.of(score)? - figure.of(fresh)?))
            .collect()
    })
}

/// A figure that is missing from any evening is left out.
fn estimates(values: impl Fn(Figure) -> Option<Vec<f64>>) -> BTreeMap<Figure, Estimate> {
    let estimate = |figure| Some((figure, Estimate::of(&values(figure)?)?));
    Figure::ALL.into_iter().filter_map(estimate).collect()
}

#[cfg(test)]
pub(super) fn estimate(mean: f64, standard_error: f64) -> Estimate {
    Estimate {
        mean,
        standard_error: Some(standard_error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_error_of_a_few_numbers_comes_out_as_on_paper() {
        // 1, 2, 3: deviation 1, over the root of 3.
        let estimate = Estimate::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(estimate.mean, 2.0);
        assert!((estimate.standard_error.unwrap() - 1.0 / 3.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(Estimate::of(&[4.0]).unwrap().standard_error, None);
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn few_evenings_must_agree_better_before_a_difference_counts() {
        // Mean 2, standard error 0.577: 3.46 standard errors. Three values need 9.9 of them, twelve need 3.1.
        let three = [1.0, 2.0, 3.0];
        assert!(!Estimate::of(&three).unwrap().differs_from_zero(3));
        let twelve: Vec<f64> = three.iter().cycle().take(12).copied().collect();
        assert!(Estimate::of(&twelve).unwrap().differs_from_zero(12));
        assert!(!Estimate::of(&[5.0]).unwrap().differs_from_zero(1));
        assert!(!Estimate::of(&[0.0, 0.0]).unwrap().differs_from_zero(2));
    }

    #[test]
    fn an_evening_without_rides_has_no_wait() {
        let figures = figures(&[Score::default()]);
        assert!(!figures.contains_key(&Figure::MeanWaitMin));
        assert_eq!(figures[&Figure::Completed].mean, 0.0);
    }
}
