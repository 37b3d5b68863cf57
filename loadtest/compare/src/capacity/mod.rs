//! How many quotes a second each mode sustains, and how many a bare server does that stands on the same.
//!
//! Modes and floors take turns, round by round, so that a slow moment of the machine falls on all of them.

mod contender;
mod sustained;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use self::contender::Contender;
pub(crate) use self::sustained::{LIMIT, is_in_time, is_sustained, most_in_flight};
use super::floors::Floor;
use super::measure::Trips;
use super::median::median;
use super::processor::{Rate, Reading, Seconds};
use super::progress::Steps;
use super::series::Probe;
use super::stolen::Stolen;
use super::suite::Suite;
use engine::histogram;
use engine::search::Search;

/// How thorough to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Searches of each capacity.
    pub(crate) rounds: u32,
    /// Length of one probe. Above the capacity a queue grows by the excess: in half a second, 4 % too much is 20 ms.
    pub(crate) probe: Duration,
    /// How often one probe is made again because the machine was taken away.
    pub(crate) repeats: u32,
    /// How many are made again for one mode or floor in all rounds: on a machine that is always taken away, the search must
    /// end as well.
    pub(crate) most_repeated: u32,
    /// How to search.
    pub(crate) search: Search,
    /// Quotes a second at which the latency of a floor is taken: that of a mode in the comparison.
    pub(crate) quiet_rate: u32,
}

impl Effort {
    /// What a minute is enough for, beside the rest of a quick comparison.
    pub(crate) const fn quick(quiet_rate: u32) -> Self {
        Self {
            rounds: 2,
            probe: Duration::from_millis(400),
            repeats: 2,
            most_repeated: 6,
            search: Search {
                stride: 1.15,
                precision: 1.15,
                most_tries: 5,
            },
            quiet_rate,
        }
    }

    /// What a whole comparison takes its time for.
    pub(crate) const fn thorough(quiet_rate: u32) -> Self {
        Self {
            rounds: 3,
            probe: Duration::from_millis(1_000),
            repeats: 6,
            most_repeated: 20,
            search: Search {
                stride: 1.1,
                precision: 1.05,
                most_tries: 20,
            },
            quiet_rate,
        }
    }

    /// About how long one search takes: some seven probes where it may, and what they leave to be drained.
    fn length_of_search(&self) -> Duration {
        self.probe * self.search.most_tries.min(7) * 4 / 3
    }

    /// About how long everything takes for so many modes with their floors.
    pub(crate) fn estimate(&self, modes: usize) -> Duration {
        self.length_of_search() * self.rounds * 2 * u32::try_from(modes).unwrap_or(u32::MAX)
    }
}

/// What was found out about one mode or floor.
#[derive(Debug, Clone)]
pub(crate) struct Capacity {
    /// The highest rate that held, of each round.
    pub(crate) rounds: Vec<u32>,
    /// Every rate that was tried.
    pub(crate) probes: Vec<Probe>,
    /// Latency at the quiet rate, microseconds.
    pub(crate) quiet: Histogram<u64>,
    /// Processor time of all probes that held.
    spent: Seconds,
    /// Quotes of all probes that held.
    quotes: u64,
    /// The first wrong answer met: a run with one proves nothing.
    pub(crate) wrong: Option<String>,
    /// Searches that found no rate that holds.
    pub(crate) fruitless: u32,
    /// Why the last probe that failed did, unless it was slow and nothing else.
    pub(crate) last_error: Option<String>,
    /// Probes that failed while the machine was taken away, and were made again.
    pub(crate) repeated: u32,
    /// Probes that failed while the machine was taken away, and count.
    pub(crate) spoiled: u32,
}

impl Capacity {
    pub(crate) fn new() -> Self {
        Self {
            rounds: Vec::new(),
            probes: Vec::new(),
            quiet: histogram(),
            spent: Seconds::NOTHING,
            quotes: 0,
            wrong: None,
            fruitless: 0,
            last_error: None,
            repeated: 0,
            spoiled: 0,
        }
    }

    /// The middle of the rounds.
    pub(crate) fn median(&self) -> Option<f64> {
        median(self.rounds.iter().map(|held| f64::from(*held)))
    }

    /// The lowest and the highest of the rounds; one round has no range.
    pub(crate) fn range(&self) -> Option<[u32; 2]> {
        if self.rounds.len() < 2 {
            return None;
        }
        Some([*self.rounds.iter().min()?, *self.rounds.iter().max()?])
    }

    /// Processor time of the services for one quote, microseconds.
    pub(crate) fn cpu_us_per_quote(&self) -> Option<f64> {
        micros_per_quote(self.spent.services?, self.quotes)
    }

    /// Processor time of the load generator for one quote, microseconds.
    pub(crate) fn generator_us_per_quote(&self) -> Option<f64> {
        micros_per_quote(self.spent.own, self.quotes)
    }
}

fn micros_per_quote(seconds: f64, quotes: u64) -> Option<f64> {
    (quotes > 0 && seconds > 0.0).then(|| seconds * 1e6 / quotes as f64)
}

/// The capacities of modes and of their floors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capacities {
    pub(crate) modes: BTreeMap<DataflowMode, Capacity>,
    /// By the mode that stands on it.
    pub(crate) floors: BTreeMap<DataflowMode, Capacity>,
    /// Why a floor is missing.
    pub(crate) warnings: Vec<String>,
    /// What the hypervisor took meanwhile.
    pub(crate) stolen: Option<Stolen>,
}

impl Capacities {
    /// How many probes were made again, and how many count although the machine was taken away.
    pub(crate) fn probes_stolen_from(&self) -> (u32, u32) {
        let all = self.modes.values().chain(self.floors.values());
        all.fold((0, 0), |(repeated, spoiled), capacity| {
            (repeated + capacity.repeated, spoiled + capacity.spoiled)
        })
    }
}

/// How many searches there are, and how many are over.
#[derive(Debug)]
pub(crate) struct Searches {
    planned: u32,
    left_out: AtomicU32,
    done: AtomicU32,
}

impl Searches {
    /// Of so many modes with their floors.
    pub(crate) fn of(effort: Effort, modes: usize) -> Self {
        Self {
            planned: effort.rounds * 2 * u32::try_from(modes).unwrap_or(u32::MAX),
            left_out: AtomicU32::new(0),
            done: AtomicU32::new(0),
        }
    }

    pub(crate) const fn planned(&self) -> u32 {
        self.planned
    }

    pub(crate) fn done(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    /// Without those of floors that cannot be had.
    pub(crate) fn steps(&self) -> Steps {
        let left_out = self.left_out.load(Ordering::Relaxed);
        Steps {
            done: self.done() as usize,
            all: self.planned.saturating_sub(left_out) as usize,
        }
    }
}

/// Measures in rounds until done, or until `stop`; what was found until then stays.
pub(super) async fn measure(
    suite: &Suite,
    modes: &[DataflowMode],
    trips: Trips,
    effort: Effort,
    searches: &Searches,
    stop: &CancellationToken,
) -> Capacities {
    let mut capacities = Capacities::default();
    let mut floors = Vec::new();
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for &mode in modes {
        contenders.push(Contender::service(suite, mode, &trips));
        match floor(suite, mode, &trips).await {
            Ok((floor, contender)) => {
                floors.push(floor);
                contenders.push(contender);
            }
            Err(reason) => {
                searches
                    .left_out
                    .fetch_add(effort.rounds, Ordering::Relaxed);
                capacities.warnings.push(format!(
                    "the floor of {mode} could not be measured: {reason:#}"
                ));
            }
        }
    }
    let idle = idle_cost(suite).await;
    for _ in 0..effort.rounds {
        for contender in &mut contenders {
            contender.round(effort, idle, stop).await;
            if !stop.is_cancelled() {
                searches.done.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    for contender in contenders {
        let side = if contender.is_floor {
            &mut capacities.floors
        } else {
            &mut capacities.modes
        };
        side.insert(contender.mode, contender.found);
    }
    for floor in floors {
        floor.stop().await;
    }
    capacities
}

async fn floor<'a>(
    suite: &'a Suite,
    mode: DataflowMode,
    trips: &Trips,
) -> anyhow::Result<(Floor, Contender<'a>)> {
    let floor = Floor::of(mode).await?;
    let desk = suite.desk_at(&floor.url)?;
    Ok((floor, Contender::floor(suite, desk, mode, trips)))
}

/// What is used when nobody asks for quotes, because of the city.
async fn idle_cost(suite: &Suite) -> Rate {
    let before = Reading::take(&suite.client, &suite.target).await;
    tokio::time::sleep(IDLE).await;
    before.rate_until(Reading::take(&suite.client, &suite.target).await)
}

/// Long enough for a batch run or none; it costs little beside a quote.
const IDLE: Duration = Duration::from_secs(1);

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
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(capacity(&[]).median(), None);
        assert_eq!(capacity(&[900]).median(), Some(900.0));
        assert_eq!(capacity(&[1_000, 900]).median(), Some(950.0));
        assert_eq!(capacity(&[1_000, 900, 5_000]).median(), Some(1_000.0));
        assert_eq!(capacity(&[1_000, 900, 5_000]).range(), Some([900, 5_000]));
    }

    #[test]
    fn what_was_not_spent_has_no_price() {
        assert_eq!(Capacity::new().cpu_us_per_quote(), None);
        let spent = Capacity {
            spent: Seconds {
                services: Some(0.5),
                own: 0.1,
            },
            quotes: 1_000,
            ..Capacity::new()
        };
        assert_eq!(spent.cpu_us_per_quote(), Some(500.0));
        assert_eq!(spent.generator_us_per_quote(), Some(100.0));
    }
}
