//! One read for all quotes that wait at the same time. Under load, a quote that comes while a call or a query is under way
//! does not start another beside it: it waits for the end of that one, and then goes with all the others that wait, in one
//! read of all their zones. So the busier it is, the less a quote costs; and no quote is made from data read before it was
//! asked for, so that its data is as fresh as that of a read of its own.
//!
//! Off unless `SHARED_READS` says otherwise: the plain modes are what the comparison is about.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use marketplace::{
    view::{MarketView, ZoneLevels},
    zone::Zone,
};
use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use crate::{
    dataflow::{Dataflow, passage::Told},
    error::DataflowError,
};

/// Shares the reads of another dataflow.
#[derive(Clone, Debug)]
pub(super) struct SharedReads {
    dataflow: Arc<dyn Dataflow>,
    /// How long a read waits for company when nobody else reads.
    window: Duration,
    /// Longest time a read may take: its askers are gone by then.
    deadline: Duration,
    // A std mutex: held while an asker joins or a read leaves, never across an await. Each asker is one quote under way, so
    // the queue is as bounded as they are.
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Asker>,
    is_read: bool,
}

/// A quote that waits for its zones.
#[derive(Debug)]
struct Asker {
    zones: Vec<Zone>,
    answer: oneshot::Sender<Answer>,
    span: Span,
}

/// Every zone of the read, in order, and how it came; each asker takes its own.
type Answer = Result<Told, DataflowError>;

impl SharedReads {
    pub(super) fn of(dataflow: Arc<dyn Dataflow>, window: Duration, deadline: Duration) -> Self {
        Self {
            dataflow,
            window,
            deadline,
            queue: Arc::default(),
        }
    }

    /// Joins the queue, and sees to it that somebody serves it.
    fn join(&self, zones: &[Zone]) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let asker = Asker {
            zones: zones.to_vec(),
            answer,
            span: Span::current(),
        };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.push(asker);
        if !mem::replace(&mut queue.is_read, true) {
            // A task of its own: an asker that gives up must not take the others with it.
            tokio::spawn(Serving(self.clone()).serve());
        }
        answered
    }

    fn next_askers(&self) -> Option<Vec<Asker>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let askers = mem::take(&mut queue.waiting);
        queue.is_read = !askers.is_empty();
        queue.is_read.then_some(askers)
    }

    async fn read(&self, askers: &[Asker]) -> Answer {
        let zones = all_zones(askers);
        let read = tokio::time::timeout(self.deadline, self.dataflow.market_view(&zones));
        read.await
            .unwrap_or(Err(DataflowError::Deadline(self.deadline)))
    }
}

/// The task that reads for all.
struct Serving(SharedReads);

impl Serving {
    /// Reads until nobody waits any more.
    async fn serve(self) {
        let shared = &self.0;
        if !shared.window.is_zero() {
            tokio::time::sleep(shared.window).await;
        }
        while let Some(askers) = shared.next_askers() {
            let read = shared.read(&askers).instrument(span_of(&askers));
            let answer = read.await;
            for asker in askers {
                // Who has given up needs no answer.
                let _ = asker.answer.send(answer.clone());
            }
        }
    }
}

impl Drop for Serving {
    /// A read that panics must not leave the next quotes to a task that is gone.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
            *queue = Queue::default();
        }
    }
}

#[async_trait]
impl Dataflow for SharedReads {
    async fn market_view(&self, zones: &[Zone]) -> Result<Told, DataflowError> {
        let answer = match self.join(zones).await {
            Ok(answer) => answer?,
            Err(_dropped) => return Err(DataflowError::away("the shared read", "it panicked")),
        };
        let known = &answer.view.zones;
        let levels_of = |zone: &Zone| {
            let found = known.binary_search_by_key(zone, |levels| levels.zone);
            found.map_or(ZoneLevels::unknown(*zone), |index| known[index])
        };
        let view = MarketView {
            zones: zones.iter().map(levels_of).collect(),
        };
        Ok(Told {
            view: Arc::new(view),
            passage: answer.passage,
        })
    }
}

/// Each zone once, in order.
fn all_zones(askers: &[Asker]) -> Vec<Zone> {
    let mut zones: Vec<Zone> = askers
        .iter()
        .flat_map(|asker| &asker.zones)
        .copied()
        .collect();
    zones.sort_unstable();
    zones.dedup();
    zones
}

/// The first trace among the askers shows the read; the others show the wait for it.
fn span_of(askers: &[Asker]) -> Span {
    let mut spans = askers.iter().map(|asker| &asker.span);
    let traced = spans.find(|span| !span.is_disabled());
    traced.cloned().unwrap_or_else(Span::none)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use marketplace::{
        time::MarketTime,
        view::Level,
        zone::{Bounds, ServiceArea},
    };
    use platform::clock::RealTime;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::dataflow::passage::{Call, Calls, Passage};

    /// Answers each read when it is let, with its number as the level of every zone.
    #[derive(Debug)]
    struct Gate {
        reads: AtomicUsize,
        lets: Semaphore,
    }

    #[async_trait]
    impl Dataflow for Gate {
        async fn market_view(&self, zones: &[Zone]) -> Result<Told, DataflowError> {
            let read = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
            self.lets.acquire().await.expect("never closed").forget();
            let level = Level {
                value: read as f64,
                as_of: MarketTime::from_millis(0),
            };
            let levels = zones.iter().map(|&zone| ZoneLevels {
                zone,
                supply: Some(level),
                demand: Some(level),
            });
            let call = Call {
                asked_at: RealTime::from_micros(0),
                answered_at: RealTime::from_micros(0),
            };
            Ok(Told {
                view: Arc::new(MarketView {
                    zones: levels.collect(),
                }),
                passage: Passage::Request(Calls {
                    supply: call,
                    demand: call,
                }),
            })
        }
    }

    fn gate() -> (Arc<Gate>, SharedReads) {
        let gate = Arc::new(Gate {
            reads: AtomicUsize::new(0),
            lets: Semaphore::new(0),
        });
        let deadline = Duration::from_secs(5);
        let shared = SharedReads::of(gate.clone(), Duration::ZERO, deadline);
        (gate, shared)
    }

    fn reads_seen(told: &Told) -> Vec<f64> {
        let seen = told
            .view
            .zones
            .iter()
            .map(|levels| levels.supply.unwrap().value);
        seen.collect()
    }

    #[tokio::test]
    async fn who_comes_during_a_read_shares_the_next_and_gets_its_own_zones() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let zones = area.zones();
        let (gate, shared) = gate();
        let first = tokio::spawn({
            let (shared, zones) = (shared.clone(), zones[..2].to_vec());
            async move { shared.market_view(&zones).await }
        });
        while gate.reads.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others = (0..50).map(|n| {
            let (shared, zones) = (shared.clone(), zones[n % 5..n % 5 + 3].to_vec());
            tokio::spawn(async move { (shared.market_view(&zones).await, zones) })
        });
        let others: Vec<_> = others.collect();
        while shared.queue.lock().unwrap().waiting.len() < 50 {
            tokio::task::yield_now().await;
        }
        gate.lets.add_permits(2);

        assert_eq!(reads_seen(&first.await.unwrap().unwrap()), [1.0, 1.0]);
        for other in join_all(others).await {
            let (told, asked) = other.unwrap();
            let told = told.unwrap();
            assert_eq!(
                reads_seen(&told),
                [2.0; 3],
                "never a read from before it asked"
            );
            let answered: Vec<Zone> = told.view.zones.iter().map(|levels| levels.zone).collect();
            assert_eq!(answered, asked);
        }
        assert_eq!(gate.reads.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_hangs_fails_its_askers_in_time_and_none_after_them() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let (gate, shared) = gate();
        let hung = shared.market_view(&area.zones()[..1]).await;
        assert!(matches!(hung, Err(DataflowError::Deadline(_))), "{hung:?}");
        gate.lets.add_permits(1);
        let next = shared.market_view(&area.zones()[..1]).await.unwrap();
        assert_eq!(reads_seen(&next), [2.0]);
    }
}
