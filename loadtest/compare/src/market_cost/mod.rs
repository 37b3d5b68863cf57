//! What staleness costs the market, and not only the price: the same evening lived again for each dataflow, with quotes
//! made from data as old as this run measured it, and a few ages more.
//!
//! The live measurement is too short and too much its own to answer this: a city that was quoted otherwise is another
//! city. So evenings are lived off the wire ([`OfflineSimulation`]), each seed once with fresh data and once with every other
//! pricing, and the differences are taken seed by seed: what the seeds have in common falls out of them. What is left is
//! given with its standard error, because most of it is noise.

mod candidates;
mod phase;
mod statistics;
mod table;
pub(crate) mod wording;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;
use tokio_util::sync::CancellationToken;

pub(crate) use candidates::{Candidate, dial, of_modes};
pub(crate) use phase::study;
pub use statistics::{Estimate, Figure};
pub(crate) use table::COLUMNS;
pub(crate) use wording::{TITLE, done, findings};

use city::{OfflineSimulation, Population, Pricing, Score};

/// What each pricing came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MarketCost {
    /// Market time from which on riders were scored, RFC 3339.
    pub from: String,
    /// Market time until which they were.
    pub until: String,
    /// Evenings lived with each pricing, one a seed.
    pub seeds: u32,
    /// Fresh data first.
    pub rows: Vec<Row>,
}

/// One pricing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What the quotes were made from, in words.
    pub label: String,
    /// The dataflow that this run measured to be like that; `None` for an age that nobody was measured at.
    pub mode: Option<DataflowMode>,
    /// How old the data was, market seconds: half of the quotes had younger data. `None` where there was none, or it was
    /// of another day.
    pub data_age_market_s: Option<f64>,
    /// Market seconds from one rewriting of the table to the next, for data that is read from one.
    pub batch_period_market_s: Option<f64>,
    /// Evenings behind each figure.
    pub seeds: u32,
    /// Each figure as it was.
    pub figures: BTreeMap<Figure, Estimate>,
    /// Each figure minus that of fresh data, evening by evening; empty for fresh data itself.
    pub against_fresh: BTreeMap<Figure, Estimate>,
}

impl Row {
    /// The difference to fresh data, if there is one.
    pub(crate) fn difference(&self, figure: Figure) -> Option<&Estimate> {
        self.against_fresh.get(&figure)
    }

    /// That difference, if it can be told from noise.
    pub(crate) fn told(&self, figure: Figure) -> Option<&Estimate> {
        self.difference(figure)
            .filter(|difference| difference.differs_from_zero(self.seeds))
    }
}

/// What is to be found out.
#[derive(Debug, Clone)]
pub(crate) struct Study {
    pub(crate) evening: OfflineSimulation,
    /// Fresh data is always there besides.
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) seeds: Seeds,
}

/// How many evenings to live with each pricing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeds {
    /// The seed of the first; those of the others follow it.
    pub(crate) first: u64,
    /// How many at most.
    pub(crate) most: u32,
    /// No seed after the second is begun that would not be done within this time, going by those before it.
    pub(crate) within: Duration,
}

impl Seeds {
    /// Whether to begin the seed after so many.
    fn has_time_for(self, done: usize, elapsed: Duration) -> bool {
        done < LEAST as usize
            || elapsed.as_secs_f64() * (1.0 + 1.0 / done as f64) < self.within.as_secs_f64()
    }

    /// About how long all of them take.
    pub(crate) fn length(self) -> Duration {
        // Pricings there are on the default dial.
        const PRICINGS: u32 = 9;
        self.within
            .min(ABOUT_AN_EVENING * PRICINGS * self.most / PROCESSORS)
    }

    /// How many there will have been in the end, going by the time that so many took.
    fn likely(self, done: f64, elapsed: Duration) -> u32 {
        if done <= 0.0 {
            return self.most;
        }
        let each = elapsed.as_secs_f64() / done;
        let in_time = (self.within.as_secs_f64() / each) as u32;
        in_time.max(done.ceil() as u32).max(LEAST).min(self.most)
    }
}

/// For the progress bar alone, and only until evenings were lived: what one takes on a processor of 2024, and how many of
/// those there may be.
const ABOUT_AN_EVENING: Duration = Duration::from_millis(400);
const PROCESSORS: u32 = 2;

/// Of fewer there is no standard error.
const LEAST: u32 = 2;

impl Study {
    /// How many evenings it takes.
    pub(crate) fn evenings(&self) -> usize {
        self.seeds.most as usize * self.pricings().len()
    }

    /// Lives all evenings, on all processors; `lived` counts them. When `stop` comes first, the seeds that were done by
    /// then are the result. Without a whole one there is none.
    pub(crate) fn carry_out(
        &self,
        lived: &AtomicUsize,
        stop: &CancellationToken,
    ) -> Option<MarketCost> {
        let pricings = self.pricings();
        let scores = self.scores(&pricings, lived, stop);
        // A seed that was not lived with every pricing has nothing to be paired with.
        let by_seed = scores.chunks_exact(pricings.len());
        let whole: Vec<Vec<Score>> = by_seed
            .filter_map(|scores| scores.iter().copied().collect())
            .collect();
        (!whole.is_empty()).then(|| self.result(&whole))
    }

    fn pricings(&self) -> Vec<Pricing> {
        let others = self.candidates.iter().map(|candidate| candidate.pricing);
        std::iter::once(Pricing::FRESH).chain(others).collect()
    }

    /// Seed by seed, and for each the pricings in their order; `None` for an evening that was not lived.
    fn scores(
        &self,
        pricings: &[Pricing],
        lived: &AtomicUsize,
        stop: &CancellationToken,
    ) -> Vec<Option<Score>> {
        let scores = Mutex::new(vec![None; self.evenings()]);
        // Whoever needs a seed first draws its cast; the others wait for that and share it.
        let casts: Vec<OnceLock<Population>> =
            (0..self.seeds.most).map(|_| OnceLock::new()).collect();
        let (next, end) = (AtomicUsize::new(0), AtomicUsize::new(self.evenings()));
        let begun = Instant::now();
        let work = || {
            while let index = next.fetch_add(1, Ordering::Relaxed)
                && index < end.load(Ordering::Relaxed)
                && !stop.is_cancelled()
            {
                let (nth, place) = (index / pricings.len(), index % pricings.len());
                if place == 0 && !self.seeds.has_time_for(nth, begun.elapsed()) {
                    end.store(index, Ordering::Relaxed);
                    break;
                }
                let (seed, pricing) = (self.seeds.first + nth as u64, pricings[place]);
                let cast = casts[nth].get_or_init(|| self.evening.population(seed));
                let score = cast.run(pricing);
                scores.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(score);
                lived.fetch_add(1, Ordering::Relaxed);
            }
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
                scope.spawn(work);
            }
        });
        scores.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn result(&self, by_seed: &[Vec<Score>]) -> MarketCost {
        let of = |place: usize| -> Vec<Score> { by_seed.iter().map(|seed| seed[place]).collect() };
        let fresh = of(0);
        let others = self.candidates.iter().enumerate();
        let others = others.map(|(index, candidate)| row(candidate, &of(index + 1), Some(&fresh)));
        let rows = std::iter::once(row(&Candidate::fresh(), &fresh, None)).chain(others);
        let scored = self.evening.scored();
        MarketCost {
            from: scored.start.to_string(),
            until: scored.end.to_string(),
            seeds: by_seed.len() as u32,
            rows: rows.collect(),
        }
    }
}

fn row(candidate: &Candidate, scores: &[Score], fresh: Option<&[Score]>) -> Row {
    let seconds = |duration: Duration| duration.as_secs_f64();
    Row {
        label: candidate.label.clone(),
        mode: candidate.mode,
        data_age_market_s: candidate.data_age().map(seconds),
        batch_period_market_s: candidate.batch_period().map(seconds),
        seeds: scores.len() as u32,
        figures: statistics::figures(scores),
        against_fresh: fresh
            .map(|fresh| statistics::differences(scores, fresh))
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(within: Duration) -> Seeds {
        Seeds {
            first: 1,
            most: 9,
            within,
        }
    }

    #[test]
    fn a_seed_that_would_end_too_late_is_not_begun_but_two_always_are() {
        let second = Duration::from_secs(1);
        let seeds = seeds(second * 6);
        assert!(seeds.has_time_for(0, second * 9) && seeds.has_time_for(1, second * 9));
        // Four seconds for three seeds: the fourth ends after 5.3.
        assert!(seeds.has_time_for(3, second * 4));
        assert!(!seeds.has_time_for(3, second * 5));
        assert!(self::seeds(Duration::MAX).has_time_for(8, second * 1_000_000));
    }

    #[test]
    fn how_many_seeds_there_will_be_is_told_from_those_that_were() {
        let second = Duration::from_secs(1);
        let seeds = seeds(second * 6);
        assert_eq!(seeds.likely(0.0, second), 9, "nothing is known yet");
        assert_eq!(seeds.likely(0.5, second / 2), 6);
        assert_eq!(seeds.likely(0.5, second * 60), 2, "two always are");
        assert_eq!(seeds.likely(4.2, second * 9), 5, "the fifth was begun");
        assert_eq!(self::seeds(Duration::MAX).likely(1.0, second), 9);
    }
}
