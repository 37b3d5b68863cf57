//! The input of a quote: levels of supply and demand, each with the time it describes.
//!
//! # How this works
//!
//! A producer publishes a *level* for each zone that changed ("supply of zone z is 11.4 as of
//! 20:00:03"), never an increment. A level may be lost, repeated or overtaken by another: the
//! newest one holds the whole value. After each pass over all zones the producer publishes a
//! *watermark* ("all zones are complete as of 20:00:03").
//!
//! ```text
//! time       :01        :02        :03        :04        :05
//! zone a    3.0 ------------------ 5.0 --------------------->
//! zone b    2.0 -------------------------------------------->   no message, so still 2.0
//! watermark  W1         W2         W3         (producer dies)
//!                                             age grows ---->
//! ```
//!
//! No message for one zone means that the zone did not change, so its level is as fresh as the
//! watermark. No watermark means that the data of all zones grows old. The age of a quote's data is
//! `now` minus the older of the two feeds' times.

use serde::{Deserialize, Serialize};

use crate::time::MarketTime;
use crate::zone::{ServiceArea, Zone};

/// A forecast for one zone: available drivers or expected requests in the coming window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Drivers or requests per window; finite and not negative.
    pub value: f64,
    /// The instant that the value describes.
    pub as_of: MarketTime,
}

/// Supply and demand of one zone, as far as known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ZoneLevels {
    /// The zone.
    pub zone: Zone,
    /// Predicted available drivers in the window.
    pub supply: Option<Level>,
    /// Expected requests in the window.
    pub demand: Option<Level>,
}

impl ZoneLevels {
    /// A zone without levels.
    pub const fn unknown(zone: Zone) -> Self {
        Self {
            zone,
            supply: None,
            demand: None,
        }
    }
}

/// The market around one zone: that zone first, then its neighbours. Every dataflow delivers one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MarketView {
    /// The centre zone first; the order of the others does not matter.
    pub zones: Vec<ZoneLevels>,
}

impl MarketView {
    /// The instant of the oldest level; `None` if any level is missing.
    pub fn as_of(&self) -> Option<MarketTime> {
        let mut oldest: Option<MarketTime> = None;
        for zone in &self.zones {
            let older = zone.supply?.as_of.min(zone.demand?.as_of);
            oldest = Some(oldest.map_or(older, |known| known.min(older)));
        }
        oldest
    }

    /// Whether the time of any level is ahead of `now`, beyond the difference of two clocks. The
    /// whole view is then unusable.
    pub fn is_ahead_of(&self, now: MarketTime) -> bool {
        let levels = self
            .zones
            .iter()
            .flat_map(|zone| [zone.supply, zone.demand]);
        levels.flatten().any(|level| level.as_of.is_ahead_of(now))
    }

    /// The levels of the zone being priced.
    pub fn centre(&self) -> Option<&ZoneLevels> {
        self.zones.first()
    }
}

/// The latest levels and watermarks of a whole service area, whatever the order of their arrival.
///
/// The board ignores messages from the future: as the newest they would shut out every later
/// message of this market.
#[derive(Debug, Clone, PartialEq)]
pub struct LevelBoard {
    zones: Vec<Zone>,
    supply: Feed,
    demand: Feed,
}

impl LevelBoard {
    /// A board for all zones of the area, without levels.
    pub fn new(area: &ServiceArea) -> Self {
        let zones = area.zones().to_vec();
        Self {
            supply: Feed::empty(zones.len()),
            demand: Feed::empty(zones.len()),
            zones,
        }
    }

    /// Takes a supply level and returns whether it changed the board. Older levels, repeats,
    /// unknown zones and levels [ahead](MarketTime::is_ahead_of) of `now` change nothing.
    pub fn apply_supply(&mut self, zone: Zone, level: Level, now: MarketTime) -> bool {
        self.index_of(zone)
            .is_some_and(|index| self.supply.apply(index, level, now))
    }

    /// Takes a demand level, as [`apply_supply`](Self::apply_supply) takes one of supply.
    pub fn apply_demand(&mut self, zone: Zone, level: Level, now: MarketTime) -> bool {
        self.index_of(zone)
            .is_some_and(|index| self.demand.apply(index, level, now))
    }

    /// Takes a watermark of supply and returns whether it was newer than the last one.
    pub fn supply_watermark(&mut self, as_of: MarketTime, now: MarketTime) -> bool {
        self.supply.complete(as_of, now)
    }

    /// Takes a watermark of demand and returns whether it was newer than the last one.
    pub fn demand_watermark(&mut self, as_of: MarketTime, now: MarketTime) -> bool {
        self.demand.complete(as_of, now)
    }

    /// The time up to which both feeds are complete; `None` while one has no watermark.
    pub fn complete_as_of(&self) -> Option<MarketTime> {
        Some(self.supply.watermark?.min(self.demand.watermark?))
    }

    /// The watermarks of supply and of demand.
    pub const fn watermarks(&self) -> [Option<MarketTime>; 2] {
        [self.supply.watermark, self.demand.watermark]
    }

    /// The number of zones without a level of supply, and of those without one of demand.
    pub fn missing(&self) -> [usize; 2] {
        [&self.supply, &self.demand]
            .map(|feed| feed.levels.iter().filter(|level| level.is_none()).count())
    }

    /// The market of these zones, in their order. A zone that never had a level stays unknown, even
    /// behind a watermark.
    pub fn view(&self, zones: &[Zone]) -> MarketView {
        MarketView {
            zones: zones.iter().map(|zone| self.levels_of(*zone)).collect(),
        }
    }

    /// The market of the zone at this place of the [zones of the area](ServiceArea::zones).
    ///
    /// # Panics
    /// When the area has fewer zones.
    pub fn levels_at(&self, index: usize) -> ZoneLevels {
        ZoneLevels {
            zone: self.zones[index],
            supply: self.supply.level(index),
            demand: self.demand.level(index),
        }
    }

    fn levels_of(&self, zone: Zone) -> ZoneLevels {
        let index = self.index_of(zone);
        index.map_or(ZoneLevels::unknown(zone), |index| self.levels_at(index))
    }

    fn index_of(&self, zone: Zone) -> Option<usize> {
        self.zones.binary_search(&zone).ok()
    }
}

/// One producer's levels and its watermark.
#[derive(Debug, Clone, PartialEq)]
struct Feed {
    levels: Vec<Option<Level>>,
    watermark: Option<MarketTime>,
}

impl Feed {
    fn empty(zones: usize) -> Self {
        Self {
            levels: vec![None; zones],
            watermark: None,
        }
    }

    fn apply(&mut self, index: usize, level: Level, now: MarketTime) -> bool {
        let is_newer = self.levels[index].is_none_or(|known| supersedes(level, known));
        let changes = is_newer && !level.as_of.is_ahead_of(now);
        if changes {
            self.levels[index] = Some(level);
        }
        changes
    }

    fn complete(&mut self, as_of: MarketTime, now: MarketTime) -> bool {
        let is_newer = Some(as_of) > self.watermark && !as_of.is_ahead_of(now);
        if is_newer {
            self.watermark = Some(as_of);
        }
        is_newer
    }

    fn level(&self, index: usize) -> Option<Level> {
        let level = self.levels[index]?;
        let as_of = self
            .watermark
            .map_or(level.as_of, |watermark| watermark.max(level.as_of));
        Some(Level { as_of, ..level })
    }
}

/// Newer wins. Of two levels with the same time the greater value wins: any fixed rule would do, as
/// long as the order of arrival does not decide.
fn supersedes(level: Level, known: Level) -> bool {
    level
        .as_of
        .cmp(&known.as_of)
        .then(level.value.total_cmp(&known.value))
        .is_gt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::Bounds;

    const NOW: MarketTime = MarketTime::from_millis(100_000);

    fn at(second: i64) -> MarketTime {
        MarketTime::from_millis(second * 1000)
    }

    fn level(value: f64, second: i64) -> Level {
        Level {
            value,
            as_of: at(second),
        }
    }

    #[test]
    fn unchanged_zone_is_fresh_as_its_watermark() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let zone = area.zones()[0];
        let mut board = LevelBoard::new(&area);
        assert!(board.apply_supply(zone, level(3.0, 10), NOW));
        board.supply_watermark(at(60), NOW);
        let supply = board.view(area.k_ring(zone).unwrap().zones()).zones[0].supply;
        assert_eq!(supply, Some(level(3.0, 60)));
    }

    #[test]
    fn board_is_complete_as_of_older_watermark() {
        let mut board = LevelBoard::new(&ServiceArea::new(Bounds::NEW_YORK));
        board.supply_watermark(at(60), NOW);
        assert_eq!(board.complete_as_of(), None);
        board.demand_watermark(at(50), NOW);
        assert_eq!(board.complete_as_of(), Some(at(50)));
    }

    #[test]
    fn zone_without_level_stays_unknown() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let ring = area.k_ring(area.zones()[0]).unwrap();
        let mut board = LevelBoard::new(&area);
        board.supply_watermark(at(60), NOW);
        board.demand_watermark(at(60), NOW);
        let view = board.view(ring.zones());
        assert_eq!(view.zones[0].supply, None);
        assert_eq!(view.as_of(), None);
        board.apply_demand(area.zones()[0], level(3.0, 60), NOW);
        assert_eq!(board.missing(), [area.len(), area.len() - 1]);
    }

    #[test]
    fn older_levels_and_unknown_zones_change_nothing() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let zone = area.zones()[0];
        let boston = "872a30660ffffff".parse().unwrap();
        let mut board = LevelBoard::new(&area);
        assert!(board.apply_demand(zone, level(3.0, 10), NOW));
        let before = board.clone();
        assert!(!board.apply_demand(zone, level(9.0, 9), NOW));
        assert!(!board.apply_demand(zone, level(3.0, 10), NOW));
        assert!(!board.apply_demand(boston, level(3.0, 99), NOW));
        assert_eq!(board, before);
    }

    #[test]
    fn future_level_does_not_shut_out_present() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let zone = area.zones()[0];
        let mut board = LevelBoard::new(&area);
        assert!(!board.apply_supply(zone, level(9.0, 161), NOW));
        assert!(!board.supply_watermark(at(161), NOW));
        assert!(board.apply_supply(zone, level(3.0, 99), NOW));
        assert!(board.supply_watermark(at(100), NOW));
        let supply = board.view(&[zone]).zones[0].supply;
        assert_eq!(supply, Some(level(3.0, 100)));
        assert!(
            board.supply_watermark(at(160), NOW),
            "clocks may differ a little"
        );
    }

    #[test]
    fn view_is_as_old_as_oldest_level() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let ring = area.k_ring(area.zones()[0]).unwrap();
        let mut board = LevelBoard::new(&area);
        for zone in ring.zones() {
            board.apply_supply(*zone, level(1.0, 50), NOW);
            board.apply_demand(*zone, level(1.0, 40), NOW);
        }
        assert_eq!(board.view(ring.zones()).as_of(), Some(at(40)));
        board.demand_watermark(at(70), NOW);
        assert_eq!(board.view(ring.zones()).as_of(), Some(at(50)));
    }
}
