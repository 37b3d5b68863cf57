//! Whether latency grows in the course of a run.

use std::time::Duration;

/// The straight line through latency over time, by least squares.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trend {
    count: f64,
    due: f64,
    latency: f64,
    due_squared: f64,
    due_by_latency: f64,
}

impl Trend {
    /// Takes in the latency of what was due so long after the begin.
    pub(crate) fn add(&mut self, due: Duration, latency: Duration) {
        let (due, latency) = (due.as_secs_f64(), latency.as_secs_f64());
        self.count += 1.0;
        self.due += due;
        self.latency += latency;
        self.due_squared += due * due;
        self.due_by_latency += due * latency;
    }

    /// Seconds by which latency grows in a second; 0 where there is no telling. A server that is asked for a tenth more than it
    /// can do is a tenth of a second later every second.
    pub(crate) fn slope(&self) -> f64 {
        let spread = self.count * self.due_squared - self.due * self.due;
        if spread > 0.0 {
            (self.count * self.due_by_latency - self.due * self.latency) / spread
        } else {
            0.0
        }
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
    }

    #[test]
    fn latency_that_is_high_or_jumps_does_not_grow() {
        assert!(slope(|_| 40).abs() < 1e-9);
        assert!(slope(|ms| (ms * 7_919) % 20).abs() < 0.001);
        // A stall of 40 ms at the very end.
        assert!(slope(|ms| 2 + ms.saturating_sub(960)) < 0.005);
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
