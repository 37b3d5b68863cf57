//! The state behind the dataflow `events`: the newest levels and watermarks, and which message
//! brought them.
//!
//! # How this works
//! [`LevelBoard`] decides what is newest: per zone and feed the newest `as_of` wins, so a message
//! that is repeated, late or from the future changes nothing.
//!
//! Between two messages, thousands of quotes ask about the same few rings of seven zones. The first
//! quote builds the view of a ring and all others share it, until a message invalidates it:
//!
//! ```text
//! level of zone 12     ──► invalidates the rings of zone 12 and its six neighbours
//! watermark of a feed  ──► invalidates all rings, for every level is newer now
//! ```

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use marketplace::{
    time::MarketTime,
    view::{LevelBoard, MarketView, ZoneLevels},
    zone::{ServiceArea, Zone},
};
use platform::clock::RealTime;

use super::message::{Content, FeedMessage};
use crate::dataflow::provenance::{
    EventProvenance, FeedName, MarketObservation, MessageMeta, PerFeed, Provenance, ViewMessages,
};

/// The state, written by the subscriber and read by quotes. A plain lock suffices: a few hundred
/// writes per second, short reads, and no task holds it across an await.
#[derive(Clone, Debug)]
pub struct SharedState(Arc<RwLock<LocalState>>);

impl SharedState {
    /// Empty state of `area`.
    pub fn new(area: Arc<ServiceArea>) -> Self {
        let state = LocalState {
            board: LevelBoard::new(&area),
            levels: vec![PerFeed::default(); area.len()],
            rings: vec![OnceLock::new(); area.len()],
            area,
            watermarks: PerFeed::default(),
            traceparents: PerFeed::default(),
        };
        Self(Arc::new(RwLock::new(state)))
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, LocalState> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, LocalState> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest levels and watermarks of every zone, and the messages that brought them.
#[derive(Debug)]
pub(super) struct LocalState {
    pub(super) board: LevelBoard,
    area: Arc<ServiceArea>,
    levels: Vec<PerFeed<Option<MessageMeta>>>,
    watermarks: PerFeed<Option<MessageMeta>>,
    /// Traces that published the newest watermarks.
    pub(super) traceparents: PerFeed<Option<String>>,
    /// The shared view of the ring around each zone.
    rings: Vec<OnceLock<RingView>>,
}

type RingView = (Arc<MarketView>, Arc<ViewMessages>);

impl LocalState {
    /// Applies `message`, unless the board drops it as old or as from the future. Returns whether
    /// it was applied.
    pub(super) fn apply(&mut self, message: &FeedMessage, now: MarketTime) -> bool {
        let FeedMessage { feed, content, .. } = *message;
        let board = &mut self.board;
        let is_applied = match (content, feed) {
            (Content::Level(zone, level), FeedName::Supply) => board.apply_supply(zone, level, now),
            (Content::Level(zone, level), FeedName::Demand) => board.apply_demand(zone, level, now),
            (Content::Watermark(as_of), FeedName::Supply) => board.supply_watermark(as_of, now),
            (Content::Watermark(as_of), FeedName::Demand) => board.demand_watermark(as_of, now),
        };
        if is_applied {
            match content {
                Content::Level(zone, _) => {
                    self.invalidate(zone);
                    if let Some(index) = self.area.index_of(zone) {
                        *self.levels[index].of_mut(feed) = message.meta;
                    }
                }
                Content::Watermark(_) => {
                    self.rings.fill_with(OnceLock::new);
                    *self.watermarks.of_mut(feed) = message.meta;
                    *self.traceparents.of_mut(feed) = message.traceparent.clone();
                }
            }
        }
        is_applied
    }

    /// Drops the views of all rings that hold `zone`.
    fn invalidate(&mut self, zone: Zone) {
        let ring = self.area.k_ring(zone);
        for neighbour in ring.iter().flat_map(|ring| ring.zones()) {
            if let Some(index) = self.area.index_of(*neighbour) {
                self.rings[index].take();
            }
        }
    }

    /// The newest levels of `zones`.
    pub(super) fn observe(&self, zones: &[Zone]) -> MarketObservation {
        let (view, messages) = match self.ring(zones) {
            Some(ring) => ring.get_or_init(|| self.view(zones)).clone(),
            None => self.view(zones),
        };
        let read_at = RealTime::now();
        MarketObservation {
            view,
            provenance: Provenance::Events(EventProvenance { read_at, messages }),
        }
    }

    /// The shared view of `zones`; `None` if they are not the ring around their first zone.
    fn ring(&self, zones: &[Zone]) -> Option<&OnceLock<RingView>> {
        let centre = *zones.first()?;
        let is_ring = self.area.k_ring(centre)?.zones() == zones;
        let index = self.area.index_of(centre)?;
        is_ring.then(|| &self.rings[index])
    }

    fn view(&self, zones: &[Zone]) -> RingView {
        let known_of = |zone: &Zone| match self.area.index_of(*zone) {
            Some(index) => (self.board.levels_at(index), self.levels[index]),
            None => (ZoneLevels::unknown(*zone), PerFeed::default()),
        };
        let (zones, levels) = zones.iter().map(known_of).unzip();
        let watermarks = self.watermarks;
        let messages = ViewMessages { watermarks, levels };
        (Arc::new(MarketView { zones }), Arc::new(messages))
    }
}

#[cfg(test)]
mod tests {
    use marketplace::{view::Level, zone::Bounds};

    use super::*;

    const NOW: MarketTime = MarketTime::from_millis(60_000);

    fn state() -> SharedState {
        SharedState::new(Arc::new(ServiceArea::new(Bounds::NEW_YORK)))
    }

    fn apply(state: &mut LocalState, content: Content) {
        let message = FeedMessage {
            feed: FeedName::Supply,
            content,
            meta: None,
            traceparent: None,
        };
        assert!(state.apply(&message, NOW));
    }

    fn apply_level(state: &mut LocalState, zone: Zone, value: f64) {
        apply(state, Content::Level(zone, Level { value, as_of: NOW }));
    }

    fn ring_of(state: &LocalState, index: usize) -> Vec<Zone> {
        let centre = state.area.zones()[index];
        state.area.k_ring(centre).unwrap().zones().to_vec()
    }

    #[test]
    fn quotes_share_view_until_ring_changes() {
        let state = state();
        let mut state = state.write();
        let ring = ring_of(&state, 40);
        let all = state.area.zones().to_vec();
        let elsewhere = all.iter().find(|zone| !ring.contains(zone)).unwrap();
        let first = state.observe(&ring).view;
        apply_level(&mut state, *elsewhere, 3.0);
        assert!(Arc::ptr_eq(&first, &state.observe(&ring).view));

        for (index, zone) in ring.iter().enumerate() {
            let value = index as f64;
            apply_level(&mut state, *zone, value);
            let level = state.observe(&ring).view.zones[index].supply.unwrap();
            assert_eq!(level.value, value, "{zone}");
        }
        let before = state.observe(&ring).view;
        apply(&mut state, Content::Watermark(NOW));
        assert!(!Arc::ptr_eq(&before, &state.observe(&ring).view));
    }

    #[test]
    fn zones_beside_rings_are_never_shared() {
        let state = state();
        let mut state = state.write();
        let all = state.area.zones().to_vec();
        for value in [1.0, 2.0] {
            apply_level(&mut state, all[3], value);
            let view = state.observe(&all).view;
            assert_eq!(view.zones[3].supply.unwrap().value, value);
            assert_eq!(view.zones.len(), all.len());
        }
        let nowhere = Zone::at(marketplace::zone::Position::new(42.36, -71.06).unwrap());
        let unknown = [ZoneLevels::unknown(nowhere)];
        assert_eq!(state.observe(&[nowhere]).view.zones, unknown);
    }
}
