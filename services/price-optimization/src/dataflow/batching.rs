//! Shared reads: one read for all quotes that wait at the same time (`SHARED_READS`; default: off).
//!
//! # How this works
//! ```text
//! quote 1 ──► read A ────────────────────► answer 1
//! quote 2 ─────► waits ─┐
//! quote 3 ────────► waits ─┴─► read B, of all their zones ──► answers 2 and 3
//! ```
//! A quote that arrives during a read does not start another one beside it: it waits for its end,
//! and then one read serves all quotes that wait. So the busier the service, the less a quote
//! costs. No quote gets data from a read that began before it did.

use std::{
    mem,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::FutureExt;
use marketplace::{
    view::{MarketView, ZoneLevels},
    zone::Zone,
};
use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use crate::{
    dataflow::{Dataflow, HealthCheck, provenance::MarketObservation},
    error::DataflowError,
};

#[derive(Clone, Debug)]
pub(super) struct SharedReads {
    dataflow: Arc<dyn Dataflow>,
    /// How long a read waits for more quotes when no other read is under way.
    window: Duration,
    /// Longest time of a read; by then its quotes have failed.
    deadline: Duration,
    // A std mutex, never held across an await; as bounded as the quotes under way.
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiter>,
    /// Whether a task serves the queue.
    is_served: bool,
}

#[derive(Debug)]
struct Waiter {
    zones: Vec<Zone>,
    answer: oneshot::Sender<ReadOutcome>,
    span: Span,
}

/// Every zone of the read, in order; each quote takes its own.
type ReadOutcome = Result<MarketObservation, DataflowError>;

impl SharedReads {
    pub(super) fn new(dataflow: Arc<dyn Dataflow>, window: Duration, deadline: Duration) -> Self {
        Self {
            dataflow,
            window,
            deadline,
            queue: Arc::default(),
        }
    }

    /// Adds a quote to the queue, and starts a task that serves the queue where there is none.
    fn join(&self, zones: &[Zone]) -> oneshot::Receiver<ReadOutcome> {
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter {
            zones: zones.to_vec(),
            answer,
            span: Span::current(),
        };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.waiting.push(waiter);
        if !mem::replace(&mut queue.is_served, true) {
            // A task of its own: a quote that gives up must not take the others with it.
            tokio::spawn(self.clone().serve());
        }
        answered
    }

    /// Reads until no quote waits any more.
    async fn serve(self) {
        if !self.window.is_zero() {
            tokio::time::sleep(self.window).await;
        }
        while let Some(waiters) = self.next_waiters() {
            let answer = self.read(&waiters).await;
            for waiter in waiters {
                // A quote that has given up needs no answer.
                let _ = waiter.answer.send(answer.clone());
            }
        }
    }

    fn next_waiters(&self) -> Option<Vec<Waiter>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let waiters = mem::take(&mut queue.waiting);
        queue.is_served = !waiters.is_empty();
        queue.is_served.then_some(waiters)
    }

    /// Reads each zone of the waiters once, in order. The first traced waiter's trace shows the
    /// read; the traces of the others show that they waited.
    async fn read(&self, waiters: &[Waiter]) -> ReadOutcome {
        let mut zones = Vec::new();
        zones.extend(waiters.iter().flat_map(|waiter| &waiter.zones));
        zones.sort_unstable();
        zones.dedup();
        let mut spans = waiters.iter().map(|waiter| &waiter.span);
        let traced = spans.find(|span| !span.is_disabled()).cloned();
        let read = AssertUnwindSafe(self.dataflow.market_view(&zones)).catch_unwind();
        let read = tokio::time::timeout(self.deadline, read);
        match read.instrument(traced.unwrap_or_else(Span::none)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_panic)) => Err(DataflowError::Away("the shared read")),
            Err(_elapsed) => Err(DataflowError::Deadline(self.deadline)),
        }
    }
}

#[async_trait]
impl Dataflow for SharedReads {
    async fn market_view(&self, zones: &[Zone]) -> ReadOutcome {
        let dropped = |_| DataflowError::Away("the shared read");
        let answer = self.join(zones).await.map_err(dropped)??;
        let known = &answer.view.zones;
        let levels_of = |zone: &Zone| {
            let found = known.binary_search_by_key(zone, |levels| levels.zone);
            found.map_or(ZoneLevels::unknown(*zone), |index| known[index])
        };
        let zones = zones.iter().map(levels_of).collect();
        Ok(MarketObservation {
            view: Arc::new(MarketView { zones }),
            provenance: answer.provenance,
        })
    }

    fn health_checks(&self) -> Vec<HealthCheck> {
        self.dataflow.health_checks()
    }
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
    use crate::dataflow::provenance::{CallTimes, PerFeed, Provenance};

    /// Answers a read when the test permits it, with the number of the read as the level of every
    /// zone.
    #[derive(Debug)]
    struct Gate {
        reads: AtomicUsize,
        permits: Semaphore,
    }

    #[async_trait]
    impl Dataflow for Gate {
        async fn market_view(&self, zones: &[Zone]) -> Result<MarketObservation, DataflowError> {
            let read = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
            self.permits.acquire().await.expect("never closed").forget();
            let level = Level {
                value: read as f64,
                as_of: MarketTime::from_millis(0),
            };
            let levels = zones.iter().map(|&zone| ZoneLevels {
                zone,
                supply: Some(level),
                demand: Some(level),
            });
            let call = CallTimes {
                asked_at: RealTime::from_micros(0),
                answered_at: RealTime::from_micros(0),
            };
            Ok(MarketObservation {
                view: Arc::new(MarketView {
                    zones: levels.collect(),
                }),
                provenance: Provenance::Request(PerFeed {
                    supply: call,
                    demand: call,
                }),
            })
        }

        fn health_checks(&self) -> Vec<HealthCheck> {
            Vec::new()
        }
    }

    fn gate() -> (Arc<Gate>, SharedReads) {
        let gate = Arc::new(Gate {
            reads: AtomicUsize::new(0),
            permits: Semaphore::new(0),
        });
        let deadline = Duration::from_secs(5);
        let shared = SharedReads::new(gate.clone(), Duration::ZERO, deadline);
        (gate, shared)
    }

    fn reads_seen(observed: &MarketObservation) -> Vec<f64> {
        let seen = observed
            .view
            .zones
            .iter()
            .map(|levels| levels.supply.unwrap().value);
        seen.collect()
    }

    #[tokio::test]
    async fn quotes_arriving_during_read_share_next() {
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
        gate.permits.add_permits(2);

        assert_eq!(reads_seen(&first.await.unwrap().unwrap()), [1.0, 1.0]);
        for other in join_all(others).await {
            let (observed, asked) = other.unwrap();
            let observed = observed.unwrap();
            assert_eq!(
                reads_seen(&observed),
                [2.0; 3],
                "a read that began before the quote"
            );
            let answered: Vec<Zone> = observed
                .view
                .zones
                .iter()
                .map(|levels| levels.zone)
                .collect();
            assert_eq!(answered, asked);
        }
        assert_eq!(gate.reads.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_read_fails_only_its_quotes() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let (gate, shared) = gate();
        let hung = shared.market_view(&area.zones()[..1]).await;
        assert!(matches!(hung, Err(DataflowError::Deadline(_))), "{hung:?}");
        gate.permits.add_permits(1);
        let next = shared.market_view(&area.zones()[..1]).await.unwrap();
        assert_eq!(reads_seen(&next), [2.0]);
    }
}
