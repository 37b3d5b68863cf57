//! CPU steal: processor time that the hypervisor gave to other machines, as Linux counts it in
//! `/proc/stat`.
//!
//! A machine that loses its processors for a moment looks like a slow service and like a late
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
        self.share > Self::NOTEWORTHY || self.worst_second_share > Self::INVALIDATES
    }

    /// Whether a failure meanwhile says nothing about the service.
    pub(crate) fn invalidates_failure(&self) -> bool {
        self.share > Self::INVALIDATES
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
    steal: u64,
}

impl CpuTicks {
    /// `None` where the operating system does not count them.
    fn now() -> Option<Self> {
        #[cfg(target_os = "linux")]
        {
            use procfs::CurrentSI as _;
            Self::of(&procfs::KernelStats::current().ok()?.total)
        }
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// The time of guests is not added: it is in user time already.
    #[cfg(target_os = "linux")]
    fn of(time: &procfs::CpuTime) -> Option<Self> {
        let steal = time.steal?;
        let system = time.system + time.iowait? + time.irq? + time.softirq?;
        Some(Self {
            all: time.user + time.nice + time.idle + system + steal,
            steal,
        })
    }

    /// The share of steal from an earlier moment to this one. Counters that went backwards, as
    /// those of single processors do when they go off line, count as none.
    fn share_since(self, earlier: Self) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|&all| all > 0)?;
        Some(self.steal.saturating_sub(earlier.steal) as f64 / all as f64)
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

    /// The rest of the last second counts in the mean alone: of a few ticks, one of steal would be
    /// a large share.
    fn finish(self, now: Option<CpuTicks>) -> Option<CpuSteal> {
        let share = now?.share_since(self.first?)?;
        Some(CpuSteal {
            share: crate::statistics::rounded(share, 4),
            worst_second_share: crate::statistics::rounded(self.worst.max(share), 4),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(all: u64, steal: u64) -> Option<CpuTicks> {
        Some(CpuTicks { all, steal })
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn guest_time_is_not_counted_twice() {
        use procfs::{FromBufReadSI as _, KernelStats};

        let ticks_of = |cpu: &str| {
            let rest = "ctxt 1\nbtime 1\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n";
            let stat = format!("cpu  {cpu}\ncpu0 1 1 1 1 1 1 1 1 1 1\n{rest}");
            let info = procfs::current_system_info();
            let stats = KernelStats::from_buf_read(stat.as_bytes(), info).unwrap();
            CpuTicks::of(&stats.total)
        };
        assert_eq!(ticks_of("100 10 50 800 20 5 5 10 40 0"), ticks(1_000, 10));
        assert_eq!(ticks_of("1 2 3 4"), None, "a kernel without steal");
    }

    #[test]
    fn short_steal_shows_in_worst_second() {
        let mut meter = StealMeter::start(ticks(0, 0));
        (1..=59).for_each(|second| meter.read(ticks(second * 200, 0)));
        meter.read(ticks(12_000, 120));
        let steal = meter.finish(ticks(12_000, 120)).unwrap();
        assert_eq!((steal.share, steal.worst_second_share), (0.01, 0.6));
        assert!(steal.is_noteworthy() && !steal.invalidates_failure());
    }

    #[test]
    fn short_phase_has_mean_as_worst() {
        let steal = StealMeter::start(ticks(1_000, 7))
            .finish(ticks(1_100, 27))
            .unwrap();
        assert_eq!((steal.share, steal.worst_second_share), (0.2, 0.2));
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
        let share = steal.expect("a tenth of a second has ticks").share;
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
