//! The study as the last step of a comparison: everything is measured by then, so it may have all processors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::super::progress::{Progress, Steps};
use super::{Candidate, MarketCost, Seeds, Study};
use city::OfflineSimulation;

/// Lives the evenings, unless `seeds` is zero; `None` also when it is stopped before one seed was done.
pub(crate) async fn study(
    evening: Option<OfflineSimulation>,
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
    let pricings = evenings / seeds.most as usize;
    let (counter, stop) = (Arc::clone(&lived), stop.clone());
    let work = tokio::task::spawn_blocking(move || study.carry_out(&counter, &stop));
    let begun = Instant::now();
    let steps = || {
        let done = lived.load(Ordering::Relaxed);
        let all = seeds.likely(done as f64 / pricings as f64, begun.elapsed()) as usize * pricings;
        Steps { done, all }
    };
    let detail = || {
        let Steps { done, all } = steps();
        format!("{done} of about {all} evenings")
    };
    let result = progress
        .stepwise("market", seeds.length(), steps, detail, work)
        .await;
    result.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}
