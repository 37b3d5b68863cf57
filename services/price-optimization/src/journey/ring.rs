//! The last quotes, in as many slots as are to be kept. A quote takes the next slot with one atomic addition and writes it under
//! that slot's own lock, so that two quotes hardly ever meet; who looks for a quote goes through all slots, one by one, which
//! takes a millisecond and locks nobody out for longer than it takes to compare an id.
//!
//! With the ten thousand slots of the default, it grows to about 17 MB and no further; less the more quotes share what they were
//! told.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use uuid::Uuid;

use super::Record;

/// The last quotes.
#[derive(Debug)]
pub(super) struct Ring {
    // A std mutex each: held to swap one record, or to compare one id, and never across an await.
    slots: Box<[Mutex<Option<Record>>]>,
    next: AtomicUsize,
}

impl Ring {
    /// A ring of so many slots; none keeps nothing.
    pub(super) fn of(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| Mutex::new(None)).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// How many quotes it can keep.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Keeps a quote in the place of the oldest.
    pub(super) fn keep(&self, record: Record) {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(index) = ticket.checked_rem(self.slots.len()) else {
            return;
        };
        // Written over, and not taken out first: that would bring a long forgotten record back into the processor's cache.
        *lock(&self.slots[index]) = Some(record);
    }

    /// The quote, if it is still kept.
    pub(super) fn find(&self, quote_id: Uuid) -> Option<Record> {
        self.slots.iter().find_map(|slot| {
            let slot = lock(slot);
            slot.as_ref()
                .filter(|record| record.quote.quote_id == quote_id)
                .cloned()
        })
    }
}

fn lock(slot: &Mutex<Option<Record>>) -> MutexGuard<'_, Option<Record>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread, time::Duration};

    use marketplace::{
        quote::{Price, Quote},
        surge::Multiplier,
        time::MarketTime,
        view::{MarketView, ZoneLevels},
        zone::{Position, Zone},
    };
    use platform::clock::RealTime;
    use surge_proto::DataflowMode;

    use super::*;
    use crate::dataflow::passage::{Deliveries, Heard, Passage, Told};

    fn record(quote_id: Uuid) -> Record {
        let here = Position::new(40.7527, -73.9772).unwrap();
        let zone = Zone::at(here);
        Record {
            quote: Quote {
                quote_id,
                zone,
                pickup: here,
                dropoff: here,
                fare_cents: 800,
                multiplier: Multiplier::ONE,
                expires_at: MarketTime::from_millis(0),
            },
            price: Price {
                multiplier: Multiplier::ONE,
                fare_cents: 800,
                supply: 0.0,
                demand: 0.0,
                data_age: None,
                degraded: true,
            },
            dataflow: DataflowMode::Events,
            epoch: 0,
            told: Told {
                view: Arc::new(MarketView {
                    zones: vec![ZoneLevels::unknown(zone); 7],
                }),
                passage: Passage::Events(Heard {
                    read_at: RealTime::from_micros(0),
                    messages: Arc::default(),
                }),
            },
            priced_at: RealTime::from_micros(0),
            took: Duration::ZERO,
            trace: None,
        }
    }

    fn keep(ring: &Ring) -> Uuid {
        let id = Uuid::now_v7();
        ring.keep(record(id));
        id
    }

    #[test]
    fn the_last_quotes_are_kept_and_no_others() {
        let ring = Ring::of(3);
        let ids: Vec<Uuid> = (0..5).map(|_| keep(&ring)).collect();
        let kept: Vec<bool> = ids.iter().map(|id| ring.find(*id).is_some()).collect();
        assert_eq!(kept, [false, false, true, true, true]);
        assert!(ring.find(Uuid::now_v7()).is_none());
    }

    #[test]
    fn a_ring_without_slots_keeps_nothing() {
        let ring = Ring::of(0);
        let id = keep(&ring);
        assert!(ring.find(id).is_none());
    }

    #[test]
    fn quotes_made_at_the_same_time_are_all_kept() {
        let ring = Ring::of(400);
        let ids: Vec<Uuid> = thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).map(|_| keep(&ring)).collect::<Vec<_>>()))
                .collect();
            let written = writers.into_iter().map(|writer| writer.join().unwrap());
            written.flatten().collect()
        });
        assert!(ids.iter().all(|id| ring.find(*id).is_some()));
    }

    #[test]
    fn ten_thousand_quotes_take_no_more_than_twenty_megabytes() {
        let levels = 7 * (size_of::<ZoneLevels>() + size_of::<Deliveries>());
        let each = size_of::<Mutex<Option<Record>>>() + levels + 2 * 16;
        assert!(each <= 2_000, "{each} bytes each");
    }
}
