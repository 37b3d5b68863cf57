//! Between the pacer and the connections: arrivals that are due, and connections that are free to take one.
//!
//! Lines are called in turn. Calling the one that was freed last would be kinder to our own memory, but a server that gives each
//! connection to one of its threads would be asked through the connections of one thread, while the others have nothing to do.
//!
//! An arrival that finds no connection free waits its turn; its latency counts meanwhile, since it is the service that keeps the connections
//! busy.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use tokio::sync::oneshot;

use super::generator::Arrival;
use super::{histogram, record};

pub(super) struct WorkQueue(
    // A std mutex: held for a few additions, never across an await, and by one thread.
    Mutex<State>,
);

struct State {
    /// A free connection leaves here how it can be called.
    free: VecDeque<oneshot::Sender<Arrival>>,
    /// No longer than there is room.
    waiting: VecDeque<Arrival>,
    /// Arrivals that may still be taken on.
    room: u32,
    closed: bool,
    counts: Counts,
}

/// What became of the arrivals until now.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) dropped: u64,
    /// Taken on and without an outcome.
    pub(super) under_way: u32,
    /// How late the generator was by its own fault, in microseconds.
    pub(super) lateness: Histogram<u64>,
}

/// What a connection that asks for work gets.
enum NextWork {
    Now(Arrival),
    Called(oneshot::Receiver<Arrival>),
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
                under_way: 0,
                lateness: histogram(),
            },
        }))
    }

    /// Gives an arrival that is due to a connection, or lets it wait; without room it is dropped and counted.
    pub(super) fn add(&self, arrival: Arrival) {
        self.state().add(arrival);
    }

    /// The next arrival for a connection; `None` when there will be no more.
    pub(super) async fn next(&self) -> Option<Arrival> {
        let turn = self.state().turn();
        match turn {
            NextWork::Now(arrival) => Some(arrival),
            NextWork::Called(call) => {
                let arrival = call.await.ok()?;
                // Taken here and not by the pacer: a thread too busy to get to the connection is late as well.
                record(&mut self.state().counts.lateness, arrival.elapsed());
                Some(arrival)
            }
            NextWork::Over => None,
        }
    }

    /// Notes that an arrival has its outcome.
    pub(super) fn done(&self) {
        let mut state = self.state();
        state.counts.under_way -= 1;
        state.room += 1;
    }

    /// Sends the free connections home; the others go when nothing waits any more.
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
    fn add(&mut self, arrival: Arrival) {
        if self.room == 0 {
            self.counts.dropped += 1;
            return;
        }
        self.room -= 1;
        self.counts.sent += 1;
        self.counts.under_way += 1;
        if let Some(arrival) = self.call_a_line(arrival) {
            record(&mut self.counts.lateness, arrival.elapsed());
            self.waiting.push_back(arrival);
        }
    }

    /// Gives the arrival back when no connection is free.
    fn call_a_line(&mut self, arrival: Arrival) -> Option<Arrival> {
        match self.free.pop_front() {
            // A connection does not leave while it can be called, so it takes the call.
            Some(connection) => connection.send(arrival).err(),
            None => Some(arrival),
        }
    }

    fn turn(&mut self) -> NextWork {
        if let Some(arrival) = self.waiting.pop_front() {
            return NextWork::Now(arrival);
        }
        if self.closed {
            return NextWork::Over;
        }
        let (free, call) = oneshot::channel();
        self.free.push_back(free);
        NextWork::Called(call)
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
    async fn lines_are_called_in_turn() {
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
            queue.add(arrival(index));
            tokio::task::yield_now().await;
        }
        queue.close();
        let taken = futures::future::join_all(connections).await;
        let taken: Vec<Vec<u64>> = taken.into_iter().map(Result::unwrap).collect();
        assert_eq!(taken, [[0, 3], [1, 4], [2, 5]]);
    }
}
