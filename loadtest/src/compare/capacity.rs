//! How many quotes a second each mode sustains, and how many a bare server does that stands on the same.
//!
//! Modes and floors take turns, round by round, so that a slow moment of the machine falls on all of them. A rate holds
//! when every quote of a probe is answered, rightly, and 99 of 100 within [`LIMIT`] of the moment they were meant to leave.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

use super::GRACE;
use super::floors::Floor;
use super::measure::{Measured, RoundRobin, Trips};
use super::processor::{Rate, Reading, Seconds};
use super::progress::Steps;
use super::report;
use super::series::Probe;
use super::stolen::Stolen;
use super::suite::{QUOTE_DEADLINE, Suite};
use super::tally::Failures;
use crate::load::search::{self, Search};
use crate::load::{Plan, QuoteDesk, Schedule, histogram};

/// The latency that 99 of 100 quotes must keep.
pub(crate) const LIMIT: Duration = Duration::from_millis(50);

/// How thorough to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Searches of each capacity.
    pub(crate) rounds: u32,
    /// Length of one probe. Above the capacity a queue grows by the excess: in half a second, 10 % too much is 50 ms.
    pub(crate) probe: Duration,
    /// See [`Search::stride`].
    pub(crate) stride: f64,
    /// See [`Search::precision`].
    pub(crate) precision: f64,
    /// See [`Search::most_tries`].
    pub(crate) most_tries: u32,
    /// Quotes a second at which the latency of a floor is taken: that of a mode in the comparison.
    pub(crate) quiet_rate: u32,
}

impl Effort {
    /// About how long one search takes: some seven probes where it may, and what they leave to be drained.
    fn search(&self) -> Duration {
        self.probe * self.most_tries.min(7) * 4 / 3
    }

    /// About how long everything takes for so many modes with their floors.
    pub(crate) fn estimate(&self, modes: usize) -> Duration {
        self.search() * self.rounds * 2 * u32::try_from(modes).unwrap_or(u32::MAX)
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
        let mut sorted = self.rounds.clone();
        sorted.sort_unstable();
        let (low, high) = (
            sorted.get((sorted.len().max(1) - 1) / 2)?,
            sorted.get(sorted.len() / 2)?,
        );
        Some(f64::from(low + high) / 2.0)
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

/// A mode or a floor in the rounds.
struct Contender<'a> {
    mode: DataflowMode,
    quotes: RoundRobin,
    suite: &'a Suite,
    is_floor: bool,
    found: Capacity,
}

impl<'a> Contender<'a> {
    fn service(suite: &'a Suite, mode: DataflowMode, trips: &Trips) -> Self {
        Self::new(suite, suite.desk.clone(), mode, trips)
    }

    fn floor(suite: &'a Suite, desk: QuoteDesk, mode: DataflowMode, trips: &Trips) -> Self {
        Self {
            is_floor: true,
            ..Self::new(suite, desk, mode, trips)
        }
    }

    fn new(suite: &'a Suite, desk: QuoteDesk, mode: DataflowMode, trips: &Trips) -> Self {
        Self {
            mode,
            quotes: RoundRobin {
                desk,
                modes: vec![mode],
                trips: Arc::clone(trips),
                oracle: Arc::new(|_| None),
                recorder: None,
            },
            suite,
            is_floor: false,
            found: Capacity::new(),
        }
    }

    async fn round(&mut self, effort: Effort, idle: Rate, stop: &CancellationToken) {
        if self.found.rounds.is_empty() && self.is_floor {
            let quiet = self.probe(effort.quiet_rate, effort.probe * 2, stop).await;
            self.found.quiet = quiet.tally(self.mode).latency.clone();
        }
        let from = match self.found.rounds.last() {
            Some(&last) => last,
            None => self.saturated(effort, idle, stop).await,
        };
        let search = Search {
            from,
            stride: effort.stride,
            precision: effort.precision,
            most_tries: effort.most_tries,
        };
        let found = search
            .highest(async |rate| self.holds(rate, effort.probe, idle, stop).await)
            .await;
        if !stop.is_cancelled() {
            self.found.rounds.extend(found);
            self.found.fruitless += u32::from(found.is_none());
        }
    }

    /// About where the capacity is: what gets done of far too much. It spares the search most of its way.
    async fn saturated(&mut self, effort: Effort, idle: Rate, stop: &CancellationToken) -> u32 {
        let mut rate = 4_000;
        while rate < search::HIGHEST && !stop.is_cancelled() {
            let measured = self.try_once(rate, effort.probe / 2, idle, stop).await;
            if !is_sustained(&measured, self.mode) {
                return measured.answered_per_s(self.mode).unwrap_or(rate);
            }
            rate *= 4;
        }
        rate
    }

    async fn holds(
        &mut self,
        rate: u32,
        length: Duration,
        idle: Rate,
        stop: &CancellationToken,
    ) -> bool {
        if stop.is_cancelled() {
            return false;
        }
        let measured = self.attempt(rate, length, idle, stop).await;
        is_sustained(&measured, self.mode)
    }

    /// Asks at this rate until what comes of it says something of the service.
    async fn attempt(
        &mut self,
        rate: u32,
        length: Duration,
        idle: Rate,
        stop: &CancellationToken,
    ) -> Measured {
        let mode = self.mode;
        let disturbed = |probe: &Measured| !stop.is_cancelled() && was_taken_away(probe, mode);
        let most = REPEATS.min(MOST_REPEATED.saturating_sub(self.found.repeated));
        let probe = async || self.try_once(rate, length, idle, stop).await;
        let (measured, repeated) = undisturbed(most, probe, disturbed).await;
        self.found.repeated += repeated;
        self.found.spoiled += u32::from(disturbed(&measured));
        let before_the_last = self.found.probes.iter_mut().rev().skip(1);
        for probe in before_the_last.take(repeated as usize) {
            probe.repeated = true;
        }
        measured
    }

    /// Asks at this rate, and writes down what came of it.
    async fn try_once(
        &mut self,
        rate: u32,
        length: Duration,
        idle: Rate,
        stop: &CancellationToken,
    ) -> Measured {
        let before = self.reading().await;
        let measured = self.probe(rate, length, stop).await;
        let used = before.used_until(self.reading().await, idle);
        self.note(rate, &measured, used);
        measured
    }

    fn note(&mut self, rate: u32, measured: &Measured, used: Seconds) {
        let (found, tally) = (&mut self.found, measured.tally(self.mode));
        let held = is_sustained(measured, self.mode);
        let mut cost = None;
        // A service that does not tell what it has used, for once, is left out with its quotes.
        if let (true, Some(services)) = (held, used.services) {
            cost = micros_per_quote(services, tally.quotes);
            found.spent = found.spent.plus(used);
            found.quotes += tally.quotes;
        }
        found.probes.push(Probe {
            mode: self.mode,
            floor: self.is_floor,
            rate_per_s: rate,
            held,
            latency_us: report::latency(&tally.latency),
            cpu_us_per_quote: cost.filter(|_| !self.is_floor).map(f64::round),
            stolen_share: measured.stolen.map(|stolen| stolen.stolen_share),
            repeated: false,
        });
        if let Some(failed) = tally.failures().next() {
            found.last_error = Some(failed.example.clone());
        }
        let wrong = tally.failures().find(|failures| failures.wrong_answers);
        if let (None, Some(Failures { example, .. })) = (&found.wrong, wrong) {
            found.wrong = Some(example.clone());
        }
    }

    async fn reading(&self) -> Reading {
        Reading::take(&self.suite.client, &self.suite.target).await
    }

    async fn probe(&self, rate: u32, length: Duration, stop: &CancellationToken) -> Measured {
        let plan = Plan {
            schedule: Schedule::constant(rate, length),
            max_in_flight: most_in_flight(rate),
            drain: QUOTE_DEADLINE + GRACE,
        };
        self.quotes.run(plan, stop.clone()).await
    }
}

/// How often a probe is made again because the machine was taken away.
const REPEATS: u32 = 2;

/// How many are made again for one mode or floor in all rounds: on a machine that is always taken away, the search must end
/// as well.
const MOST_REPEATED: u32 = 6;

/// The bound on quotes under way in a probe: when a quarter of a second of arrivals is unanswered, more than one in a
/// hundred has long missed the limit, so it never decides. It only spares us the rest of a queue that grows.
pub(crate) fn most_in_flight(rate: u32) -> u32 {
    (rate / 4).max(256)
}

/// Makes a probe, and makes it again when it was disturbed, `most` times at most. Gives the last, and how many were made
/// before it.
async fn undisturbed<T>(
    most: u32,
    mut probe: impl AsyncFnMut() -> T,
    disturbed: impl Fn(&T) -> bool,
) -> (T, u32) {
    let (mut last, mut repeated) = (probe().await, 0);
    while repeated < most && disturbed(&last) {
        last = probe().await;
        repeated += 1;
    }
    (last, repeated)
}

/// Whether a rate failed while the hypervisor had the processors.
fn was_taken_away(measured: &Measured, mode: DataflowMode) -> bool {
    !is_sustained(measured, mode) && measured.stolen.is_some_and(|stolen| stolen.is_spoiling())
}

/// Whether a rate holds.
pub(crate) fn is_sustained(measured: &Measured, mode: DataflowMode) -> bool {
    let tally = measured.tally(mode);
    let p99 = Duration::from_micros(tally.latency.value_at_quantile(0.99));
    let all_sent = measured
        .delivery
        .as_ref()
        .is_some_and(|delivery| delivery.dropped == 0 && delivery.unanswered == 0);
    all_sent && tally.errors() == 0 && tally.quotes > 0 && p99 <= LIMIT
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
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(capacity(&[]).median(), None);
        assert_eq!(capacity(&[900]).median(), Some(900.0));
        assert_eq!(capacity(&[1_000, 900]).median(), Some(950.0));
        assert_eq!(capacity(&[1_000, 900, 5_000]).median(), Some(1_000.0));
        assert_eq!(capacity(&[1_000, 900, 5_000]).range(), Some([900, 5_000]));
    }

    #[tokio::test]
    async fn a_probe_that_was_disturbed_is_made_again_but_not_for_ever() {
        let mut made = 0;
        let mut probe = async || {
            made += 1;
            made
        };
        assert_eq!(undisturbed(2, &mut probe, |_| false).await, (1, 0));
        assert_eq!(undisturbed(2, &mut probe, |&nth| nth == 2).await, (3, 1));
        assert_eq!(undisturbed(2, &mut probe, |_| true).await, (6, 2));
        assert_eq!(undisturbed(0, &mut probe, |_| true).await, (7, 0));
    }

    #[test]
    fn only_what_failed_while_much_was_taken_was_disturbed() {
        let mode = DataflowMode::Events;
        let failed = Measured::nothing(&[mode]);
        assert!(!was_taken_away(&failed, mode));
        let taken = |stolen_share| Measured {
            stolen: Some(Stolen {
                stolen_share,
                worst_second_share: stolen_share,
            }),
            ..failed.clone()
        };
        assert!(!was_taken_away(&taken(0.09), mode));
        assert!(was_taken_away(&taken(0.11), mode));
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
