//! The search for capacities: the highest rate that each mode sustains, and that of its floor.
//!
//! **Why floors.** "9,000 quotes per second" says more about the machine than about a dataflow. So
//! each mode is judged as a share of its *floor*: a minimal server on the same libraries, on the
//! same machine, in the same run, asked by the same generator. The missing part to 100 % is the
//! cost of pricing, traces, metrics and checks.
//!
//! Modes and floors take turns, round by round, so that a slow moment of the machine falls on all
//! of them:
//!
//! ```text
//! round 1:  database  its floor  request  its floor  events  its floor
//! round 2:  database  its floor  ...              capacity of each: the median of its rounds
//! ```

mod sustained;
mod target;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use engine::search::Search;
use hdrhistogram::Histogram;
use surge_proto::{DataflowMode, FloorKind};
use tokio_util::sync::CancellationToken;

pub(crate) use self::sustained::{is_in_time, is_sustained, most_in_flight};
use self::target::SearchTarget;
use super::cpu_time::{CpuReading, CpuSeconds};
use super::floors::FloorProcess;
use super::mode_statistics::percentiles;
use super::progress::Steps;
use super::round_robin::Trips;
use super::services::TestedServices;
use crate::args::Args;
use crate::report::{CapacityProbe, CpuSteal, FloorFigures};
use crate::statistics::{median, rounded};
use crate::wording::validity;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Searches of each capacity.
    pub(crate) rounds: u32,
    /// Length of one probe. Above the capacity a queue grows by the excess: in half a second, 4 %
    /// too much is 20 ms.
    probe: Duration,
    /// Repetitions of one probe that is invalid because of CPU steal.
    repeats: u32,
    /// Repetitions for one mode or floor in all rounds: under permanent steal the search must end
    /// as well.
    most_repeated: u32,
    search: Search,
    /// Rate at which the latency of a floor is taken: that of one mode in the measurement.
    quiet_rate: u32,
}

impl Effort {
    /// A minute is enough for the quick one, beside the rest of a comparison.
    pub(crate) fn of(args: &Args) -> Self {
        let modes = args.distinct_modes().len().max(1) as u32;
        let (rounds, probe_ms, repeats, most_repeated) = if args.quick {
            (2, 400, 2, 6)
        } else {
            (3, 1_000, 6, 20)
        };
        let (stride, precision, most_tries) = if args.quick {
            (1.15, 1.15, 5)
        } else {
            (1.1, 1.05, 20)
        };
        Self {
            rounds: args.rounds.unwrap_or(rounds),
            probe: Duration::from_millis(probe_ms),
            repeats,
            most_repeated,
            search: Search {
                stride,
                precision,
                most_tries,
            },
            quiet_rate: (args.rate / modes).max(1),
        }
    }

    /// About how long everything takes for this number of modes with their floors: some seven
    /// probes a search, and their last answers.
    pub(crate) fn estimate(&self, modes: usize) -> Duration {
        self.probe * self.search.most_tries.min(7) * 4 / 3 * self.rounds * 2 * modes as u32
    }
}

/// What the searches found out about one mode or floor.
#[derive(Debug, Clone)]
pub(crate) struct Capacity {
    /// The highest sustained rate of each round.
    pub(crate) rounds: Vec<u32>,
    /// Every rate that was tried.
    pub(crate) probes: Vec<CapacityProbe>,
    /// Latency of a floor at the quiet rate, microseconds.
    quiet: Histogram<u64>,
    /// Processor time of all probes that held.
    used: CpuSeconds,
    /// Quotes of all probes that held.
    quotes: u64,
    /// The first wrong answer: a run with one proves nothing.
    pub(crate) wrong: Option<String>,
    /// Searches that found no sustained rate.
    pub(crate) fruitless: u32,
    /// The last failure, of any probe.
    pub(crate) last_error: Option<String>,
    /// Invalid probes, which were repeated.
    pub(crate) repeated: u32,
    /// Invalid probes that count, because no repetition was left.
    pub(crate) spoiled: u32,
}

impl Capacity {
    pub(crate) fn new() -> Self {
        Self {
            rounds: Vec::new(),
            probes: Vec::new(),
            quiet: engine::histogram(),
            used: CpuSeconds::ZERO,
            quotes: 0,
            wrong: None,
            fruitless: 0,
            last_error: None,
            repeated: 0,
            spoiled: 0,
        }
    }

    pub(crate) fn median(&self) -> Option<f64> {
        median(self.rounds.iter().map(|&rate| f64::from(rate)))
    }

    /// The lowest and the highest of the rounds; a single round has no range.
    pub(crate) fn range(&self) -> Option<[u32; 2]> {
        let range = [*self.rounds.iter().min()?, *self.rounds.iter().max()?];
        (self.rounds.len() > 1).then_some(range)
    }

    /// Processor time of the services for one quote, microseconds.
    pub(crate) fn services_us_per_quote(&self) -> Option<f64> {
        micros_per_quote(self.used.services?, self.quotes)
    }

    /// Processor time of the load generator for one quote, microseconds.
    pub(crate) fn generator_us_per_quote(&self) -> Option<f64> {
        micros_per_quote(self.used.own, self.quotes)
    }

    /// The figures of a floor.
    pub(crate) fn floor(&self) -> FloorFigures {
        FloorFigures {
            capacity_per_s: self.median(),
            capacity_range_per_s: self.range(),
            latency_us: percentiles(&self.quiet),
        }
    }
}

/// One decimal; `None` where nothing was used.
fn micros_per_quote(seconds: f64, quotes: u64) -> Option<f64> {
    (quotes > 0 && seconds > 0.0).then(|| rounded(seconds * 1e6 / quotes as f64, 1))
}

/// The capacities of modes and of their floors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capacities {
    pub(crate) modes: BTreeMap<DataflowMode, Capacity>,
    pub(crate) floors: BTreeMap<DataflowMode, Capacity>,
    /// Why a floor is missing.
    pub(crate) warnings: Vec<String>,
    /// CPU steal meanwhile.
    pub(crate) steal: Option<CpuSteal>,
}

impl Capacities {
    pub(crate) fn floor(&self, kind: FloorKind) -> Option<&Capacity> {
        let mut floors = self.floors.iter();
        let (_, capacity) = floors.find(|(mode, _)| mode.profile().floor == kind)?;
        Some(capacity)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Capacity> {
        self.modes.values().chain(self.floors.values())
    }
}

#[derive(Debug)]
pub(crate) struct SearchCount {
    pub(crate) planned: u32,
    left_out: AtomicU32,
    done: AtomicU32,
}

impl SearchCount {
    /// For this number of modes with their floors.
    pub(crate) fn of(effort: Effort, modes: usize) -> Self {
        Self {
            planned: effort.rounds * 2 * modes as u32,
            left_out: AtomicU32::new(0),
            done: AtomicU32::new(0),
        }
    }

    pub(crate) fn done(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    /// Without the searches of floors that could not be started.
    pub(crate) fn steps(&self) -> Steps {
        let left_out = self.left_out.load(Ordering::Relaxed);
        Steps {
            done: self.done().into(),
            all: self.planned.saturating_sub(left_out).into(),
        }
    }
}

/// Searches in rounds until done, or until `stop`; what was found until then stays.
pub(super) async fn search(
    services: &TestedServices,
    modes: &[DataflowMode],
    trips: &Trips,
    effort: Effort,
    count: &SearchCount,
    stop: &CancellationToken,
) -> Capacities {
    let mut capacities = Capacities::default();
    let (mut floors, mut targets) = (Vec::new(), Vec::new());
    for &mode in modes {
        targets.push(SearchTarget::new(
            services,
            services.quotes.clone(),
            mode,
            trips,
            false,
        ));
        let floor = async {
            let floor = FloorProcess::of(mode).await?;
            Ok((services.quotes_at(&floor.url)?, floor))
        };
        match floor.await {
            Ok((client, floor)) => {
                floors.push(floor);
                targets.push(SearchTarget::new(services, client, mode, trips, true));
            }
            Err(reason) => {
                count.left_out.fetch_add(effort.rounds, Ordering::Relaxed);
                capacities.warnings.push(validity::no_floor(mode, &reason));
            }
        }
    }
    let idle = idle_rate(services).await;
    for _ in 0..effort.rounds {
        for target in &mut targets {
            target.round(effort, idle, stop).await;
            if !stop.is_cancelled() {
                count.done.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    for target in targets {
        let side = if target.is_floor {
            &mut capacities.floors
        } else {
            &mut capacities.modes
        };
        side.insert(target.mode, target.found);
    }
    for floor in floors {
        floor.stop().await;
    }
    capacities
}

/// Processor time that is used without quotes, because of the city.
async fn idle_rate(services: &TestedServices) -> CpuSeconds {
    // Long enough for a batch run or none; it costs little beside a quote.
    const IDLE: Duration = Duration::from_secs(1);
    let before = CpuReading::take(&services.client, &services.target).await;
    tokio::time::sleep(IDLE).await;
    before.rate_until(CpuReading::take(&services.client, &services.target).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(rounds: &[u32]) -> Capacity {
        Capacity {
            rounds: rounds.to_vec(),
            ..Capacity::new()
        }
    }

    #[test]
    fn capacity_is_the_median_of_rounds() {
        assert_eq!(capacity(&[]).median(), None);
        assert_eq!(capacity(&[900]).median(), Some(900.0));
        assert_eq!(capacity(&[1_000, 900]).median(), Some(950.0));
        assert_eq!(capacity(&[1_000, 900, 5_000]).median(), Some(1_000.0));
        assert_eq!(capacity(&[1_000, 900, 5_000]).range(), Some([900, 5_000]));
    }

    #[test]
    fn unused_processor_time_has_no_figure() {
        assert_eq!(Capacity::new().services_us_per_quote(), None);
        let used = Capacity {
            used: CpuSeconds {
                services: Some(0.5),
                own: 0.1,
            },
            quotes: 1_000,
            ..Capacity::new()
        };
        assert_eq!(used.services_us_per_quote(), Some(500.0));
        assert_eq!(used.generator_us_per_quote(), Some(100.0));
    }
}
