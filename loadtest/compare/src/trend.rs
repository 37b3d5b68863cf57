//! Whether latency grows in the course of a run.

use std::time::Duration;

use super::median::median;

/// The straight line through latency over time that a hiccup does not bend: its slope is the median of those between all pairs of
/// moments (H. Theil, 1950, and P. K. Sen, 1968). A least-squares line takes a stall at the end of a short run for a queue that
/// grows.
#[derive(Debug, Clone)]
pub(crate) struct Trend {
    length: Duration,
    stretches: Vec<Stretch>,
}

/// What was due within so many milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Stretch {
    count: u32,
    latency: Duration,
}

/// More would tell no better; a longer run has longer ones.
const MOST_STRETCHES: usize = 64;

impl Default for Trend {
    fn default() -> Self {
        Self {
            length: Duration::from_millis(10),
            stretches: Vec::new(),
        }
    }
}

impl Trend {
    /// Takes in the latency of what was due so long after the begin.
    pub(crate) fn add(&mut self, due: Duration, latency: Duration) {
        let mut index = self.index_of(due);
        while index >= MOST_STRETCHES {
            self.join_pairs();
            index = self.index_of(due);
        }
        if self.stretches.len() <= index {
            self.stretches.resize(index + 1, Stretch::default());
        }
        self.stretches[index].add(Stretch { count: 1, latency });
    }

    /// Seconds by which latency grows in a second; 0 where there is no telling. A server that is asked for a tenth more than it
    /// can do is a tenth of a second later every second.
    pub(crate) fn slope(&self) -> f64 {
        let points: Vec<(f64, f64)> = self.means().collect();
        let from = |index: usize| {
            let (due, latency) = points[index];
            let later = &points[index + 1..];
            later
                .iter()
                .map(move |(at, then)| (then - latency) / (at - due))
        };
        median((0..points.len()).flat_map(from)).unwrap_or_default()
    }

    /// Begin and mean latency of each stretch in which anything was due, in seconds.
    fn means(&self) -> impl Iterator<Item = (f64, f64)> {
        let begin = |index: usize| index as f64 * self.length.as_secs_f64();
        let due = self.stretches.iter().enumerate();
        let due = due.filter(|(_, stretch)| stretch.count > 0);
        due.map(move |(index, stretch)| (begin(index), stretch.mean()))
    }

    fn index_of(&self, due: Duration) -> usize {
        due.div_duration_f64(self.length) as usize
    }

    fn join_pairs(&mut self) {
        self.length *= 2;
        let joined = self.stretches.chunks(2).map(|pair| {
            let mut sum = Stretch::default();
            pair.iter().for_each(|stretch| sum.add(*stretch));
            sum
        });
        self.stretches = joined.collect();
    }
}

impl Stretch {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.latency += other.latency;
    }

    fn mean(self) -> f64 {
        self.latency.as_secs_f64() / f64::from(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second of a thousand requests, whose latency in milliseconds is a matter of when they are due.
    fn slope(latency_ms: impl Fn(u64) -> u64) -> f64 {
        let mut trend = Trend::default();
        for ms in 0..1_000 {
            let latency = Duration::from_millis(latency_ms(ms));
            trend.add(Duration::from_millis(ms), latency);
        }
        trend.slope()
    }

    #[test]
    fn a_queue_that_grows_has_its_growth_for_a_slope() {
        assert!((slope(|ms| 3 + ms / 10) - 0.1).abs() < 0.001);
        assert!(slope(|ms| 103 - ms / 10) < -0.09);
        // As what lies in a queue comes to light: each tenth of a second a hundredth later, with a tremor.
        let trembling = slope(|ms| 5 + 10 * (ms / 100) + (ms * 7_919) % 20);
        assert!((trembling - 0.1).abs() < 0.01, "{trembling}");
    }

    #[test]
    fn latency_that_is_high_or_jumps_does_not_grow() {
        assert!(slope(|_| 40).abs() < 1e-9);
        assert!(slope(|ms| (ms * 7_919) % 20).abs() < 0.001);
        // Stalls of 200 ms, at the very end and at the begin.
        assert!(slope(|ms| 2 + ms.saturating_sub(800)).abs() < 0.005);
        assert!(slope(|ms| 2 + 200_u64.saturating_sub(ms)).abs() < 0.005);
    }

    #[test]
    fn a_long_run_has_longer_stretches_and_the_same_slope() {
        let mut trend = Trend::default();
        for second in 0..7_200 {
            let due = Duration::from_secs(second);
            trend.add(due, due / 1_000);
        }
        assert!((trend.slope() - 0.001).abs() < 1e-6);
        assert!(trend.stretches.len() <= MOST_STRETCHES);
    }

    #[test]
    fn of_nothing_or_of_one_moment_there_is_no_telling() {
        let mut trend = Trend::default();
        assert_eq!(trend.slope(), 0.0);
        trend.add(Duration::ZERO, Duration::from_millis(50));
        trend.add(Duration::ZERO, Duration::from_millis(90));
        assert_eq!(trend.slope(), 0.0);
    }
}
