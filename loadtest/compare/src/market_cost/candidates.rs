//! Which pricings are held against fresh data: each dataflow as this run measured it, and the dial of ages.

use std::collections::BTreeMap;
use std::time::Duration;

use surge_proto::DataflowMode;

use super::super::report::ModeFigures;
use city::Pricing;

/// A pricing, and what it stands for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) label: String,
    pub(crate) mode: Option<DataflowMode>,
    pub(crate) pricing: Pricing,
    /// As measured; what the pricing implies where nothing was.
    measured_age: Option<Duration>,
}

impl Candidate {
    pub(super) fn fresh() -> Self {
        Self::unmeasured(Pricing::FRESH)
    }

    /// A pricing that no dataflow was measured at.
    pub(crate) fn unmeasured(pricing: Pricing) -> Self {
        Self {
            label: pricing.to_string(),
            mode: None,
            pricing,
            measured_age: None,
        }
    }

    fn measured(mode: DataflowMode, pricing: Pricing, age: Duration) -> Self {
        Self {
            label: format!("{mode} ({pricing})"),
            mode: Some(mode),
            pricing,
            measured_age: Some(age),
        }
    }

    /// How old the data is at the median quote, market time; the data of a table is between nothing and a period old.
    pub(super) fn data_age(&self) -> Option<Duration> {
        self.measured_age.or(match self.pricing {
            Pricing::Delayed(age) => Some(age),
            Pricing::Batch(period) => Some(period / 2),
            Pricing::Nightly | Pricing::WithoutSurge | Pricing::Outage { .. } => None,
        })
    }

    pub(super) const fn batch_period(&self) -> Option<Duration> {
        match self.pricing {
            Pricing::Batch(period) => Some(period),
            _ => None,
        }
    }
}

/// The ages that are always looked at, so that a reader sees from which on age matters.
pub(crate) fn dial() -> Vec<Candidate> {
    let minutes = |minutes: u64| Pricing::Delayed(Duration::from_secs(60 * minutes));
    let ages = [1, 5, 15, 60].map(minutes);
    let all = ages.into_iter().chain([Pricing::WithoutSurge]);
    all.map(Candidate::unmeasured).collect()
}

/// Each mode at the data age that was measured for it, in market time at this speed; a mode without one is left out.
pub(crate) fn of_modes(modes: &BTreeMap<DataflowMode, ModeFigures>, speed: f64) -> Vec<Candidate> {
    let market = |age_ms: f64| Duration::from_millis((age_ms * speed).round() as u64);
    let candidate = |(mode, figures): (&DataflowMode, &ModeFigures)| {
        let age = market(figures.data_age_ms.p50?);
        let pricing = match mode {
            // Its age runs from nothing to the period: the period is what all but one in a hundred stay below.
            DataflowMode::Database => Pricing::Batch(market(figures.data_age_ms.p99?)),
            DataflowMode::Request | DataflowMode::Events => Pricing::Delayed(age),
        };
        Some(Candidate::measured(*mode, pricing, age))
    };
    modes.iter().filter_map(candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn each_mode_is_taken_at_the_age_it_was_measured_at() {
        let mut report = example();
        let candidates = of_modes(&report.modes, 60.0);
        let labels: Vec<&str> = candidates
            .iter()
            .map(|known| known.label.as_str())
            .collect();
        assert_eq!(
            labels,
            [
                "database (5 min batch)",
                "request (0.054 s old)",
                "events (8.5 s old)"
            ]
        );
        assert_eq!(
            candidates[0].data_age(),
            Some(Duration::from_millis(152_400))
        );

        let events = report.modes.get_mut(&DataflowMode::Events).unwrap();
        events.data_age_ms.p50 = None;
        assert_eq!(of_modes(&report.modes, 60.0).len(), 2);
    }
}
