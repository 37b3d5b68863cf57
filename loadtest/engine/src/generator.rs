//! Keeps a schedule: each arrival leaves at its intended time, over a connection that is open.
//!
//! One task paces: whenever it wakes, it queues every arrival that is due. Each connection has a
//! task of its own that takes arrivals from the queue, so an arrival costs no new task.
//!
//! ```text
//!  Schedule --> pace() --> WorkQueue --+--> work(connection 1) --> ask --> done
//!               (timer)    (waiting)   +--> work(connection 2) --> ask --> done
//! ```
//!
//! The number of requests in flight has a bound, and the generator records its own lateness. The
//! caller decides what a connection is, what it asks and what it does with the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::precise_timer::PreciseTimer;
use super::schedule::{Arrival, Schedule};
use super::work_queue::WorkQueue;

/// Sends every arrival of the plan at its time, by `ask` over one of the `connections`, then waits
/// for the last answers. Returns the connections that are free again.
///
/// Ends early when `stop` is cancelled, and still waits for the answers to what it sent.
pub async fn run<QuoteConnection, Ask, Asked>(
    plan: LoadPlan,
    connections: Vec<QuoteConnection>,
    stop: CancellationToken,
    ask: Ask,
) -> (SendReport, Vec<QuoteConnection>)
where
    QuoteConnection: Send + 'static,
    Ask: Fn(QuoteConnection, Arrival) -> Asked + Send + Sync + 'static,
    Asked: Future<Output = QuoteConnection> + Send + 'static,
{
    let (queue, ask) = (Arc::new(WorkQueue::new(plan.max_in_flight)), Arc::new(ask));
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(work(connection, Arc::clone(&queue), Arc::clone(&ask)));
    }
    // Every connection waits for work before the first arrival comes.
    tokio::task::yield_now().await;
    let started = Instant::now();
    let paced = stop.run_until_cancelled(pace(&plan.schedule, started, &queue));
    let all_sent = paced.await.is_some();
    queue.close();
    // If the deadline passes first, the report counts the missing answers.
    let mut free = Vec::new();
    let _ = tokio::time::timeout(plan.drain, all_ended(&mut tasks, &mut free)).await;
    let lasted = started.elapsed();
    (send_report(&plan.schedule, &queue, all_sent, lasted), free)
}

/// Takes arrivals from the queue until there are no more.
async fn work<QuoteConnection, Ask, Asked>(
    mut connection: QuoteConnection,
    queue: Arc<WorkQueue>,
    ask: Arc<Ask>,
) -> QuoteConnection
where
    Ask: Fn(QuoteConnection, Arrival) -> Asked,
    Asked: Future<Output = QuoteConnection>,
{
    while let Some(arrival) = queue.next().await {
        connection = ask(connection, arrival).await;
        queue.done();
    }
    connection
}

/// Queues each arrival at its time. When it is behind it does not wait, so one wake-up sends all
/// arrivals that are due.
async fn pace(schedule: &Schedule, started: Instant, queue: &WorkQueue) {
    let timer = PreciseTimer::new();
    for (index, due) in (0..).zip(schedule.offsets()) {
        let intended = started + due;
        timer.until(intended).await;
        queue.push(Arrival {
            index,
            due,
            intended,
        });
    }
}

async fn all_ended<QuoteConnection: 'static>(
    tasks: &mut JoinSet<QuoteConnection>,
    free: &mut Vec<QuoteConnection>,
) {
    while let Some(ended) = tasks.join_next().await {
        // A task that panicked leaves its arrival unanswered, and the report counts it.
        free.extend(ended);
    }
}

fn send_report(
    schedule: &Schedule,
    queue: &WorkQueue,
    all_sent: bool,
    lasted: Duration,
) -> SendReport {
    let counts = queue.counts();
    let paced_for = if all_sent {
        schedule.length()
    } else {
        let due = usize::try_from(counts.sent + counts.dropped).unwrap_or(usize::MAX);
        schedule.offsets().nth(due).unwrap_or(schedule.length())
    };
    SendReport {
        sent: counts.sent,
        dropped: counts.dropped,
        unanswered: counts.in_flight as usize,
        paced_for,
        lasted: lasted.max(paced_for),
        lateness: counts.lateness,
    }
}

/// When to send, and how long to wait for answers.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// The intended send times.
    pub schedule: Schedule,
    /// Requests in flight at once, including those that wait for a free connection. The bound must
    /// be generous: a small one would hold arrivals back exactly when the server is slow. An
    /// arrival beyond it is dropped and counted.
    pub max_in_flight: u32,
    /// How long to wait for the last answers; longer than the deadline of one request.
    pub drain: Duration,
}

/// How well the generator kept its own schedule.
#[derive(Debug, Clone)]
pub struct SendReport {
    /// Arrivals sent.
    pub sent: u64,
    /// Arrivals not sent, because too many were in flight.
    pub dropped: u64,
    /// Requests without an answer when the wait ended.
    pub unanswered: usize,
    /// From the start to the end of the last paced interval.
    pub paced_for: Duration,
    /// From the start to the last answer.
    pub lasted: Duration,
    /// How late requests left, in microseconds.
    pub lateness: Histogram<u64>,
}

impl SendReport {
    /// Why the figures of this run describe the generator, not the service; empty for a good run.
    pub fn faults(&self) -> Vec<String> {
        let p99 = Duration::from_micros(self.lateness.value_at_quantile(0.99));
        let worst = Duration::from_micros(self.lateness.max());
        let mut faults = Vec::new();
        if p99 > LATE_P99 {
            faults.push(format!(
                "the generator missed its schedule: 1 % of the requests left {} late or more, \
                 {} is allowed; give it more processor time or a lower --rate",
                in_ms(p99),
                in_ms(LATE_P99)
            ));
        } else if worst > LATE_WORST {
            faults.push(format!(
                "the generator stood still: a request left {} late, {} is allowed",
                in_ms(worst),
                in_ms(LATE_WORST)
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

fn in_ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// One request in a hundred may leave this late or later.
const LATE_P99: Duration = Duration::from_millis(10);

/// No request may leave later than this: in a long run, a generator that stopped for a moment would
/// otherwise pass.
const LATE_WORST: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn plan(rate: u32, milliseconds: u64) -> LoadPlan {
        LoadPlan {
            schedule: Schedule::constant(rate, Duration::from_millis(milliseconds)),
            max_in_flight: 64,
            drain: Duration::from_secs(5),
        }
    }

    /// Connections to nothing.
    fn connections(count: usize) -> Vec<()> {
        vec![(); count]
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sends_every_arrival_once_and_in_order() {
        let seen = Arc::new(AtomicU64::new(0));
        let counter = seen.clone();
        let ask = move |(), arrival: Arrival| {
            let counter = counter.clone();
            async move {
                assert_eq!(counter.fetch_add(1, Ordering::Relaxed), arrival.index);
            }
        };
        let (delivery, free) = run(
            plan(200, 500),
            connections(1),
            CancellationToken::new(),
            ask,
        )
        .await;
        assert_eq!((delivery.sent, delivery.dropped), (100, 0));
        assert_eq!(delivery.unanswered, 0);
        assert_eq!(seen.load(Ordering::Relaxed), 100);
        assert_eq!(delivery.paced_for, Duration::from_millis(500));
        assert!(delivery.lasted >= delivery.paced_for);
        assert_eq!(free.len(), 1, "the connection comes back");
    }

    #[tokio::test]
    async fn slow_generator_voids_its_own_run() {
        let ask = |(), arrival: Arrival| async move {
            if arrival.index == 10 {
                std::thread::sleep(Duration::from_millis(300));
            }
        };
        let (delivery, _) = run(
            plan(100, 400),
            connections(8),
            CancellationToken::new(),
            ask,
        )
        .await;
        assert!(
            delivery.faults()[0].contains("missed its schedule"),
            "{:?}",
            delivery.faults()
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn counts_arrivals_dropped_beyond_the_bound() {
        let mut plan = plan(100, 300);
        plan.max_in_flight = 4;
        plan.drain = Duration::from_millis(10);
        let ask = |(), _| std::future::pending();
        let (mut delivery, _) = run(plan, connections(2), CancellationToken::new(), ask).await;
        // A busy test machine may be late; this test is about the bound.
        delivery.lateness.reset();
        assert_eq!(
            (delivery.sent, delivery.dropped, delivery.unanswered),
            (4, 26, 4)
        );
        assert_eq!(delivery.faults().len(), 2, "{:?}", delivery.faults());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn wait_for_a_connection_is_latency() {
        let waited = Arc::new(AtomicU64::new(0));
        let longest = waited.clone();
        let ask = move |(), arrival: Arrival| {
            let longest = longest.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(40)).await;
                let millis = u64::try_from(arrival.elapsed().as_millis()).unwrap();
                longest.fetch_max(millis, Ordering::Relaxed);
            }
        };
        let (delivery, _) = run(
            plan(100, 400),
            connections(1),
            CancellationToken::new(),
            ask,
        )
        .await;
        assert_eq!((delivery.sent, delivery.unanswered), (40, 0));
        // 40 requests of 40 ms, one after the other; the last was due at 390 ms.
        assert!(waited.load(Ordering::Relaxed) >= 1_200, "{waited:?} ms");
        let late = Duration::from_micros(delivery.lateness.value_at_quantile(0.5));
        assert!(late < Duration::from_millis(100), "{late:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stopped_run_keeps_its_figures() {
        let stop = CancellationToken::new();
        let stopper = stop.clone();
        let ask = move |(), arrival: Arrival| {
            let stopper = stopper.clone();
            async move {
                if arrival.index == 20 {
                    stopper.cancel();
                }
            }
        };
        let (delivery, _) = run(plan(100, 60_000), connections(1), stop, ask).await;
        assert!(delivery.sent >= 21 && delivery.sent < 200);
        assert_eq!(
            delivery.paced_for,
            Duration::from_millis(10 * delivery.sent)
        );
    }
}
