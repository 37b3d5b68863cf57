//! What happens when: the one queue of events, ordered by market time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use marketplace::MarketTime;

/// Events by the market time at which they fall due; those of one instant in the order in which they were pushed, so
/// that a replay does not depend on the whims of a heap.
#[derive(Debug)]
pub(crate) struct EventQueue<E> {
    entries: BinaryHeap<Reverse<Fact<E>>>,
    pushed: u64,
}

impl<E> EventQueue<E> {
    /// An queue without entries.
    pub(crate) fn new() -> Self {
        Self {
            entries: BinaryHeap::new(),
            pushed: 0,
        }
    }

    /// Enters an event; one that lies in the past is due at once.
    pub(crate) fn push(&mut self, at: MarketTime, event: E) {
        let order = (at, self.pushed);
        self.pushed += 1;
        self.entries.push(Reverse(Fact { order, event }));
    }

    /// When the next event falls due.
    pub(crate) fn next_at(&self) -> Option<MarketTime> {
        self.entries.peek().map(|Reverse(fact)| fact.order.0)
    }

    /// Takes out the next event if it is due.
    pub(crate) fn pop_due(&mut self, now: MarketTime) -> Option<E> {
        if self.next_at()? > now {
            return None;
        }
        self.entries.pop().map(|Reverse(fact)| fact.event)
    }
}

/// An event and its place in the order of things.
#[derive(Debug)]
struct Fact<E> {
    order: (MarketTime, u64),
    event: E,
}

impl<E> PartialEq for Fact<E> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<E> Eq for Fact<E> {}

impl<E> PartialOrd for Fact<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Fact<E> {
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
    fn events_come_out_in_the_order_of_time_and_then_of_entry() {
        let mut queue = EventQueue::new();
        for (second, event) in [(3, 'd'), (1, 'a'), (2, 'b'), (2, 'c')] {
            queue.push(at(second), event);
        }
        let order: String = std::iter::from_fn(|| queue.pop_due(at(9))).collect();
        assert_eq!(order, "abcd");
    }

    #[test]
    fn nothing_happens_before_its_time() {
        let mut queue = EventQueue::new();
        queue.push(at(5), ());
        assert_eq!(queue.pop_due(at(4)), None);
        assert_eq!(queue.next_at(), Some(at(5)));
        assert_eq!(queue.pop_due(at(5)), Some(()));
        assert_eq!(queue.next_at(), None);
    }
}
