//! When requests are meant to leave: fixed before the first one leaves, and independent of answers.
//!
//! A schedule is a row of steps, each with a rate, and the gaps between arrivals: even, or drawn
//! from an exponential distribution (a Poisson process: people who do not know of each other).
//! [`Offsets`] computes one arrival at a time, so a day of arrivals takes no more memory than a
//! second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1};

/// Intended send times, counted from the start of a run. A clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    steps: Arc<[ScheduleStep]>,
    gaps: Gaps,
}

/// How arrivals follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gaps {
    /// All of the same length.
    Even,
    /// Drawn from an exponential distribution.
    Exponential { seed: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ScheduleStep {
    rate_per_second: u32,
    length: Duration,
}

impl Schedule {
    /// `rate_per_second` arrivals a second, evenly spread over `length`.
    pub fn constant(rate_per_second: u32, length: Duration) -> Self {
        Self::steps(&[(rate_per_second, length)])
    }

    /// Arrivals of a Poisson process over `length`: `rate_per_second` a second on average. The same
    /// seed gives the same arrivals.
    pub fn poisson(rate_per_second: u32, length: Duration, seed: u64) -> Self {
        Self {
            gaps: Gaps::Exponential { seed },
            ..Self::constant(rate_per_second, length)
        }
    }

    /// One rate after the other, each evenly spread over its length; a rate of zero is a pause.
    pub fn steps(steps: &[(u32, Duration)]) -> Self {
        let step = |&(rate_per_second, length)| ScheduleStep {
            rate_per_second,
            length,
        };
        Self {
            steps: steps.iter().map(step).collect(),
            gaps: Gaps::Even,
        }
    }

    /// When each request is meant to leave, in order.
    pub fn offsets(&self) -> Offsets {
        Offsets::new(self.clone())
    }

    /// The number of arrivals. Counts them one by one.
    pub fn arrivals(&self) -> u64 {
        self.offsets().count() as u64
    }

    /// From the start to the end of the last step.
    pub fn length(&self) -> Duration {
        self.steps
            .iter()
            .fold(Duration::ZERO, |sum, step| sum.saturating_add(step.length))
    }
}

/// The intended send times of a schedule, one after the other.
#[derive(Debug, Clone)]
pub struct Offsets {
    schedule: Schedule,
    /// The current step, and when it began.
    step: usize,
    began: Duration,
    /// Arrivals of this step so far, for even gaps.
    arrived: u64,
    /// The last arrival of this step, for drawn gaps, in nanoseconds with their fraction.
    last_nanos: f64,
    rng: ChaCha8Rng,
}

impl Offsets {
    fn new(schedule: Schedule) -> Self {
        let seed = match schedule.gaps {
            Gaps::Even => 0,
            Gaps::Exponential { seed } => seed,
        };
        Self {
            schedule,
            step: 0,
            began: Duration::ZERO,
            arrived: 0,
            last_nanos: 0.0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// When the next arrival of the step is due, after the start of the step.
    fn next_within(&mut self, rate_per_second: u32) -> Duration {
        match self.schedule.gaps {
            Gaps::Even => self.next_even(rate_per_second),
            Gaps::Exponential { .. } => self.next_drawn(rate_per_second),
        }
    }

    /// Multiplies instead of adding gaps: a third of a second is no whole number of nanoseconds.
    fn next_even(&mut self, rate_per_second: u32) -> Duration {
        let rate = u64::from(rate_per_second);
        let (seconds, rest) = (self.arrived / rate, self.arrived % rate);
        self.arrived += 1;
        Duration::from_secs(seconds) + Duration::from_nanos(rest * NANOS_PER_SECOND / rate)
    }

    fn next_drawn(&mut self, rate_per_second: u32) -> Duration {
        let gap: f64 = Exp1.sample(&mut self.rng);
        self.last_nanos += gap * 1e9 / f64::from(rate_per_second);
        // A number too large for the type saturates, and lies beyond any step.
        Duration::from_nanos(self.last_nanos as u64)
    }

    /// Goes to the next step. An exponential gap has no memory, so nothing is carried over.
    fn next_step(&mut self, length: Duration) {
        self.step += 1;
        self.began = self.began.saturating_add(length);
        self.arrived = 0;
        self.last_nanos = 0.0;
    }
}

impl Iterator for Offsets {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        loop {
            let step = *self.schedule.steps.get(self.step)?;
            if step.rate_per_second > 0 {
                let within = self.next_within(step.rate_per_second);
                if within < step.length {
                    return Some(self.began + within);
                }
            }
            self.next_step(step.length);
        }
    }
}

/// One request that is due.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Its number in the schedule, from zero.
    pub index: u64,
    /// When it is meant to leave, from the start of the schedule.
    pub due: Duration,
    /// The same moment, by the clock.
    pub intended: Instant,
}

impl Arrival {
    /// Time since the intended send: the latency, once the answer is complete.
    pub fn elapsed(&self) -> Duration {
        self.intended.elapsed()
    }
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn even_arrivals_do_not_drift() {
        let schedule = Schedule::constant(300, 60 * SECOND);
        let offsets: Vec<Duration> = schedule.offsets().collect();
        assert_eq!(offsets.len(), 18_000);
        assert_eq!(offsets[0], Duration::ZERO);
        assert_eq!(offsets[300], SECOND);
        assert_eq!(offsets[17_700], 59 * SECOND);
        assert_eq!(schedule.length(), 60 * SECOND);
    }

    #[test]
    fn rate_of_zero_is_a_pause() {
        let schedule = Schedule::steps(&[(2, SECOND), (0, SECOND), (4, SECOND / 2)]);
        let millis: Vec<u128> = schedule.offsets().map(|at| at.as_millis()).collect();
        assert_eq!(millis, [0, 500, 2_000, 2_250]);
        assert_eq!(schedule.length(), SECOND * 5 / 2);
        assert_eq!(Schedule::steps(&[]).arrivals(), 0);
    }

    /// An exponential distribution has its mean as standard deviation, and 63.2 % of it (1 - 1/e)
    /// lie below the mean.
    #[test]
    fn gaps_of_a_poisson_process_are_exponential() {
        let offsets: Vec<f64> = Schedule::poisson(1_000, 100 * SECOND, 7)
            .offsets()
            .map(|at| at.as_secs_f64() * 1e3)
            .collect();
        let gaps: Vec<f64> = offsets.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        let below = gaps.iter().filter(|&&gap| gap < mean).count() as f64 / count;
        assert!((mean - 1.0).abs() < 0.02, "mean {mean} ms");
        assert!((variance.sqrt() - 1.0).abs() < 0.03, "{variance}");
        assert!((below - 0.632).abs() < 0.01, "{below} below the mean");
    }

    fn some_steps() -> impl Strategy<Value = Vec<(u32, Duration)>> {
        let step = (0_u32..3_000, 0_u64..700);
        let step = step.prop_map(|(rate, millis)| (rate, Duration::from_millis(millis)));
        prop::collection::vec(step, 0..6)
    }

    proptest! {
        // Each case draws hundreds of times, in a debug build.
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn even_arrivals_follow_the_rates_in_order(steps in some_steps()) {
            let schedule = Schedule::steps(&steps);
            let offsets: Vec<Duration> = schedule.offsets().collect();
            // The first arrival of a step comes at its start, so a partial gap counts as one.
            let expected: u128 = steps
                .iter()
                .map(|&(rate, length)| length.as_nanos() * u128::from(rate))
                .map(|nanos| nanos.div_ceil(u128::from(NANOS_PER_SECOND)))
                .sum();
            prop_assert_eq!(offsets.len() as u128, expected);
            prop_assert!(offsets.is_sorted());
            prop_assert!(offsets.iter().all(|&at| at < schedule.length()));
        }

        #[test]
        fn same_seed_gives_the_same_arrivals(rate in 1_u32..1_000, seed: u64) {
            let schedule = Schedule::poisson(rate, SECOND, seed);
            let offsets: Vec<Duration> = schedule.offsets().collect();
            prop_assert!(offsets.is_sorted());
            prop_assert!(offsets.iter().all(|&at| at < SECOND));
            prop_assert!(offsets.iter().copied().eq(schedule.offsets()));
            let other = Schedule::poisson(rate, SECOND, seed ^ 1);
            prop_assert!(offsets.is_empty() || !offsets.iter().copied().eq(other.offsets()));
            // Six standard deviations of a Poisson count.
            let off = (offsets.len() as f64 - f64::from(rate)).abs();
            let allowed = 6.0 * f64::from(rate).sqrt() + 3.0;
            prop_assert!(off <= allowed, "{} of {}", offsets.len(), rate);
        }
    }
}
