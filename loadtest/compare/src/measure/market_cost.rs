//! What old data costs the market, and not only the price: the same evening, simulated once with
//! each pricing.
//!
//! **How this works.** The live measurement is too short to answer this, and riders who get other
//! prices decide differently, so two live runs cannot be compared. So evenings are simulated
//! without the services ([`OfflineSimulation`]). A seed makes one population; it lives through the
//! evening once with fresh data and once with every other pricing, and the differences are taken
//! within the seed. The difference cancels what all pricings of a seed have in common:
//!
//! ```text
//!            fresh   database   request   events   1 min old  ...
//! seed 1      782  ->  +9         -1        +4         -3          one thread takes one seed
//! seed 2      801  ->  -2         +0        -7         +5
//!                      mean difference and its standard error
//! ```

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use city::{OfflineSimulation, Pricing, Score};
use surge_proto::{DataAges, DataflowMode};
use tokio_util::sync::CancellationToken;

use super::progress::{Progress, Steps};
use crate::args::Args;
use crate::report::{Estimate, MarketCost, MarketFigure, MarketRow, ModeFigures};
use crate::statistics::{mean, standard_error};

/// The number of evenings to simulate with each pricing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeedPlan {
    /// The seed of the first; those of the others follow it.
    first: u64,
    /// The number at most.
    pub(crate) most: u32,
    /// No seed after the second is begun that would not be done within this time, going by those
    /// before it.
    within: Duration,
}

/// Of fewer there is no standard error.
const LEAST: u32 = 2;

impl SeedPlan {
    /// As many evenings as a minute is enough for; a number on the command line is carried out
    /// however long it takes.
    pub(crate) fn of(args: &Args) -> Self {
        let (most, seconds) = if args.quick { (8, 3) } else { (24, 60) };
        Self {
            first: args.replay.seed,
            most: args.market_seeds.unwrap_or(most),
            within: match args.market_seeds {
                Some(_) => Duration::MAX,
                None => Duration::from_secs(seconds),
            },
        }
    }

    /// Whether a thread that has `done` seeds in this time should begin the seed with this number.
    fn has_time_for(self, seed: u32, done: u32, elapsed: Duration) -> bool {
        let after_another = elapsed.as_secs_f64() * (1.0 + 1.0 / f64::from(done.max(1)));
        seed < LEAST || after_another < self.within.as_secs_f64()
    }

    /// About how long all of them take, for the progress bar alone.
    pub(crate) fn length(self) -> Duration {
        // What one evening takes on a processor of 2024, on two of them, with the pricings of the
        // default dial.
        const EVENING: Duration = Duration::from_millis(400);
        self.within.min(EVENING * 9 * self.most / 2)
    }

    /// The number of seeds that will be done in the end, going by the time of those done.
    fn likely(self, done: f64, elapsed: Duration) -> u32 {
        if done <= 0.0 {
            return self.most;
        }
        let in_time = (self.within.as_secs_f64() * done / elapsed.as_secs_f64()) as u32;
        in_time.max(done.ceil() as u32).max(LEAST).min(self.most)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    label: String,
    mode: Option<DataflowMode>,
    pricing: Pricing,
    /// As measured; for a pricing that no dataflow had, the age follows from the pricing.
    measured_age: Option<Duration>,
}

impl Candidate {
    /// A pricing that no dataflow was measured at.
    pub(crate) fn unmeasured(pricing: Pricing) -> Self {
        Self {
            label: pricing.to_string(),
            mode: None,
            pricing,
            measured_age: None,
        }
    }

    /// Median age of the data, market time; that of a table is between nothing and a period.
    fn data_age(&self) -> Option<Duration> {
        self.measured_age.or(match self.pricing {
            Pricing::Delayed(age) => Some(age),
            Pricing::Batch(period) => Some(period / 2),
            Pricing::Nightly | Pricing::WithoutSurge | Pricing::Outage { .. } => None,
        })
    }

    fn row(&self, scores: &[Score], fresh: Option<&[Score]>) -> MarketRow {
        let batch_period = match self.pricing {
            Pricing::Batch(period) => Some(period),
            _ => None,
        };
        MarketRow {
            label: self.label.clone(),
            mode: self.mode,
            data_age_market_s: self.data_age().map(|age| age.as_secs_f64()),
            batch_period_market_s: batch_period.map(|period| period.as_secs_f64()),
            seeds: scores.len() as u32,
            figures: estimates(|figure| scores.iter().map(|score| value(figure, score)).collect()),
            against_fresh: fresh.map_or_else(BTreeMap::new, |fresh| differences(scores, fresh)),
        }
    }
}

/// Each mode at the data age that was measured for it, in market time at this speed; a mode without
/// one is left out.
pub(crate) fn of_modes(modes: &BTreeMap<DataflowMode, ModeFigures>, speed: f64) -> Vec<Candidate> {
    let market = |age_ms: f64| Duration::from_millis((age_ms * speed).round() as u64);
    let candidate = |(&mode, figures): (&DataflowMode, &ModeFigures)| {
        let age = market(figures.data_age_ms.p50?);
        let pricing = match mode.profile().ages {
            // Its age runs from nothing to the period: all but one in a hundred stay below the
            // period.
            DataAges::Batch => Pricing::Batch(market(figures.data_age_ms.p99?)),
            DataAges::Steady => Pricing::Delayed(age),
        };
        Some(Candidate {
            label: format!("{mode} ({pricing})"),
            mode: Some(mode),
            pricing,
            measured_age: Some(age),
        })
    };
    modes.iter().filter_map(candidate).collect()
}

/// Simulates the evenings, on all processors; `None` when nothing was asked for, or when it was
/// stopped before one seed was done.
pub(crate) async fn study(
    evening: OfflineSimulation,
    candidates: Vec<Candidate>,
    seeds: SeedPlan,
    progress: Progress,
    stop: &CancellationToken,
) -> Option<MarketCost> {
    if seeds.most == 0 || candidates.is_empty() {
        return None;
    }
    let study = Study {
        candidates: [vec![Candidate::unmeasured(Pricing::FRESH)], candidates].concat(),
        evening,
        seeds,
    };
    let (simulated, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let pricings = study.candidates.len();
    let (counter, stop) = (Arc::clone(&simulated), stop.clone());
    let work = tokio::task::spawn_blocking(move || study.carry_out(&counter, &stop));
    let steps = || {
        let done = simulated.load(Ordering::Relaxed);
        let seeds = seeds.likely(done as f64 / pricings as f64, begun.elapsed());
        let (done, all) = (done as u64, (seeds as usize * pricings) as u64);
        Steps { done, all }
    };
    let detail = || format!("{} of about {} evenings", steps().done, steps().all);
    let shown = progress.during("market", seeds.length(), || Some(steps()), detail, work);
    let result = shown.await;
    result.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

struct Study {
    evening: OfflineSimulation,
    /// Fresh data first.
    candidates: Vec<Candidate>,
    seeds: SeedPlan,
}

impl Study {
    /// A thread takes one seed after the other; `simulated` counts the evenings. A seed that was
    /// not simulated with every pricing has nothing to be paired with, and is dropped.
    fn carry_out(&self, simulated: &AtomicUsize, stop: &CancellationToken) -> Option<MarketCost> {
        let (next, whole) = (AtomicU32::new(0), Mutex::new(BTreeMap::new()));
        let begun = Instant::now();
        let work = || {
            for done in 0.. {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let in_time = self.seeds.has_time_for(seed, done, begun.elapsed());
                if seed >= self.seeds.most || !in_time {
                    break;
                }
                let population = self.evening.population(self.seeds.first + u64::from(seed));
                let simulate = |candidate: &Candidate| {
                    let score =
                        (!stop.is_cancelled()).then(|| population.run(candidate.pricing))?;
                    simulated.fetch_add(1, Ordering::Relaxed);
                    Some(score)
                };
                let Some(scores) = self.candidates.iter().map(simulate).collect() else {
                    break;
                };
                whole
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(seed, scores);
            }
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
                scope.spawn(work);
            }
        });
        let by_seed = whole.into_inner().unwrap_or_else(PoisonError::into_inner);
        let by_seed: Vec<Vec<Score>> = by_seed.into_values().collect();
        (!by_seed.is_empty()).then(|| self.result(&by_seed))
    }

    fn result(&self, by_seed: &[Vec<Score>]) -> MarketCost {
        let scores =
            |place: usize| -> Vec<Score> { by_seed.iter().map(|seed| seed[place]).collect() };
        let fresh = scores(0);
        let row = |(place, candidate): (usize, &Candidate)| {
            candidate.row(&scores(place), (place > 0).then_some(&fresh))
        };
        let scored = self.evening.scored();
        MarketCost {
            from: scored.start.to_string(),
            until: scored.end.to_string(),
            seeds: by_seed.len() as u32,
            rows: self.candidates.iter().enumerate().map(row).collect(),
        }
    }
}

fn value(figure: MarketFigure, score: &Score) -> Option<f64> {
    match figure {
        MarketFigure::MultiplierErrorMeanAbs => score.mean_multiplier_error(),
        MarketFigure::ShareOffBy02 => score.share_off_by_0_2(),
        MarketFigure::MeanMultiplier => score.mean_multiplier(),
        MarketFigure::MeanWaitMin => score.mean_wait_minutes(),
        MarketFigure::ValueUsd => Some(score.value_cents / 100.0),
        MarketFigure::RevenueUsd => Some(score.revenue_cents / 100.0),
        MarketFigure::Unserved => Some(score.unserved as f64),
        MarketFigure::Completed => Some(score.completed as f64),
        MarketFigure::Requests => Some(score.requests as f64),
        MarketFigure::PricedOut => Some(score.priced_out as f64),
    }
}

/// Each figure minus that of fresh data in the same evening.
fn differences(scores: &[Score], fresh: &[Score]) -> BTreeMap<MarketFigure, Estimate> {
    estimates(|figure| {
        let pairs = scores.iter().zip(fresh);
        pairs
            .map(|(score, fresh)| Some(value(figure, score)? - value(figure, fresh)?))
            .collect()
    })
}

/// A figure that is missing from any evening is left out.
fn estimates(
    values: impl Fn(MarketFigure) -> Option<Vec<f64>>,
) -> BTreeMap<MarketFigure, Estimate> {
    let estimate = |figure| {
        let values = values(figure)?;
        let (mean, standard_error) = (mean(&values)?, standard_error(&values));
        Some((
            figure,
            Estimate {
                mean,
                standard_error,
            },
        ))
    };
    MarketFigure::ALL.into_iter().filter_map(estimate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    const SECOND: Duration = Duration::from_secs(1);

    fn seeds(within: Duration) -> SeedPlan {
        SeedPlan {
            first: 1,
            most: 9,
            within,
        }
    }

    #[test]
    fn late_seed_is_not_begun_after_two() {
        let seeds = seeds(SECOND * 6);
        assert!(seeds.has_time_for(0, 0, SECOND * 9) && seeds.has_time_for(1, 1, SECOND * 9));
        // Four seconds for three seeds: the fourth would end after 5.3.
        assert!(seeds.has_time_for(3, 3, SECOND * 4));
        assert!(!seeds.has_time_for(3, 3, SECOND * 5));
        assert!(self::seeds(Duration::MAX).has_time_for(8, 8, SECOND * 1_000_000));
    }

    #[test]
    fn number_of_seeds_follows_from_those_done() {
        let seeds = seeds(SECOND * 6);
        assert_eq!(seeds.likely(0.0, SECOND), 9, "nothing is known yet");
        assert_eq!(seeds.likely(0.5, SECOND / 2), 6);
        assert_eq!(seeds.likely(0.5, SECOND * 60), 2, "two are always done");
        assert_eq!(seeds.likely(4.2, SECOND * 9), 5, "the fifth was begun");
        assert_eq!(self::seeds(Duration::MAX).likely(1.0, SECOND), 9);
    }

    #[test]
    fn each_mode_has_its_measured_age() {
        let mut report = example();
        let candidates = of_modes(&report.modes, 60.0);
        let labels: Vec<&str> = candidates
            .iter()
            .map(|known| known.label.as_str())
            .collect();
        assert_eq!(
            labels,
            [
                "database (5 min batch)",
                "request (0.054 s old)",
                "events (8.5 s old)"
            ]
        );
        assert_eq!(
            candidates[0].data_age(),
            Some(Duration::from_millis(152_400))
        );

        let events = report.modes.get_mut(&DataflowMode::Events).unwrap();
        events.data_age_ms.p50 = None;
        assert_eq!(of_modes(&report.modes, 60.0).len(), 2);
    }

    #[test]
    fn evening_without_rides_has_no_wait() {
        let row = Candidate::unmeasured(Pricing::FRESH).row(&[Score::default()], None);
        assert!(!row.figures.contains_key(&MarketFigure::MeanWaitMin));
        assert_eq!(row.figures[&MarketFigure::Completed].mean, 0.0);
    }
}
