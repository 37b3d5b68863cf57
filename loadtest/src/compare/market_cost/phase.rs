//! The study as the last step of a comparison: everything is measured by then, so it may have all processors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::progress::Progress;
use super::{Candidate, MarketCost, Seeds, Study};
use crate::city::Evening;

/// Lives the evenings, unless `seeds` is zero; `None` also when it is stopped before one seed was done.
pub(crate) async fn study(
    evening: Option<Evening>,
    candidates: Vec<Candidate>,
    seeds: Seeds,
    progress: Progress,
    stop: &CancellationToken,
) -> Option<MarketCost> {
    let study = Study {
        evening: evening.filter(|_| seeds.most > 0 && !candidates.is_empty())?,
        candidates,
        seeds,
    };
    let lived = Arc::new(AtomicUsize::new(0));
    let evenings = study.evenings();
    let all = ABOUT_AN_EVENING * u32::try_from(evenings).unwrap_or(u32::MAX) / PROCESSORS;
    let length = all.min(seeds.within);
    let (counter, stop) = (Arc::clone(&lived), stop.clone());
    let work = tokio::task::spawn_blocking(move || study.carry_out(&counter, &stop));
    let detail = || {
        format!(
            "{} of at most {evenings} evenings",
            lived.load(Ordering::Relaxed)
        )
    };
    let result = progress.during("market", length, detail, work).await;
    result.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// For the progress bar alone: what an evening takes on a processor of 2024, and how many of those there may be.
const ABOUT_AN_EVENING: Duration = Duration::from_millis(400);
const PROCESSORS: u32 = 2;
