//! The statistics of a comparison, and nothing else: no report, no sentence, no clock.
//!
//! **How this works.** Three questions come up again and again, and each has one answer here.
//!
//! 1. *Does a queue grow?* A server that is asked for more than it can do answers later and later.
//!    [`LatencyTrend`] is the slope of latency over time by Theil and Sen: the median of the slopes
//!    between all pairs of moments. A single hiccup bends a least-squares line; it does not bend a
//!    median.
//! 2. *How far does a figure of one run wander by itself?* Neighbouring seconds resemble each other
//!    (a batch job, a busy zone), so their scatter says too little. [`batch_means_half_width`] cuts
//!    a run into blocks and compares the blocks (Law, Simulation Modeling and Analysis, section
//!    9.5.3).
//! 3. *Is a difference real?* Simulated evenings come in pairs, one with fresh data and one with
//!    old. [`Estimate`] is the mean difference and its standard error, [`p_value`] Student's paired
//!    t test. Who tests thirty differences at 1 % each finds a false one in every fourth run, so
//!    [`holm`] corrects for the number of tests, and [`detectable`] says how large a difference
//!    must be for a run of this size to find it.

use std::time::Duration;

use statrs::distribution::{ContinuousCDF as _, StudentsT};

pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The middle value, of an even number the mean of the two in the middle; `None` of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    Some(f64::midpoint(*sorted.get(low)?, *sorted.get(high)?))
}

pub(crate) fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

/// The standard deviation of the values over the root of their number; `None` of fewer than two.
pub(crate) fn standard_error(values: &[f64]) -> Option<f64> {
    let (mean, count) = (mean(values)?, values.len() as f64);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt())
}

/// Half the width of a 95 % interval around the mean of independent values; `None` of fewer than
/// two.
pub(crate) fn half_width(values: &[f64]) -> Option<f64> {
    Some(standard_error(values)? * two_sided_quantile(0.05, values.len()))
}

/// Blocks of one run. Fewer values than this say nothing about noise.
pub(crate) const BLOCKS: usize = 6;

/// Half the width of a 95 % interval around the mean of a time series, from the means of [`BLOCKS`]
/// blocks; `None` where a block has no value.
pub(crate) fn batch_means_half_width(series: &[Option<f64>]) -> Option<f64> {
    let length = series.len() / BLOCKS;
    if length == 0 {
        return None;
    }
    let blocks = series.chunks_exact(length).take(BLOCKS);
    let means: Option<Vec<f64>> = blocks
        .map(|block| mean(&block.iter().copied().flatten().collect::<Vec<_>>()))
        .collect();
    half_width(&means?)
}

/// The probability of a mean at least this many standard errors from zero in `samples` samples of a
/// population whose mean is zero: Student's t test, both sides. 1 where the test cannot be made.
pub(crate) fn p_value(mean: f64, standard_error: f64, samples: usize) -> f64 {
    match student(samples) {
        Some(student) if standard_error > 0.0 => 2.0 * student.sf((mean / standard_error).abs()),
        _ => 1.0,
    }
}

/// Holm's correction: which of several tests reject their hypothesis, when the probability that
/// even one of them does so falsely must stay below `level`. The smallest p-value must be below
/// `level / n`, the next below `level / (n - 1)`, and so on until one fails; uniformly more
/// powerful than Bonferroni's `level / n` for all (S. Holm, 1979).
pub(crate) fn holm(p_values: &[f64], level: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&one, &other| p_values[one].total_cmp(&p_values[other]));
    let mut rejected = vec![false; p_values.len()];
    for (rank, index) in order.into_iter().enumerate() {
        if p_values[index] > level / (p_values.len() - rank) as f64 {
            break;
        }
        rejected[index] = true;
    }
    rejected
}

/// The smallest true mean that a t test at `level` finds in four of five repetitions, by the usual
/// sum of quantiles.
pub(crate) fn detectable(standard_error: f64, samples: usize, level: f64) -> Option<f64> {
    const POWER: f64 = 0.8;
    let student = student(samples)?;
    Some((two_sided_quantile(level, samples) + student.inverse_cdf(POWER)) * standard_error)
}

fn two_sided_quantile(level: f64, samples: usize) -> f64 {
    student(samples).map_or(f64::INFINITY, |it| it.inverse_cdf(1.0 - level / 2.0))
}

/// Student's t distribution for the mean of this many samples.
fn student(samples: usize) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, samples.checked_sub(1)? as f64).ok()
}

/// The slope of latency over the time at which requests were due, from a bounded number of bins.
#[derive(Debug, Clone)]
pub(crate) struct LatencyTrend {
    bin_length: Duration,
    /// Requests due in each bin, and the sum of their latencies.
    bins: Vec<(u32, Duration)>,
}

/// More bins would not change the slope; a longer run has longer ones.
const MOST_BINS: usize = 64;

impl Default for LatencyTrend {
    fn default() -> Self {
        Self {
            bin_length: Duration::from_millis(10),
            bins: Vec::new(),
        }
    }
}

impl LatencyTrend {
    /// Adds the latency of a request that was due so long after the beginning.
    pub(crate) fn add(&mut self, due: Duration, latency: Duration) {
        let mut index = self.bin_of(due);
        while index >= MOST_BINS {
            self.merge_pairs();
            index = self.bin_of(due);
        }
        if self.bins.len() <= index {
            self.bins.resize(index + 1, (0, Duration::ZERO));
        }
        self.bins[index].0 += 1;
        self.bins[index].1 += latency;
    }

    /// Seconds by which latency grows in a second; 0 where there are fewer than two bins. A server
    /// that is asked for a tenth more than it can do is a tenth of a second later every second.
    pub(crate) fn slope(&self) -> f64 {
        let used = self.bins.iter().enumerate().filter(|(_, bin)| bin.0 > 0);
        let points: Vec<(f64, f64)> = used
            .map(|(index, &(count, latency))| {
                let start = index as f64 * self.bin_length.as_secs_f64();
                (start, latency.as_secs_f64() / f64::from(count))
            })
            .collect();
        theil_sen(&points).unwrap_or_default()
    }

    fn bin_of(&self, due: Duration) -> usize {
        due.div_duration_f64(self.bin_length) as usize
    }

    fn merge_pairs(&mut self) {
        self.bin_length *= 2;
        let sum = |pair: &[(u32, Duration)]| {
            let add = |sum: (u32, Duration), bin: &(u32, Duration)| (sum.0 + bin.0, sum.1 + bin.1);
            pair.iter().fold((0, Duration::ZERO), add)
        };
        self.bins = self.bins.chunks(2).map(sum).collect();
    }
}

/// The median slope between all pairs of points, whose x must differ (H. Theil, 1950, and P. K.
/// Sen, 1968).
fn theil_sen(points: &[(f64, f64)]) -> Option<f64> {
    let slopes = points.iter().enumerate().flat_map(|(index, (x, y))| {
        let later = &points[index + 1..];
        later
            .iter()
            .map(move |(later_x, later_y)| (later_y - y) / (later_x - x))
    });
    median(slopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_even_count_lies_between() {
        assert_eq!(median([]), None);
        assert_eq!(median([7.0]), Some(7.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([9.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn standard_error_matches_hand_calculation() {
        // 1, 2, 3: standard deviation 1, over the root of 3.
        let error = standard_error(&[1.0, 2.0, 3.0]).unwrap();
        assert!((error - 1.0 / 3.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(standard_error(&[4.0]), None);
        assert_eq!(standard_error(&[]), None);
    }

    #[test]
    fn batch_means_match_hand_calculation() {
        let series = |values: &[u64]| -> Vec<Option<f64>> {
            values.iter().map(|&value| Some(value as f64)).collect()
        };
        assert_eq!(batch_means_half_width(&series(&[300; 12])), Some(0.0));
        // Block means 1 to 6: standard deviation 1.871, by the root of six 0.764, times 2.571.
        let restless = series(&[0, 2, 1, 3, 2, 4, 3, 5, 4, 6, 5, 7]);
        let restless = batch_means_half_width(&restless).unwrap();
        assert!((restless - 1.963).abs() < 0.001, "{restless}");
        assert_eq!(batch_means_half_width(&series(&[300; 5])), None);
    }

    #[test]
    fn few_samples_must_agree_better() {
        // 3.46 standard errors: one value in a hundred of 2 degrees of freedom is beyond 9.9, of 11
        // beyond 3.1.
        let beyond = |samples| p_value(2.0, 0.577, samples);
        assert!(beyond(3) > 0.01 && beyond(12) < 0.01);
        assert!((p_value(9.925, 1.0, 3) - 0.01).abs() < 1e-5);
        assert!((p_value(-3.106, 1.0, 12) - 0.01).abs() < 1e-4);
        assert_eq!(p_value(5.0, 1.0, 1), 1.0, "one sample proves nothing");
        assert_eq!(p_value(0.0, 0.0, 2), 1.0);
    }

    #[test]
    fn holm_is_stricter_with_more_tests() {
        assert_eq!(holm(&[0.02], 0.05), [true]);
        assert_eq!(holm(&[0.02, 0.9, 0.8], 0.05), [false; 3]);
        assert_eq!(holm(&[0.9, 0.01, 0.02], 0.05), [false, true, true]);
        assert_eq!(holm(&[], 0.05), [false; 0]);
        // 32 tests at 1 % each, of which one falls below by chance.
        let mut chance = vec![0.5; 32];
        chance[7] = 0.009;
        assert_eq!(holm(&chance, 0.05), [false; 32]);
    }

    #[test]
    fn larger_runs_detect_smaller_differences() {
        // With many samples 1.96 + 0.84 standard errors.
        let many = detectable(1.0, 10_000, 0.05).unwrap();
        assert!((many - 2.80).abs() < 0.01, "{many}");
        assert!(detectable(1.0, 2, 0.05).unwrap() > 13.0);
        assert_eq!(detectable(1.0, 1, 0.05), None);
    }

    /// The slope of a thousand requests in a second, whose latency in milliseconds depends on when
    /// they are due.
    fn slope(latency_ms: impl Fn(u64) -> u64) -> f64 {
        let mut trend = LatencyTrend::default();
        for ms in 0..1_000 {
            let latency = Duration::from_millis(latency_ms(ms));
            trend.add(Duration::from_millis(ms), latency);
        }
        trend.slope()
    }

    #[test]
    fn growing_queue_has_its_growth_as_slope() {
        assert!((slope(|ms| 3 + ms / 10) - 0.1).abs() < 0.001);
        assert!(slope(|ms| 103 - ms / 10) < -0.09);
        // In steps, as a queue comes to light, with a tremor: each tenth of a second a hundredth
        // later.
        let trembling = slope(|ms| 5 + 10 * (ms / 100) + (ms * 7_919) % 20);
        assert!((trembling - 0.1).abs() < 0.01, "{trembling}");
    }

    #[test]
    fn high_or_jumping_latency_has_no_slope() {
        assert!(slope(|_| 40).abs() < 1e-9);
        assert!(slope(|ms| (ms * 7_919) % 20).abs() < 0.001);
        // Stalls of 200 ms, at the very end and at the beginning.
        assert!(slope(|ms| 2 + ms.saturating_sub(800)).abs() < 0.005);
        assert!(slope(|ms| 2 + 200_u64.saturating_sub(ms)).abs() < 0.005);
    }

    #[test]
    fn long_run_keeps_bins_bounded() {
        let mut trend = LatencyTrend::default();
        for second in 0..7_200 {
            let due = Duration::from_secs(second);
            trend.add(due, due / 1_000);
        }
        assert!((trend.slope() - 0.001).abs() < 1e-6);
        assert!(trend.bins.len() <= MOST_BINS);
    }

    #[test]
    fn single_moment_has_no_slope() {
        let mut trend = LatencyTrend::default();
        assert_eq!(trend.slope(), 0.0);
        trend.add(Duration::ZERO, Duration::from_millis(50));
        trend.add(Duration::ZERO, Duration::from_millis(90));
        assert_eq!(trend.slope(), 0.0);
    }
}
