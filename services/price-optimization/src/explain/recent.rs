//! The last quotes, each with what an explanation needs: a ring of slots that costs a quote almost
//! nothing.
//!
//! # How this works
//! ```text
//! slots   [ 7 | 8 | 9 | 3 | 4 | 5 | 6 ]      10,000 by default (JOURNEYS_KEPT), about 17 MB
//!                       ▲
//!                     next: quote 10 overwrites quote 3
//! ```
//! A quote takes the next slot by one atomic addition and writes it under that slot's own lock, so
//! two quotes hardly ever wait for each other. A search goes through all slots, one by one. It
//! takes about a millisecond, and holds each lock only as long as it takes to compare an id.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use marketplace::quote::{Price, Quote};
use platform::{clock::RealTime, propagation::TraceId};
use surge_proto::DataflowMode;
use uuid::Uuid;

use crate::dataflow::provenance::MarketObservation;

/// A quote, and what cannot be known of it later. Nothing here is computed or worded for the
/// explanation.
#[derive(Clone, Debug)]
pub struct QuoteRecord {
    /// The quote.
    pub quote: Quote,
    /// What it was made of.
    pub price: Price,
    /// The mode that answered.
    pub dataflow: DataflowMode,
    /// Epoch of the mode in force.
    pub epoch: u64,
    /// The levels that were priced, and where they came from.
    pub market: MarketObservation,
    /// When they were priced.
    pub priced_at: RealTime,
    /// From the request to the price.
    pub took: Duration,
    /// The trace of the quote, where it was sampled.
    pub trace: Option<TraceId>,
}

/// The last quotes of this replica.
#[derive(Debug)]
pub struct RecentQuotes {
    // A std mutex each: held to swap one record, or to compare one id, and never across an await.
    slots: Box<[Mutex<Option<QuoteRecord>>]>,
    next: AtomicUsize,
}

impl RecentQuotes {
    /// A ring of `slots` slots; none keeps nothing.
    pub fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| Mutex::new(None)).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// How many quotes it can keep.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Keeps a quote in the place of the oldest.
    pub fn keep(&self, record: QuoteRecord) {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(index) = ticket.checked_rem(self.slots.len()) else {
            return;
        };
        // Overwritten, not taken out first: that would bring an old record back into the
        // processor's cache.
        *lock(&self.slots[index]) = Some(record);
    }

    /// The quote, if it is still kept.
    pub fn find(&self, quote_id: Uuid) -> Option<QuoteRecord> {
        self.slots.iter().find_map(|slot| {
            let slot = lock(slot);
            let record = slot.as_ref();
            record
                .filter(|record| record.quote.quote_id == quote_id)
                .cloned()
        })
    }
}

fn lock(slot: &Mutex<Option<QuoteRecord>>) -> MutexGuard<'_, Option<QuoteRecord>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use marketplace::{
        surge::Multiplier,
        time::MarketTime,
        view::{MarketView, ZoneLevels},
        zone::{Position, Zone},
    };

    use super::*;
    use crate::dataflow::provenance::{EventProvenance, MessageMeta, PerFeed, Provenance};

    fn record(quote_id: Uuid) -> QuoteRecord {
        let here = Position::new(40.7527, -73.9772).unwrap();
        let zone = Zone::at(here);
        QuoteRecord {
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
            market: MarketObservation {
                view: Arc::new(MarketView {
                    zones: vec![ZoneLevels::unknown(zone); 7],
                }),
                provenance: Provenance::Events(EventProvenance {
                    read_at: RealTime::from_micros(0),
                    messages: Arc::default(),
                }),
            },
            priced_at: RealTime::from_micros(0),
            took: Duration::ZERO,
            trace: None,
        }
    }

    fn keep(ring: &RecentQuotes) -> Uuid {
        let id = Uuid::now_v7();
        ring.keep(record(id));
        id
    }

    #[test]
    fn keeps_only_last_quotes() {
        let ring = RecentQuotes::new(3);
        let ids: Vec<Uuid> = (0..5).map(|_| keep(&ring)).collect();
        let kept: Vec<bool> = ids.iter().map(|id| ring.find(*id).is_some()).collect();
        assert_eq!(kept, [false, false, true, true, true]);
        assert!(ring.find(Uuid::now_v7()).is_none());
    }

    #[test]
    fn ring_without_slots_keeps_nothing() {
        let ring = RecentQuotes::new(0);
        let id = keep(&ring);
        assert!(ring.find(id).is_none());
    }

    #[test]
    fn keeps_all_concurrent_quotes() {
        let ring = RecentQuotes::new(400);
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
    fn ten_thousand_quotes_fit_twenty_megabytes() {
        let levels = 7 * (size_of::<ZoneLevels>() + size_of::<PerFeed<Option<MessageMeta>>>());
        let each = size_of::<Mutex<Option<QuoteRecord>>>() + levels + 2 * 16;
        assert!(each <= 2_000, "{each} bytes each");
    }
}
