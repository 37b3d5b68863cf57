//! What a quote knows of the market: levels of supply and demand, each with the instant it describes.
//!
//! Levels, never increments: a level that is lost, repeated or overtaken does no harm, because the newest one says
//! everything. A producer that has gone through all its zones says so with a *watermark*; a zone without news is then
//! as fresh as the watermark, so a silent zone is not a stale zone, but a silent producer is.

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
    /// A zone of which nothing is known.
    pub const fn unknown(zone: Zone) -> Self {
        Self {
            zone,
            supply: None,
            demand: None,
        }
    }
}

/// The market around one zone: that zone first, then its neighbours. This is what every dataflow delivers.
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

    /// Whether any level was told by a clock that is ahead of `now`; the whole view is then good for nothing.
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

/// The latest levels and watermarks of a whole service area, in whatever order they arrived. News from the future is not
/// taken in: as the newest it would keep out all that this market has to say.
#[derive(Debug, Clone, PartialEq)]
pub struct LevelBoard {
    zones: Vec<Zone>,
    supply: Feed,
    demand: Feed,
}

impl LevelBoard {
    /// A board for all zones of the area that has heard of nothing yet.
    pub fn new(area: &ServiceArea) -> Self {
        let zones = area.zones().to_vec();
        Self {
            supply: Feed::silent(zones.len()),
            demand: Feed::silent(zones.len()),
            zones,
        }
    }

    /// Takes in a supply level and says whether it was news. Older levels, repeats, unknown zones and what is
    /// [ahead](MarketTime::is_ahead_of) of `now` change nothing.
    pub fn apply_supply(&mut self, zone: Zone, level: Level, now: MarketTime) -> bool {
        self.index_of(zone)
            .is_some_and(|index| self.supply.apply(index, level, now))
    }

    /// Takes in a demand level and says whether it was news, as [`apply_supply`](Self::apply_supply) does.
    pub fn apply_demand(&mut self, zone: Zone, level: Level, now: MarketTime) -> bool {
        self.index_of(zone)
            .is_some_and(|index| self.demand.apply(index, level, now))
    }

    /// The supply of all zones is complete as of this instant. Says whether that was news.
    pub fn supply_watermark(&mut self, as_of: MarketTime, now: MarketTime) -> bool {
        self.supply.complete(as_of, now)
    }

    /// The demand of all zones is complete as of this instant. Says whether that was news.
    pub fn demand_watermark(&mut self, as_of: MarketTime, now: MarketTime) -> bool {
        self.demand.complete(as_of, now)
    }

    /// The instant up to which both feeds are complete; `None` while one has not said so.
    pub fn complete_as_of(&self) -> Option<MarketTime> {
        Some(self.supply.watermark?.min(self.demand.watermark?))
    }

    /// How far supply and demand are complete, each.
    pub const fn watermarks(&self) -> [Option<MarketTime>; 2] {
        [self.supply.watermark, self.demand.watermark]
    }

    /// The market of these zones, in their order. A zone of which no level ever came stays unknown, watermark or not.
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

/// One producer's levels and how far it has gone through them.
#[derive(Debug, Clone, PartialEq)]
struct Feed {
    levels: Vec<Option<Level>>,
    watermark: Option<MarketTime>,
}

impl Feed {
    fn silent(zones: usize) -> Self {
        Self {
            levels: vec![None; zones],
            watermark: None,
        }
    }

    fn apply(&mut self, index: usize, level: Level, now: MarketTime) -> bool {
        let is_newer = self.levels[index].is_none_or(|known| supersedes(level, known));
        let is_news = is_newer && !level.as_of.is_ahead_of(now);
        if is_news {
            self.levels[index] = Some(level);
        }
        is_news
    }

    fn complete(&mut self, as_of: MarketTime, now: MarketTime) -> bool {
        let is_news = Some(as_of) > self.watermark && !as_of.is_ahead_of(now);
        if is_news {
            self.watermark = Some(as_of);
        }
        is_news
    }

    fn level(&self, index: usize) -> Option<Level> {
        let level = self.levels[index]?;
        let as_of = self
            .watermark
            .map_or(level.as_of, |watermark| watermark.max(level.as_of));
        Some(Level { as_of, ..level })
    }
}

/// Newer wins. Between two levels of one instant the greater value wins: any fixed rule would do, as long as the
/// order of arrival has no say.
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
    fn a_silent_zone_is_as_fresh_as_its_producer() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let zone = area.zones()[0];
        let mut board = LevelBoard::new(&area);
        assert!(board.apply_supply(zone, level(3.0, 10), NOW));
        board.supply_watermark(at(60), NOW);
        let supply = board.view(area.k_ring(zone).unwrap().zones()).zones[0].supply;
        assert_eq!(supply, Some(level(3.0, 60)));
    }

    #[test]
    fn a_board_is_complete_as_of_the_older_watermark() {
        let mut board = LevelBoard::new(&ServiceArea::new(Bounds::NEW_YORK));
        board.supply_watermark(at(60), NOW);
        assert_eq!(board.complete_as_of(), None);
        board.demand_watermark(at(50), NOW);
        assert_eq!(board.complete_as_of(), Some(at(50)));
    }

    #[test]
    fn a_zone_never_heard_of_stays_unknown() {
        let area = ServiceArea::new(Bounds::NEW_YORK);
        let ring = area.k_ring(area.zones()[0]).unwrap();
        let mut board = LevelBoard::new(&area);
        board.supply_watermark(at(60), NOW);
        board.demand_watermark(at(60), NOW);
        let view = board.view(ring.zones());
        assert_eq!(view.zones[0].supply, None);
        assert_eq!(view.as_of(), None);
    }

    #[test]
    fn older_news_and_unknown_zones_change_nothing() {
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
    fn news_from_the_future_does_not_keep_out_the_present() {
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
    fn a_view_is_as_old_as_its_oldest_level() {
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
