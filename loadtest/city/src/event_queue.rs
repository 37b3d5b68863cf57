//! The queue of future events, ordered by market time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use marketplace::MarketTime;

/// Events by the market time at which they are due. Events of the same moment keep the order in
/// which they were pushed, so that two runs are the same.
#[derive(Debug)]
pub(crate) struct EventQueue<E> {
    entries: BinaryHeap<Reverse<QueuedEvent<E>>>,
    pushed: u64,
}

impl<E> EventQueue<E> {
    /// An empty queue.
    pub(crate) fn new() -> Self {
        Self {
            entries: BinaryHeap::new(),
            pushed: 0,
        }
    }

    /// Adds an event; one in the past is due at once.
    pub(crate) fn push(&mut self, at: MarketTime, event: E) {
        let order = (at, self.pushed);
        self.pushed += 1;
        self.entries.push(Reverse(QueuedEvent { order, event }));
    }

    /// When the next event is due.
    pub(crate) fn next_at(&self) -> Option<MarketTime> {
        self.entries.peek().map(|Reverse(entry)| entry.order.0)
    }

    /// Takes out the next event if it is due.
    pub(crate) fn pop_due(&mut self, now: MarketTime) -> Option<E> {
        if self.next_at()? > now {
            return None;
        }
        self.entries.pop().map(|Reverse(entry)| entry.event)
    }
}

/// An event with its place in the order.
#[derive(Debug)]
struct QueuedEvent<E> {
    order: (MarketTime, u64),
    event: E,
}

impl<E> PartialEq for QueuedEvent<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<E> Eq for QueuedEvent<E> {}

impl<E> PartialOrd for QueuedEvent<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for QueuedEvent<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> MarketTime {
        MarketTime::from_millis(second * 1000)
    }

    #[test]
    fn events_keep_time_and_push_order() {
        let mut queue = EventQueue::new();
        for (second, event) in [(3, 'd'), (1, 'a'), (2, 'b'), (2, 'c')] {
            queue.push(at(second), event);
        }
        let order: String = std::iter::from_fn(|| queue.pop_due(at(9))).collect();
        assert_eq!(order, "abcd");
    }

    #[test]
    fn future_events_are_not_due() {
        let mut queue = EventQueue::new();
        queue.push(at(5), ());
        assert_eq!(queue.pop_due(at(4)), None);
        assert_eq!(queue.next_at(), Some(at(5)));
        assert_eq!(queue.pop_due(at(5)), Some(()));
        assert_eq!(queue.next_at(), None);
    }
}
