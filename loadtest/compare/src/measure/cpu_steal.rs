//! CPU steal: processor time that the hypervisor gave to other machines, as Linux counts it in
//! `/proc/stat`.
//!
//! A machine whose processors are taken away for a moment looks like a slow service and like a late
//! load generator. So each phase of a run reads the counters at both edges, and every second in
//! between.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::report::CpuSteal;

impl CpuSteal {
    /// More than this in a phase is worth a warning.
    const NOTEWORTHY: f64 = 0.02;

    /// A probe that fails under more than this is an invalid sample: it says nothing about the
    /// service.
    pub(crate) const INVALIDATES: f64 = 0.1;

    /// Whether a reader should know.
    pub(crate) fn is_noteworthy(&self) -> bool {
        self.stolen_share > Self::NOTEWORTHY || self.worst_second_share > Self::INVALIDATES
    }

    /// Whether a failure meanwhile says nothing about the service.
    pub(crate) fn invalidates_failure(&self) -> bool {
        self.stolen_share > Self::INVALIDATES
    }
}

/// Does the work, and measures CPU steal meanwhile.
pub(crate) async fn during<T>(work: impl Future<Output = T>) -> (T, Option<CpuSteal>) {
    const SECOND: Duration = Duration::from_secs(1);
    let mut meter = StealMeter::start(CpuTicks::now());
    let mut every = tokio::time::interval_at(tokio::time::Instant::now() + SECOND, SECOND);
    // Missed seconds are not made up for at once: between two readings is a second or more.
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            _ = every.tick() => meter.read(CpuTicks::now()),
        }
    };
    (done, meter.finish(CpuTicks::now()))
}

/// Time of all processors since the machine started, in ticks of the kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
struct CpuTicks {
    all: u64,
    stolen: u64,
}

impl CpuTicks {
    /// `None` where the operating system does not count them.
    fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// The line of all processors: user, nice, system, idle, iowait, irq, softirq, steal. The time
    /// of guests comes after, and is in user already.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks = line
            .split_whitespace()
            .take(8)
            .map(|ticks| ticks.parse().ok());
        let ticks = ticks.collect::<Option<Vec<u64>>>()?;
        Some(Self {
            all: ticks.iter().sum(),
            stolen: *ticks.get(7)?,
        })
    }

    /// The share stolen from an earlier moment to this one. Counters that went backwards, as those
    /// of single processors do when they go off line, count as none.
    fn share_since(self, earlier: Self) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|&all| all > 0)?;
        Some(self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64)
    }
}

/// Adds up the readings of one phase.
struct StealMeter {
    first: Option<CpuTicks>,
    last: Option<CpuTicks>,
    worst: f64,
}

impl StealMeter {
    const fn start(now: Option<CpuTicks>) -> Self {
        Self {
            first: now,
            last: now,
            worst: 0.0,
        }
    }

    fn read(&mut self, now: Option<CpuTicks>) {
        let share = now
            .zip(self.last)
            .and_then(|(now, last)| now.share_since(last));
        self.worst = self.worst.max(share.unwrap_or(0.0));
        self.last = now;
    }

    /// The rest of the last second counts in the mean alone: of a few ticks, one stolen would be a
    /// large share.
    fn finish(self, now: Option<CpuTicks>) -> Option<CpuSteal> {
        let share = now?.share_since(self.first?)?;
        Some(CpuSteal {
            stolen_share: crate::statistics::rounded(share, 4),
            worst_second_share: crate::statistics::rounded(self.worst.max(share), 4),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(all: u64, stolen: u64) -> Option<CpuTicks> {
        Some(CpuTicks { all, stolen })
    }

    #[test]
    fn steal_is_the_eighth_figure() {
        let stat = "cpu  100 10 50 800 20 5 5 10 40 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 1\n";
        assert_eq!(CpuTicks::parse(stat), ticks(1_000, 10));
        assert_eq!(
            CpuTicks::parse("cpu  1 2 3\n"),
            None,
            "a kernel without steal"
        );
        assert_eq!(CpuTicks::parse("cpu0 1 2 3 4 5 6 7 8\n"), None);
        assert_eq!(CpuTicks::parse("cpu  1 2 3 4 5 6 7 many\n"), None);
    }

    #[test]
    fn short_steal_shows_in_worst_second() {
        let mut meter = StealMeter::start(ticks(0, 0));
        (1..=59).for_each(|second| meter.read(ticks(second * 200, 0)));
        meter.read(ticks(12_000, 120));
        let steal = meter.finish(ticks(12_000, 120)).unwrap();
        assert_eq!((steal.stolen_share, steal.worst_second_share), (0.01, 0.6));
        assert!(steal.is_noteworthy() && !steal.invalidates_failure());
    }

    #[test]
    fn short_phase_has_mean_as_worst() {
        let steal = StealMeter::start(ticks(1_000, 7))
            .finish(ticks(1_100, 27))
            .unwrap();
        assert_eq!((steal.stolen_share, steal.worst_second_share), (0.2, 0.2));
        assert!(steal.invalidates_failure());
    }

    #[test]
    fn missing_or_reversed_counters_are_unknown() {
        assert_eq!(StealMeter::start(None).finish(ticks(100, 1)), None);
        assert_eq!(StealMeter::start(ticks(100, 1)).finish(None), None);
        assert_eq!(StealMeter::start(ticks(100, 1)).finish(ticks(100, 1)), None);
        assert_eq!(StealMeter::start(ticks(100, 1)).finish(ticks(90, 1)), None);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn linux_counts_steal() {
        let (_, steal) = during(tokio::time::sleep(Duration::from_millis(100))).await;
        let share = steal.expect("a tenth of a second has ticks").stolen_share;
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
