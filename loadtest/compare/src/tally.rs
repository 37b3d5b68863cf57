//! What the answers of one mode add up to: counts, latency, data age, and how far its prices were from the oracle's.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use marketplace::Multiplier;

use super::trend::Trend;
use engine::{CheckedQuote, QuoteFailure, histogram, record};

/// The running sums of one mode.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// Quotes that were due by the schedule.
    pub(crate) offered: u64,
    /// Quotes answered and found right.
    pub(crate) quotes: u64,
    /// Those of them priced without surge for want of fresh data.
    pub(crate) degraded: u64,
    /// From the intended send to the complete answer, microseconds. A quote that was waited for in vain counts with
    /// the time it was waited for; refused and wrong answers have no latency.
    pub(crate) latency: Histogram<u64>,
    /// The latency of the quotes, over the time at which they were due.
    pub(crate) trend: Trend,
    /// Age of the data behind the quotes that had data, microseconds of real time.
    pub(crate) data_age: Histogram<u64>,
    /// CheckedQuote minus oracle.
    pub(crate) deviation: Deviation,
    failures: BTreeMap<&'static str, Failures>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            offered: 0,
            quotes: 0,
            degraded: 0,
            latency: histogram(),
            trend: Trend::default(),
            data_age: histogram(),
            deviation: Deviation::default(),
            failures: BTreeMap::new(),
        }
    }

    /// Adds the outcome of what was `due` so long after the begin; `oracle` is the multiplier at age zero at the moment of the
    /// send.
    pub(crate) fn add(
        &mut self,
        due: Duration,
        latency: Duration,
        outcome: Result<CheckedQuote, QuoteFailure>,
        oracle: Option<Multiplier>,
    ) {
        match outcome {
            Ok(quoted) => {
                self.trend.add(due, latency);
                self.add_quote(latency, quoted, oracle);
            }
            Err(failure) => self.add_failure(latency, &failure),
        }
    }

    fn add_quote(&mut self, latency: Duration, quoted: CheckedQuote, oracle: Option<Multiplier>) {
        self.quotes += 1;
        self.degraded += u64::from(quoted.degraded);
        record(&mut self.latency, latency);
        if let Some(age) = quoted.data_age {
            record(&mut self.data_age, age);
        }
        if let Some(oracle) = oracle {
            self.deviation.add(quoted.multiplier, oracle);
        }
    }

    fn add_failure(&mut self, latency: Duration, failure: &QuoteFailure) {
        if failure.is_timeout() {
            record(&mut self.latency, latency);
        }
        let failures = self.failures.entry(failure.kind()).or_insert(Failures {
            count: 0,
            wrong_answers: failure.is_wrong_answer(),
            example: failure.to_string(),
        });
        failures.count += 1;
    }

    /// Arrivals that brought no quote that counts.
    pub(crate) fn errors(&self) -> u64 {
        self.failures.values().map(|failures| failures.count).sum()
    }

    /// Arrivals with an outcome.
    pub(crate) fn outcomes(&self) -> u64 {
        self.quotes + self.errors()
    }

    /// Every kind of failure met.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Failures> {
        self.failures.values()
    }
}

/// Failures of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Failures {
    pub(crate) count: u64,
    /// Whether the service answered, and answered wrongly.
    pub(crate) wrong_answers: bool,
    /// The first one met.
    pub(crate) example: String,
}

/// How far quoted multipliers were from the oracle's, in whole tenths so that no rounding creeps in.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deviation {
    compared: u64,
    sum_of_tenths: u64,
    off_by_two_tenths: u64,
}

impl Deviation {
    pub(crate) fn add(&mut self, quoted: Multiplier, oracle: Multiplier) {
        let tenths = quoted.tenths().abs_diff(oracle.tenths());
        self.compared += 1;
        self.sum_of_tenths += u64::from(tenths);
        self.off_by_two_tenths += u64::from(tenths >= 2);
    }

    /// Mean absolute difference; `None` when nothing was compared.
    pub(crate) fn mean_abs(&self) -> Option<f64> {
        (self.compared > 0).then(|| self.sum_of_tenths as f64 / 10.0 / self.compared as f64)
    }

    /// Share of quotes off by 0.2 or more, 0 to 1.
    pub(crate) fn share_off_by_0_2(&self) -> Option<f64> {
        (self.compared > 0).then(|| self.off_by_two_tenths as f64 / self.compared as f64)
    }
}

#[cfg(test)]
mod tests {
    use marketplace::Zone;

    use super::*;
    use engine::NoAnswer;
    use engine::stand_in::pickup;

    const DUE: Duration = Duration::ZERO;

    fn tenths(tenths: u16) -> Multiplier {
        Multiplier::from_tenths(tenths).unwrap()
    }

    fn quoted(multiplier: u16) -> Result<CheckedQuote, QuoteFailure> {
        Ok(CheckedQuote {
            zone: Zone::at(pickup()),
            multiplier: tenths(multiplier),
            data_age: Some(Duration::from_millis(250)),
            degraded: false,
        })
    }

    #[test]
    fn the_multiplier_error_is_quoted_minus_oracle() {
        let mut tally = Tally::new();
        for (answer, oracle) in [(13, 13), (12, 13), (15, 13), (13, 17)] {
            tally.add(DUE, Duration::ZERO, quoted(answer), Some(tenths(oracle)));
        }
        tally.add(DUE, Duration::ZERO, quoted(13), None);
        assert_eq!(tally.quotes, 5);
        assert_eq!(tally.deviation.mean_abs(), Some(0.175));
        assert_eq!(tally.deviation.share_off_by_0_2(), Some(0.5));
    }

    #[test]
    fn what_was_not_compared_has_no_error() {
        assert_eq!(Tally::new().deviation.mean_abs(), None);
        assert_eq!(Tally::new().deviation.share_off_by_0_2(), None);
    }

    #[test]
    fn a_failure_is_no_quote_and_adds_no_latency() {
        let mut tally = Tally::new();
        let failure = || Err(QuoteFailure::Wrong("token empty".to_owned()));
        tally.add(DUE, Duration::from_secs(1), failure(), None);
        tally.add(DUE, Duration::from_secs(1), failure(), None);
        assert_eq!((tally.quotes, tally.errors(), tally.outcomes()), (0, 2, 2));
        assert_eq!(tally.latency.len(), 0);
        let failures = tally.failures().next().unwrap();
        assert!(failures.wrong_answers);
        assert_eq!(failures.example, "token empty");
    }

    #[test]
    fn a_quote_waited_for_in_vain_counts_with_its_wait() {
        let mut tally = Tally::new();
        let deadline = Duration::from_secs(2);
        for _ in 0..98 {
            tally.add(DUE, Duration::from_millis(1), quoted(13), None);
        }
        for _ in 0..2 {
            tally.add(
                DUE,
                deadline,
                Err(NoAnswer::Deadline(deadline).into()),
                None,
            );
        }
        assert_eq!((tally.quotes, tally.errors()), (98, 2));
        assert!(tally.latency.value_at_quantile(0.99) >= 2_000_000);
        assert!(tally.latency.value_at_quantile(0.5) < 2_000);
    }
}
