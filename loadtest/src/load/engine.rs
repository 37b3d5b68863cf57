//! Keeps a schedule: one task per arrival, a bound on how many are under way, and a record of its own lateness.
//!
//! A thread of its own paces the arrivals, because the timer of an async runtime ticks once a millisecond and that tick
//! would be counted as latency of the service. What a request is and what becomes of its answer is the caller's matter.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Schedule, histogram, record};

/// Sends every arrival of the plan at its time by `ask`, then waits for the answers that are still out.
///
/// Ends early when `stop` is cancelled; what was sent until then is still waited for.
pub async fn run<Ask, Asked>(plan: Plan, stop: CancellationToken, ask: Ask) -> Delivery
where
    Ask: Fn(Arrival) -> Asked + Send + Sync + 'static,
    Asked: Future<Output = ()> + Send + 'static,
{
    let (max_in_flight, drain) = (plan.max_in_flight, plan.drain);
    let pacer = Pacer::new(plan, stop);
    let (in_flight, lateness) = (pacer.in_flight.clone(), pacer.lateness.clone());
    let paced = tokio::task::spawn_blocking(move || pacer.pace(&ask))
        .await
        .expect("the pacer only sleeps, counts and spawns");
    let all_back = in_flight.acquire_many(max_in_flight);
    // An elapsed deadline shows as answers that are missing, below.
    let _ = tokio::time::timeout(drain, all_back).await;
    Delivery {
        sent: paced.sent,
        dropped: paced.dropped,
        unanswered: max_in_flight as usize - in_flight.available_permits(),
        paced_for: paced.paced_for,
        lateness: lateness
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
    }
}

/// What to send, and how far to go in it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The intended send times.
    pub schedule: Schedule,
    /// Requests that may be under way at once. It must be generous: a small bound would hold arrivals back exactly
    /// when the server is slow. An arrival that finds no room is dropped and counted.
    pub max_in_flight: u32,
    /// How long to wait for the last answers; longer than the deadline of one call.
    pub drain: Duration,
}

/// One request that is due.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Its number in the schedule, from zero.
    pub index: u64,
    /// When it was meant to leave.
    pub intended: Instant,
}

impl Arrival {
    /// Time since the intended send: the latency, once the answer is complete.
    pub fn elapsed(&self) -> Duration {
        self.intended.elapsed()
    }
}

/// How well the generator kept its own schedule.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Arrivals sent.
    pub sent: u64,
    /// Arrivals not sent because too many were under way.
    pub dropped: u64,
    /// Requests without an outcome when the drain ended.
    pub unanswered: usize,
    /// From the start to the end of the last interval that was paced.
    pub paced_for: Duration,
    /// How late requests left, in microseconds.
    pub lateness: Histogram<u64>,
}

impl Delivery {
    /// Why the figures of this run say more about the generator than about the service; empty for a good run.
    pub fn faults(&self) -> Vec<String> {
        let p99 = Duration::from_micros(self.lateness.value_at_quantile(0.99));
        let worst = Duration::from_micros(self.lateness.max());
        let mut faults = Vec::new();
        if p99 > LATE_P99 {
            faults.push(format!(
                "the generator missed its schedule: 1 % of the requests left {p99:.1?} late or more, \
                 {LATE_P99:?} is allowed; give it more processor time or a lower --rate"
            ));
        } else if worst > LATE_WORST {
            faults.push(format!(
                "the generator stood still: a request left {worst:.1?} late, {LATE_WORST:?} is allowed"
            ));
        }
        if self.dropped > 0 {
            faults.push(format!(
                "{} requests were not sent because too many were still unanswered",
                self.dropped
            ));
        }
        if self.unanswered > 0 {
            faults.push(format!(
                "{} requests had no outcome at the end",
                self.unanswered
            ));
        }
        faults
    }
}

/// One request in a hundred may leave this late.
const LATE_P99: Duration = Duration::from_millis(10);

/// No request may leave this late: a generator that was stopped for a moment would otherwise pass in a long run.
const LATE_WORST: Duration = Duration::from_millis(250);

struct Pacer {
    plan: Plan,
    stop: CancellationToken,
    in_flight: Arc<Semaphore>,
    // A std mutex: held for one increment of a counter, never across an await.
    lateness: Arc<Mutex<Histogram<u64>>>,
    runtime: Handle,
}

struct Paced {
    sent: u64,
    dropped: u64,
    paced_for: Duration,
}

impl Pacer {
    fn new(plan: Plan, stop: CancellationToken) -> Self {
        Self {
            in_flight: Arc::new(Semaphore::new(plan.max_in_flight as usize)),
            plan,
            stop,
            lateness: Arc::new(Mutex::new(histogram())),
            runtime: Handle::current(),
        }
    }

    fn pace<Ask, Asked>(&self, ask: &Ask) -> Paced
    where
        Ask: Fn(Arrival) -> Asked,
        Asked: Future<Output = ()> + Send + 'static,
    {
        let schedule = &self.plan.schedule;
        let mut offsets = schedule.offsets().enumerate().peekable();
        // Read before the first wait is armed, or every arrival would be late by that wait.
        let start = Instant::now();
        let (mut sent, mut dropped) = (0, 0);
        while let Some(&(index, offset)) = offsets.peek() {
            let (index, intended) = (index as u64, start + offset);
            std::thread::sleep(intended.saturating_duration_since(Instant::now()));
            if self.stop.is_cancelled() {
                break;
            }
            match self.launch(Arrival { index, intended }, ask) {
                Launch::Sent => sent += 1,
                Launch::Dropped => dropped += 1,
            }
            offsets.next();
        }
        Paced {
            sent,
            dropped,
            paced_for: offsets.next().map_or(schedule.length(), |(_, next)| next),
        }
    }

    fn launch<Ask, Asked>(&self, arrival: Arrival, ask: &Ask) -> Launch
    where
        Ask: Fn(Arrival) -> Asked,
        Asked: Future<Output = ()> + Send + 'static,
    {
        let Ok(permit) = self.in_flight.clone().try_acquire_owned() else {
            return Launch::Dropped;
        };
        let (asked, lateness) = (ask(arrival), self.lateness.clone());
        self.runtime.spawn(async move {
            // Taken here and not by the pacer: a runtime too busy to start the task is late as well.
            record(
                &mut lateness.lock().unwrap_or_else(PoisonError::into_inner),
                arrival.elapsed(),
            );
            asked.await;
            drop(permit);
        });
        Launch::Sent
    }
}

enum Launch {
    Sent,
    Dropped,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn plan(rate: u32, milliseconds: u64) -> Plan {
        Plan {
            schedule: Schedule::constant(rate, Duration::from_millis(milliseconds)),
            max_in_flight: 64,
            drain: Duration::from_secs(5),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_arrival_is_sent_once_in_order() {
        let seen = Arc::new(AtomicU64::new(0));
        let counter = seen.clone();
        let delivery = run(plan(200, 500), CancellationToken::new(), move |_| {
            let counter = counter.clone();
            async move {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
        assert_eq!((delivery.sent, delivery.dropped), (100, 0));
        assert_eq!(seen.load(Ordering::Relaxed), 100);
        assert_eq!(delivery.paced_for, Duration::from_millis(500));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_slow_generator_voids_its_own_run() {
        let delivery = run(plan(100, 400), CancellationToken::new(), |arrival| {
            if arrival.index == 10 {
                std::thread::sleep(Duration::from_millis(300));
            }
            async {}
        })
        .await;
        assert!(
            delivery.faults()[0].contains("missed its schedule"),
            "{:?}",
            delivery.faults()
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn arrivals_beyond_the_bound_are_dropped_and_said() {
        let mut plan = plan(100, 300);
        plan.max_in_flight = 4;
        plan.drain = Duration::from_millis(10);
        let mut delivery = run(plan, CancellationToken::new(), |_| std::future::pending()).await;
        // How late a busy test machine is, is not the question here.
        delivery.lateness.reset();
        assert_eq!(
            (delivery.sent, delivery.dropped, delivery.unanswered),
            (4, 26, 4)
        );
        assert_eq!(delivery.faults().len(), 2, "{:?}", delivery.faults());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stopped_run_keeps_what_it_has() {
        let stop = CancellationToken::new();
        let stopper = stop.clone();
        let delivery = run(plan(100, 60_000), stop, move |arrival| {
            let stopper = stopper.clone();
            async move {
                if arrival.index == 20 {
                    stopper.cancel();
                }
            }
        })
        .await;
        assert!(delivery.sent >= 21 && delivery.sent < 200);
    }
}
