//! Between the pacer and the lines: arrivals that are due, and lines that are free to take one.
//!
//! Lines are called in turn. Calling the one that was freed last would be kinder to our own memory, but a server that gives each
//! connection to one of its threads would be asked through the connections of one thread, while the others have nothing to do.
//!
//! An arrival that finds no line free waits its turn; its latency counts meanwhile, since it is the service that keeps the lines
//! busy.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use tokio::sync::oneshot;

use super::generator::Arrival;
use super::{histogram, record};

pub(super) struct Board(
    // A std mutex: held for a few additions, never across an await, and by one thread.
    Mutex<State>,
);

struct State {
    /// A free line leaves here how it can be called.
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

/// What a line that asks for work gets.
enum Turn {
    Now(Arrival),
    Called(oneshot::Receiver<Arrival>),
    Over,
}

impl Board {
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

    /// Gives an arrival that is due to a line, or lets it wait; without room it is dropped and counted.
    pub(super) fn take_on(&self, arrival: Arrival) {
        self.state().take_on(arrival);
    }

    /// The next arrival for a line; `None` when there will be no more.
    pub(super) async fn next(&self) -> Option<Arrival> {
        let turn = self.state().turn();
        match turn {
            Turn::Now(arrival) => Some(arrival),
            Turn::Called(call) => {
                let arrival = call.await.ok()?;
                // Taken here and not by the pacer: a thread too busy to get to the line is late as well.
                record(&mut self.state().counts.lateness, arrival.elapsed());
                Some(arrival)
            }
            Turn::Over => None,
        }
    }

    /// Notes that an arrival has its outcome.
    pub(super) fn done(&self) {
        let mut state = self.state();
        state.counts.under_way -= 1;
        state.room += 1;
    }

    /// Sends the free lines home; the others go when nothing waits any more.
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
    fn take_on(&mut self, arrival: Arrival) {
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

    /// Gives the arrival back when no line is free.
    fn call_a_line(&mut self, arrival: Arrival) -> Option<Arrival> {
        match self.free.pop_front() {
            // A line does not leave while it can be called, so it takes the call.
            Some(line) => line.send(arrival).err(),
            None => Some(arrival),
        }
    }

    fn turn(&mut self) -> Turn {
        if let Some(arrival) = self.waiting.pop_front() {
            return Turn::Now(arrival);
        }
        if self.closed {
            return Turn::Over;
        }
        let (free, call) = oneshot::channel();
        self.free.push_back(free);
        Turn::Called(call)
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
        let board = Arc::new(Board::new(6));
        let mut lines = Vec::new();
        for _ in 0..3 {
            let board = Arc::clone(&board);
            lines.push(tokio::spawn(async move {
                let mut taken = Vec::new();
                while let Some(arrival) = board.next().await {
                    taken.push(arrival.index);
                    board.done();
                }
                taken
            }));
            tokio::task::yield_now().await;
        }
        for index in 0..6 {
            board.take_on(arrival(index));
            tokio::task::yield_now().await;
        }
        board.close();
        let taken = futures::future::join_all(lines).await;
        let taken: Vec<Vec<u64>> = taken.into_iter().map(Result::unwrap).collect();
        assert_eq!(taken, [[0, 3], [1, 4], [2, 5]]);
    }
}
