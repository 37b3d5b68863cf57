//! Processor time that the hypervisor gave to somebody else, "steal" in `/proc/stat`. A machine that was taken away for a
//! moment looks like a slow service and like a late load generator; here is how to tell them apart.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::capacity::Capacities;

/// What was taken away during one stretch of work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Stolen {
    /// Share of the processors' time, 0 to 1.
    pub stolen_share: f64,
    /// The same of the second in which it was most: a short theft is lost in the mean of a long stretch.
    pub worst_second_share: f64,
}

/// What was taken away, phase by phase. A share is `None` where the phase did not take place, or where the operating
/// system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StolenByPhase {
    /// While the city warmed up.
    pub warm_up: Option<Stolen>,
    /// While quotes were measured.
    pub measurement: Option<Stolen>,
    /// While the rate climbed to the breaking point.
    pub climb: Option<Stolen>,
    /// While capacities were looked for.
    pub capacity: Option<Stolen>,
    /// While evenings were lived off the wire: that makes them fewer, not other.
    pub market: Option<Stolen>,
    /// Probes of the search for capacities that failed while the machine was taken away, and so were tried again.
    pub probes_repeated: u32,
    /// Probes that failed in the same way when there were no tries left, and so count.
    pub probes_spoiled: u32,
}

impl StolenByPhase {
    /// With what was taken from the search for capacities.
    pub(crate) fn with(self, capacities: &Capacities) -> Self {
        let (probes_repeated, probes_spoiled) = capacities.probes_stolen_from();
        Self {
            capacity: capacities.stolen,
            probes_repeated,
            probes_spoiled,
            ..self
        }
    }

    /// What a reader should know of it, a sentence each; of the measurement only where `valid`, for a void run has that
    /// among its reasons.
    pub(crate) fn warnings(&self, valid: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(stolen) = self.measurement.filter(|it| valid && it.is_noteworthy()) {
            let taken = stolen.in_words(DURING_THE_MEASUREMENT);
            warnings.push(format!("{taken}: latencies may be too high by that"));
        }
        if let Some(stolen) = self.capacity.filter(Stolen::is_noteworthy) {
            let taken = stolen.in_words("the search for capacities");
            warnings.push(format!("{taken}: capacities may be too low by that"));
        }
        if self.probes_repeated > 0 {
            warnings.push(format!(
                "{} probes for a capacity failed while the hypervisor had more than {:.0} % of the processors and were made \
                 again; {} failed so a last time and count",
                self.probes_repeated,
                SPOILING * 100.0,
                self.probes_spoiled
            ));
        }
        warnings
    }
}

/// The phase, in [`Stolen::in_words`].
pub(crate) const DURING_THE_MEASUREMENT: &str = "the measurement";

impl Stolen {
    /// Whether a reader should know.
    pub(crate) fn is_noteworthy(&self) -> bool {
        self.stolen_share > NOTEWORTHY || self.worst_second_share > SPOILING
    }

    /// Whether what failed meanwhile says nothing of the service.
    pub(crate) fn is_spoiling(&self) -> bool {
        self.stolen_share > SPOILING
    }

    /// Such as "the hypervisor took 11 % of the processors during the measurement, 43 % in its worst second".
    pub(crate) fn in_words(&self, phase: &str) -> String {
        format!(
            "the hypervisor took {} of the processors during {phase}, {} in its worst second",
            percent(self.stolen_share),
            percent(self.worst_second_share)
        )
    }
}

/// What is there is not called nothing.
fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.005 {
        return "less than 1 %".to_owned();
    }
    format!("{:.0} %", share * 100.0)
}

/// More than this is told.
const NOTEWORTHY: f64 = 0.02;

/// A probe that fails while more than this is taken has not been failed by the service.
const SPOILING: f64 = 0.1;

/// Does the work and looks at the processors meanwhile: at both edges, and every second in between.
pub(crate) async fn during<T>(work: impl Future<Output = T>) -> (T, Option<Stolen>) {
    let mut watch = Watch::begin(Ticks::now());
    let mut every = tokio::time::interval_at(tokio::time::Instant::now() + SECOND, SECOND);
    // Seconds that were missed are not made up for in an instant: each look is at a second or more.
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            _ = every.tick() => watch.look(Ticks::now()),
        }
    };
    (done, watch.end(Ticks::now()))
}

const SECOND: Duration = Duration::from_secs(1);

/// Time of all processors since the machine started, in ticks of the kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// Where the operating system does not tell, there is none.
    fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// The line of all processors: user, nice, system, idle, iowait, irq, softirq, steal. What guests of ours took comes
    /// after, and is in user already.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Option<Vec<u64>> = line
            .split_whitespace()
            .take(8)
            .map(|ticks| ticks.parse().ok())
            .collect();
        let ticks = ticks.filter(|ticks| ticks.len() == 8)?;
        Some(Self {
            all: ticks.iter().sum(),
            stolen: ticks[7],
        })
    }

    /// The share that was taken from an earlier moment to this one. Counters that went backwards, as those of single
    /// processors do when they go off line, say nothing was.
    fn share_since(self, earlier: Self) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|&all| all > 0)?;
        Some(self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64)
    }
}

/// The processors, watched.
struct Watch {
    begun: Option<Ticks>,
    last: Option<Ticks>,
    worst: f64,
}

impl Watch {
    const fn begin(now: Option<Ticks>) -> Self {
        Self {
            begun: now,
            last: now,
            worst: 0.0,
        }
    }

    fn look(&mut self, now: Option<Ticks>) {
        let share = now
            .zip(self.last)
            .and_then(|(now, last)| now.share_since(last));
        self.worst = self.worst.max(share.unwrap_or(0.0));
        self.last = now;
    }

    /// What is left of the last second counts in the mean alone: of a few ticks, one stolen would be a large share.
    fn end(self, now: Option<Ticks>) -> Option<Stolen> {
        let stolen_share = now?.share_since(self.begun?)?;
        let whole = |share: f64| (share * 1e4).round() / 1e4;
        Some(Stolen {
            stolen_share: whole(stolen_share),
            worst_second_share: whole(self.worst.max(stolen_share)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(all: u64, stolen: u64) -> Option<Ticks> {
        Some(Ticks { all, stolen })
    }

    #[test]
    fn steal_is_the_eighth_figure_and_guests_are_not_counted_twice() {
        let stat = "cpu  100 10 50 800 20 5 5 10 40 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nintr 1\n";
        assert_eq!(Ticks::parse(stat), ticks(1_000, 10));
        assert_eq!(Ticks::parse("cpu  1 2 3\n"), None, "a kernel without steal");
        assert_eq!(Ticks::parse("cpu0 1 2 3 4 5 6 7 8\n"), None);
        assert_eq!(Ticks::parse("cpu  1 2 3 4 5 6 7 many\n"), None);
    }

    #[test]
    fn a_short_theft_shows_in_the_worst_second() {
        let mut watch = Watch::begin(ticks(0, 0));
        for second in 1..=59 {
            watch.look(ticks(second * 200, 0));
        }
        watch.look(ticks(12_000, 120));
        let stolen = watch.end(ticks(12_000, 120)).unwrap();
        assert_eq!(
            (stolen.stolen_share, stolen.worst_second_share),
            (0.01, 0.6)
        );
        assert!(stolen.is_noteworthy() && !stolen.is_spoiling());
        assert_eq!(
            stolen.in_words("the measurement"),
            "the hypervisor took 1 % of the processors during the measurement, 60 % in its worst second"
        );
    }

    #[test]
    fn what_is_shorter_than_a_second_has_its_mean_for_the_worst() {
        let stolen = Watch::begin(ticks(1_000, 7)).end(ticks(1_100, 27)).unwrap();
        assert_eq!((stolen.stolen_share, stolen.worst_second_share), (0.2, 0.2));
        assert!(stolen.is_spoiling());
    }

    #[test]
    fn where_nobody_tells_nothing_is_known() {
        assert_eq!(Watch::begin(None).end(ticks(100, 1)), None);
        assert_eq!(Watch::begin(ticks(100, 1)).end(None), None);
        // No time passed, and counters that went back.
        assert_eq!(Watch::begin(ticks(100, 1)).end(ticks(100, 1)), None);
        assert_eq!(Watch::begin(ticks(100, 1)).end(ticks(90, 1)), None);
    }

    #[test]
    fn a_reader_is_told_of_much_and_not_of_little() {
        let taken = |stolen_share| {
            Some(Stolen {
                stolen_share,
                worst_second_share: stolen_share,
            })
        };
        let mut stolen = StolenByPhase {
            measurement: taken(0.019),
            capacity: taken(0.02),
            ..StolenByPhase::default()
        };
        assert_eq!(stolen.warnings(true), [""; 0]);
        (stolen.measurement, stolen.capacity) = (taken(0.11), taken(0.05));
        (stolen.probes_repeated, stolen.probes_spoiled) = (3, 1);
        let warnings = stolen.warnings(true);
        for (warning, figure) in warnings.iter().zip(["took 11 %", "took 5 %", "3 probes"]) {
            assert!(warning.contains(figure), "{warning}");
        }
        assert_eq!(stolen.warnings(false), warnings[1..]);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn linux_tells() {
        let (_, stolen) = during(tokio::time::sleep(SECOND / 10)).await;
        let share = stolen.expect("a tenth of a second has ticks").stolen_share;
        assert!((0.0..=1.0).contains(&share), "{share}");
    }
}
