//! The statistics of one mode: counts, latency, data age, and the distance of its prices from those
//! of the oracle.
//!
//! The same type serves the whole measurement, a probe for a capacity and a single second of the
//! course; only the resolution of its histograms differs.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::{CheckedQuote, QuoteFailure};
use hdrhistogram::Histogram;
use marketplace::Multiplier;

use crate::report::{AgeMillis, ErrorFigures, LatencyMicros};
use crate::statistics::LatencyTrend;

#[derive(Debug, Clone)]
pub(crate) struct ModeStatistics {
    pub(crate) offered: u64,
    /// Quotes answered and found right.
    pub(crate) quotes: u64,
    /// Quotes priced without surge for want of fresh data.
    pub(crate) degraded: u64,
    /// From the intended send to the complete answer, microseconds. A quote that timed out counts
    /// with the time it was waited for; refused and wrong answers have no latency.
    pub(crate) latency: Histogram<u64>,
    /// The latency of the quotes over the time at which they were due.
    pub(crate) trend: LatencyTrend,
    /// Age of the data behind the quotes that had data, microseconds of real time.
    pub(crate) data_age: Histogram<u64>,
    /// CheckedQuote multiplier minus that of the oracle.
    pub(crate) deviation: Deviation,
    failures: BTreeMap<&'static str, Failures>,
}

impl ModeStatistics {
    /// With three significant digits, up to an hour: 200 KB for each histogram.
    pub(crate) fn precise() -> Self {
        Self::with(engine::histogram)
    }

    /// With two significant digits and as many buckets as its values need: ten kilobytes, enough to
    /// draw.
    pub(crate) fn coarse() -> Self {
        Self::with(|| Histogram::new(2).expect("two digits are valid"))
    }

    fn with(histogram: impl Fn() -> Histogram<u64>) -> Self {
        Self {
            offered: 0,
            quotes: 0,
            degraded: 0,
            latency: histogram(),
            trend: LatencyTrend::default(),
            data_age: histogram(),
            deviation: Deviation::default(),
            failures: BTreeMap::new(),
        }
    }

    /// Adds the outcome of a quote that was `due` so long after the beginning; `oracle` is the
    /// right multiplier at the moment of the send.
    pub(crate) fn add(
        &mut self,
        due: Duration,
        latency: Duration,
        outcome: &Result<CheckedQuote, QuoteFailure>,
        oracle: Option<Multiplier>,
    ) {
        match outcome {
            Ok(quoted) => {
                self.quotes += 1;
                self.degraded += u64::from(quoted.degraded);
                self.trend.add(due, latency);
                record(&mut self.latency, latency);
                if let Some(age) = quoted.data_age {
                    record(&mut self.data_age, age);
                }
                if let Some(oracle) = oracle {
                    self.deviation.add(quoted.multiplier, oracle);
                }
            }
            Err(failure) => {
                if failure.is_timeout() {
                    record(&mut self.latency, latency);
                }
                let first = || Failures {
                    count: 0,
                    wrong_answers: failure.is_wrong_answer(),
                    example: failure.to_string(),
                };
                self.failures
                    .entry(failure.kind())
                    .or_insert_with(first)
                    .count += 1;
            }
        }
    }

    /// Arrivals that brought no quote that counts.
    pub(crate) fn errors(&self) -> u64 {
        self.failures.values().map(|failures| failures.count).sum()
    }

    /// Arrivals with an outcome.
    pub(crate) fn outcomes(&self) -> u64 {
        self.quotes + self.errors()
    }

    /// Every kind of failure.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Failures> {
        self.failures.values()
    }

    /// The percentiles of data age.
    pub(crate) fn age_percentiles(&self) -> AgeMillis {
        let at = |quantile| Some(value_at(&self.data_age, quantile)? as f64 / 1000.0);
        AgeMillis {
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

/// Counts more than an hour as an hour: a histogram that grows with its values must not grow for
/// ever.
fn record(histogram: &mut Histogram<u64>, duration: Duration) {
    const HOUR: u128 = 3_600_000_000;
    let micros = duration.as_micros().min(HOUR) as u64;
    histogram
        .record(micros)
        .expect("every histogram takes an hour");
}

/// The value at a quantile; `None` of an empty histogram.
pub(crate) fn value_at(histogram: &Histogram<u64>, quantile: f64) -> Option<u64> {
    (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))
}

pub(crate) fn percentiles(histogram: &Histogram<u64>) -> LatencyMicros {
    let at = |quantile| value_at(histogram, quantile);
    LatencyMicros {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Failures {
    pub(crate) count: u64,
    /// Whether the service answered, and answered wrongly.
    pub(crate) wrong_answers: bool,
    /// The first one.
    pub(crate) example: String,
}

/// How far quoted multipliers were from those of the oracle, in whole tenths so that no rounding
/// error adds up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deviation {
    compared: u64,
    sum_of_tenths: u64,
    off_by_two_tenths: u64,
    /// Quotes that should have had surge.
    surging: u64,
}

impl Deviation {
    pub(crate) fn add(&mut self, quoted: Multiplier, oracle: Multiplier) {
        let tenths = quoted.tenths().abs_diff(oracle.tenths());
        self.compared += 1;
        self.sum_of_tenths += u64::from(tenths);
        self.off_by_two_tenths += u64::from(tenths >= 2);
        self.surging += u64::from(oracle > Multiplier::ONE);
    }

    /// Mean and share of large errors; nothing was compared without an oracle.
    pub(crate) fn error(&self) -> ErrorFigures {
        let mean = |sum: f64| (self.compared > 0).then(|| sum / self.compared as f64);
        ErrorFigures {
            mean_abs: mean(self.sum_of_tenths as f64 / 10.0),
            share_off_by_0_2: mean(self.off_by_two_tenths as f64),
        }
    }

    /// Quotes compared, and those of them that should have had surge.
    pub(crate) const fn compared_and_surging(&self) -> (u64, u64) {
        (self.compared, self.surging)
    }
}

#[cfg(test)]
mod tests {
    use engine::NoAnswer;
    use engine::stand_in::pickup;
    use marketplace::Zone;

    use super::*;

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
    fn multiplier_error_is_quoted_minus_oracle() {
        let mut statistics = ModeStatistics::precise();
        for (answer, oracle) in [(13, 13), (12, 13), (15, 13), (13, 17)] {
            statistics.add(DUE, Duration::ZERO, &quoted(answer), Some(tenths(oracle)));
        }
        statistics.add(DUE, Duration::ZERO, &quoted(13), None);
        assert_eq!(statistics.quotes, 5);
        let error = statistics.deviation.error();
        assert_eq!(
            (error.mean_abs, error.share_off_by_0_2),
            (Some(0.175), Some(0.5))
        );
        assert_eq!(statistics.deviation.compared_and_surging(), (4, 4));
    }

    #[test]
    fn nothing_compared_has_no_error() {
        let error = ModeStatistics::precise().deviation.error();
        assert_eq!((error.mean_abs, error.share_off_by_0_2), (None, None));
    }

    #[test]
    fn failure_adds_no_quote_and_no_latency() {
        let mut statistics = ModeStatistics::precise();
        let failure = Err(QuoteFailure::Wrong("token empty".to_owned()));
        statistics.add(DUE, Duration::from_secs(1), &failure, None);
        statistics.add(DUE, Duration::from_secs(1), &failure, None);
        let counts = (
            statistics.quotes,
            statistics.errors(),
            statistics.outcomes(),
        );
        assert_eq!(counts, (0, 2, 2));
        assert_eq!(statistics.latency.len(), 0);
        let failures = statistics.failures().next().unwrap();
        assert!(failures.wrong_answers);
        assert_eq!(failures.example, "token empty");
    }

    #[test]
    fn timed_out_quote_counts_with_its_wait() {
        let mut statistics = ModeStatistics::precise();
        let deadline = Duration::from_secs(2);
        for _ in 0..98 {
            statistics.add(DUE, Duration::from_millis(1), &quoted(13), None);
        }
        for _ in 0..2 {
            let timeout = Err(NoAnswer::Deadline(deadline).into());
            statistics.add(DUE, deadline, &timeout, None);
        }
        assert_eq!((statistics.quotes, statistics.errors()), (98, 2));
        assert!(statistics.latency.value_at_quantile(0.99) >= 2_000_000);
        assert!(statistics.latency.value_at_quantile(0.5) < 2_000);
    }

    #[test]
    fn coarse_statistics_take_values_beyond_an_hour() {
        let mut statistics = ModeStatistics::coarse();
        statistics.add(DUE, Duration::from_secs(7_200), &quoted(13), None);
        assert!(statistics.latency.max() >= 3_600_000_000);
    }
}
