//! The prices of an offline run: the one formula, applied to the market as it was when the data
//! behind the quote was current.
//!
//! A second ground truth follows the first at a distance: it has all facts up to the moment that
//! the data describes, and no later one. So a quote from data of any age is the quote that fresh
//! data gave at that time.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use marketplace::{MarketTime, Multiplier, Zone, new_york};

use crate::ground_truth::{Fact, GroundTruth};

/// The source of the multiplier of a quote. All times are market time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pricing {
    /// The market as it was this long ago; zero is fresh. No freshness budget applies here.
    Delayed(Duration),
    /// A table of all zones, rewritten once per period.
    Batch(Duration),
    /// The multipliers of the evening before, from fresh data, averaged by zone and half hour.
    Nightly,
    /// None: every ride has the normal price.
    WithoutSurge,
    /// Fresh data, but none for a while.
    Outage {
        /// When it begins.
        from: MarketTime,
        /// How long it lasts.
        length: Duration,
    },
}

impl Pricing {
    /// Fresh data: the reference for all others.
    pub const FRESH: Self = Self::Delayed(Duration::ZERO);

    /// Whether any quote is made from an earlier market.
    const fn needs_the_past(self) -> bool {
        match self {
            Self::Delayed(age) => !age.is_zero(),
            Self::Batch(_) => true,
            Self::Nightly | Self::WithoutSurge | Self::Outage { .. } => false,
        }
    }

    /// The moment that the data behind a quote at `now` describes; `None` without such data.
    fn as_of(self, now: MarketTime) -> Option<MarketTime> {
        match self {
            Self::Delayed(age) => Some(now - age),
            Self::Batch(period) => Some(MarketTime::of_window(now.window_index(period), period)),
            Self::Outage { from, length } => (now < from || from + length <= now).then_some(now),
            Self::Nightly | Self::WithoutSurge => None,
        }
    }
}

impl fmt::Display for Pricing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delayed(Duration::ZERO) => f.write_str("fresh"),
            Self::Delayed(age) => write!(f, "{} old", in_words(*age)),
            Self::Batch(period) => write!(f, "{} batch", in_words(*period)),
            Self::Nightly => f.write_str("nightly batch"),
            Self::WithoutSurge => f.write_str("no surge"),
            Self::Outage { length, .. } => write!(f, "no surge for {}", in_words(*length)),
        }
    }
}

/// A length of time in the largest unit that fits: `0.135 s`, `8 s`, `5 min`, `1 h`.
fn in_words(length: Duration) -> String {
    const UNITS: [(&str, f64); 3] = [("h", 3_600.0), ("min", 60.0), ("s", 1.0)];
    let seconds = length.as_secs_f64();
    let fits = UNITS.iter().find(|(_, unit)| seconds >= *unit);
    match fits {
        Some((name, unit)) => format!("{} {name}", (seconds / unit * 10.0).round() / 10.0),
        None => format!("{seconds:.3} s"),
    }
}

/// The multipliers of every zone and half hour of the day, averaged over an evening.
#[derive(Debug, Clone, Default)]
pub(super) struct HalfHours {
    sums: HashMap<(Zone, usize), (f64, u32)>,
}

impl HalfHours {
    /// Adds the published multipliers of one moment.
    pub(super) fn add(&mut self, published: &HashMap<Zone, Multiplier>, now: MarketTime) {
        for (zone, multiplier) in published {
            let (sum, count) = self.sums.entry((*zone, half_hour(now))).or_default();
            *sum += multiplier.as_f64();
            *count += 1;
        }
    }

    /// The mean of this zone at this time of day; 1.0 without data.
    fn multiplier(&self, zone: Zone, now: MarketTime) -> Multiplier {
        let known = self.sums.get(&(zone, half_hour(now)));
        known.map_or(Multiplier::ONE, |(sum, count)| {
            Multiplier::rounded(sum / f64::from(*count))
        })
    }
}

/// The number of the half hour of the day, in New York.
fn half_hour(now: MarketTime) -> usize {
    new_york::slot_of_week(now, Duration::from_secs(1_800)) % 48
}

/// Answers every request for a price.
#[derive(Debug)]
pub(super) struct OfflinePrices {
    pricing: Pricing,
    /// The market as it is.
    present: Arc<GroundTruth>,
    /// The market as it was.
    past: GroundTruth,
    /// Facts that `past` does not have yet, with their times.
    pending_facts: VecDeque<(MarketTime, Fact)>,
    /// When both ground truths begin.
    opened_at: MarketTime,
    /// For [`Pricing::Nightly`].
    evening_before: HalfHours,
}

impl OfflinePrices {
    /// Prices from `present`, which must keep its facts, and from `past`, which must be empty.
    pub(super) fn new(
        pricing: Pricing,
        present: Arc<GroundTruth>,
        past: GroundTruth,
        opened_at: MarketTime,
        evening_before: HalfHours,
    ) -> Self {
        Self {
            pricing,
            present,
            past,
            pending_facts: VecDeque::new(),
            opened_at,
            evening_before,
        }
    }

    /// Dates the facts since the last call: they happened now.
    pub(super) fn note(&mut self, now: MarketTime) {
        let facts = self.present.take_facts();
        if self.pricing.needs_the_past() {
            let dated = facts.into_iter().map(|fact| (now, fact));
            self.pending_facts.extend(dated);
            if let Some(as_of) = self.as_of(now) {
                self.write_up(as_of);
            }
        }
    }

    /// The multiplier of a quote now.
    pub(super) fn quoted(&mut self, zone: Zone, now: MarketTime) -> Option<Multiplier> {
        match self.as_of(now) {
            Some(as_of) if as_of == now => self.oracle(zone, now),
            Some(as_of) => self.past_at(as_of).multiplier(zone, as_of),
            None if self.pricing == Pricing::Nightly => {
                Some(self.evening_before.multiplier(zone, now))
            }
            None => Some(Multiplier::ONE),
        }
    }

    /// The multiplier that is right now.
    pub(super) fn oracle(&self, zone: Zone, now: MarketTime) -> Option<Multiplier> {
        self.present.multiplier(zone, now)
    }

    /// The multipliers that drivers see now.
    pub(super) fn published(&mut self, now: MarketTime) -> HashMap<Zone, Multiplier> {
        match self.as_of(now) {
            Some(as_of) if as_of == now => self.present.multipliers(now),
            Some(as_of) => self.past_at(as_of).multipliers(as_of),
            None => {
                let zones: Vec<Zone> = self.present.area().zones().to_vec();
                let quoted = |zone| Some((zone, self.quoted(zone, now)?));
                zones.into_iter().filter_map(quoted).collect()
            }
        }
    }

    /// Never before the begin: until the data can be as old as it should, it is as old as the run.
    fn as_of(&self, now: MarketTime) -> Option<MarketTime> {
        let as_of = self.pricing.as_of(now)?;
        Some(as_of.max(self.opened_at))
    }

    fn past_at(&mut self, as_of: MarketTime) -> &GroundTruth {
        self.write_up(as_of);
        &self.past
    }

    fn write_up(&mut self, as_of: MarketTime) {
        while let Some((at, _)) = self.pending_facts.front()
            && *at <= as_of
            && let Some((_, fact)) = self.pending_facts.pop_front()
        {
            self.past.record(fact);
        }
    }
}

#[cfg(test)]
mod tests {
    use marketplace::{Bounds, DemandProfile, ServiceArea};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn opened() -> MarketTime {
        "2014-04-04T17:00:00-04:00".parse().unwrap()
    }

    fn after(minutes: u32) -> MarketTime {
        opened() + MINUTE * minutes
    }

    /// Multipliers of one busy zone: each of the first ten minutes has more requests.
    fn multipliers(pricing: Pricing) -> Vec<u16> {
        let area = Arc::new(ServiceArea::new(
            Bounds::new(40.70, -74.0, 40.78, -73.94).unwrap(),
        ));
        let profile = Arc::new(DemandProfile::flat(area.zones()));
        let open = || GroundTruth::new(Arc::clone(&area), Arc::clone(&profile), opened());
        let present = Arc::new(open().keeping_facts());
        let before = HalfHours::default();
        let mut prices =
            OfflinePrices::new(pricing, Arc::clone(&present), open(), opened(), before);
        let zone = area.zones()[1];
        let mut quoted = |minute| {
            present.record(Fact::Requests(zone, after(minute), minute * 3));
            prices.note(after(minute));
            let multiplier = prices.quoted(zone, after(minute)).unwrap();
            assert_eq!(prices.published(after(minute))[&zone], multiplier);
            multiplier.tenths()
        };
        (0..10).map(&mut quoted).collect()
    }

    #[test]
    fn old_data_repeats_earlier_fresh_quotes() {
        let fresh = multipliers(Pricing::FRESH);
        assert!(fresh[9] > fresh[5] && fresh[5] > fresh[0], "{fresh:?}");
        let three_minutes_late = multipliers(Pricing::Delayed(MINUTE * 3));
        assert_eq!(three_minutes_late[3..], fresh[..7]);
        assert_eq!(three_minutes_late[..3], [fresh[0]; 3]);
    }

    #[test]
    fn table_gives_quotes_of_its_batch_time() {
        let fresh = multipliers(Pricing::FRESH);
        let table = multipliers(Pricing::Batch(MINUTE * 5));
        assert_eq!(table, [[fresh[0]; 5], [fresh[5]; 5]].concat());
    }

    #[test]
    fn outage_prices_at_one() {
        let fresh = multipliers(Pricing::FRESH);
        let outage = Pricing::Outage {
            from: after(6),
            length: MINUTE * 2,
        };
        let quoted = multipliers(outage);
        assert_eq!(quoted[6..8], [10, 10]);
        assert_eq!((&quoted[..6], &quoted[8..]), (&fresh[..6], &fresh[8..]));
        assert_eq!(multipliers(Pricing::WithoutSurge), [10; 10]);
    }

    #[test]
    fn nightly_batch_averages_each_half_hour() {
        let zone = Zone::at(marketplace::Position::new(40.75, -73.98).unwrap());
        let mut half_hours = HalfHours::default();
        for (minute, tenths) in [(0, 12), (29, 16), (30, 20)] {
            let published = HashMap::from([(zone, Multiplier::from_tenths(tenths).unwrap())]);
            half_hours.add(&published, after(minute));
        }
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let quoted = |minute| half_hours.multiplier(zone, after(minute) + DAY).tenths();
        assert_eq!(
            [quoted(0), quoted(29), quoted(31), quoted(61)],
            [14, 14, 20, 10]
        );
    }

    #[test]
    fn lengths_use_the_largest_unit() {
        let label = |millis| Pricing::Delayed(Duration::from_millis(millis)).to_string();
        assert_eq!(label(0), "fresh");
        assert_eq!(label(54), "0.054 s old");
        assert_eq!(label(8_120), "8.1 s old");
        assert_eq!(label(299_960), "5 min old");
        assert_eq!(label(3_600_000), "1 h old");
    }
}
