//! The queue between the pacing task and the connections: arrivals that are due, and connections
//! that wait for one.
//!
//! The connections take turns, the longest idle one first. Some servers bind each connection to one
//! of their threads; if the last used connection were first again, one thread would do all the work
//! while the others are idle.
//!
//! An arrival waits when no connection is free. Its latency counts meanwhile, because the service
//! keeps the connections busy.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use tokio::sync::oneshot;

use super::schedule::Arrival;
use super::{histogram, record};

pub(super) struct WorkQueue(
    // A std mutex: one thread holds it for a few additions, never across an await.
    Mutex<State>,
);

struct State {
    /// One sender for each connection that waits for work.
    free: VecDeque<oneshot::Sender<Arrival>>,
    /// At most `room` arrivals.
    waiting: VecDeque<Arrival>,
    /// Arrivals that may still be added.
    room: u32,
    closed: bool,
    counts: Counts,
}

/// The arrivals until now.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) dropped: u64,
    /// Queued or sent, and not answered.
    pub(super) in_flight: u32,
    /// How late the generator was by its own fault, in microseconds.
    pub(super) lateness: Histogram<u64>,
}

/// What a connection that asks for work receives.
enum NextWork {
    Now(Arrival),
    Wait(oneshot::Receiver<Arrival>),
    Over,
}

impl WorkQueue {
    pub(super) fn new(room: u32) -> Self {
        Self(Mutex::new(State {
            free: VecDeque::new(),
            waiting: VecDeque::new(),
            room,
            closed: false,
            counts: Counts {
                sent: 0,
                dropped: 0,
                in_flight: 0,
                lateness: histogram(),
            },
        }))
    }

    /// Gives an arrival that is due to a free connection, or queues it. An arrival beyond the bound
    /// is dropped and counted.
    pub(super) fn push(&self, arrival: Arrival) {
        self.state().push(arrival);
    }

    /// The next arrival for a connection; `None` when there will be no more.
    pub(super) async fn next(&self) -> Option<Arrival> {
        let work = self.state().next_work();
        match work {
            NextWork::Now(arrival) => Some(arrival),
            NextWork::Wait(call) => {
                let arrival = call.await.ok()?;
                // Recorded here, because a thread too busy to reach the connection is late too.
                record(&mut self.state().counts.lateness, arrival.elapsed());
                Some(arrival)
            }
            NextWork::Over => None,
        }
    }

    /// Counts the answer of one arrival.
    pub(super) fn done(&self) {
        let mut state = self.state();
        state.counts.in_flight -= 1;
        state.room += 1;
    }

    /// Ends the queue: idle connections end now, the others when nothing waits any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.free.clear();
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, arrival: Arrival) {
        if self.room == 0 {
            self.counts.dropped += 1;
            return;
        }
        self.room -= 1;
        self.counts.sent += 1;
        self.counts.in_flight += 1;
        if let Some(arrival) = self.give(arrival) {
            record(&mut self.counts.lateness, arrival.elapsed());
            self.waiting.push_back(arrival);
        }
    }

    /// Gives the arrival to a free connection, or returns it when there is none.
    fn give(&mut self, arrival: Arrival) -> Option<Arrival> {
        match self.free.pop_front() {
            // A connection does not end while it waits here.
            Some(connection) => connection.send(arrival).err(),
            None => Some(arrival),
        }
    }

    fn next_work(&mut self) -> NextWork {
        if let Some(arrival) = self.waiting.pop_front() {
            return NextWork::Now(arrival);
        }
        if self.closed {
            return NextWork::Over;
        }
        let (free, call) = oneshot::channel();
        self.free.push_back(free);
        NextWork::Wait(call)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;

    fn arrival(index: u64) -> Arrival {
        Arrival {
            index,
            due: Duration::ZERO,
            intended: Instant::now(),
        }
    }

    #[tokio::test]
    async fn connections_take_turns() {
        let queue = Arc::new(WorkQueue::new(6));
        let mut connections = Vec::new();
        for _ in 0..3 {
            let queue = Arc::clone(&queue);
            connections.push(tokio::spawn(async move {
                let mut taken = Vec::new();
                while let Some(arrival) = queue.next().await {
                    taken.push(arrival.index);
                    queue.done();
                }
                taken
            }));
            tokio::task::yield_now().await;
        }
        for index in 0..6 {
            queue.push(arrival(index));
            tokio::task::yield_now().await;
        }
        queue.close();
        let taken = futures::future::join_all(connections).await;
        let taken: Vec<Vec<u64>> = taken.into_iter().map(Result::unwrap).collect();
        assert_eq!(taken, [[0, 3], [1, 4], [2, 5]]);
    }
}
