//! The pickups as counts per window and zone: the input and the measure of every method.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use super::{BacktestError, BacktestSettings, Pickup};
use crate::new_york;
use crate::time::{DAY_MILLIS, MarketTime, millis_of};
use crate::zone::{Zone, ZoneError};

/// Two years; a backtest of one month on a year of history fits.
pub(super) const MAX_DAYS: i64 = 730;

/// Counts of all windows from the first training day to the last test day. A gap between the two
/// holds zeros.
pub(super) struct Grid {
    /// Cells with at least one pickup a day in training, sorted.
    pub(super) zones: Vec<Zone>,
    /// Places in `zones` of the busiest in training.
    pub(super) busiest: Vec<usize>,
    /// The training days.
    pub(super) train: Range<MarketTime>,
    /// The pickups inside the box, also those of zones that are not scored.
    pub(super) pickups: Vec<(MarketTime, Zone)>,
    /// Counts per window and zone.
    pub(super) counts: Vec<Vec<u32>>,
    /// The windows of `counts` that are scored.
    pub(super) test: Range<usize>,
    /// Length of a window.
    pub(super) window: Duration,
}

impl Grid {
    pub(super) fn new(
        train: &[Pickup],
        test: &[Pickup],
        settings: &BacktestSettings,
    ) -> Result<Self, BacktestError> {
        check_window(settings)?;
        let train = Selection::of(train, "training", settings)?;
        let test = Selection::of(test, "test", settings)?;
        check_days(&train.days, &test.days)?;

        let totals = totals(&train.pickups);
        let zones = busy_zones(&totals, &train.days, settings)?;
        let windows = windows_between(train.days.start, &test.days, settings.window);
        let mut grid = Self {
            busiest: busiest(&zones, &totals),
            counts: vec![vec![0; zones.len()]; windows.end],
            zones,
            train: train.days,
            pickups: [train.pickups, test.pickups].concat(),
            test: windows,
            window: settings.window,
        };
        grid.count();
        Ok(grid)
    }

    /// When a window of `counts` starts.
    pub(super) fn start_of(&self, window: usize) -> MarketTime {
        let first = self.train.start.window_index(self.window);
        MarketTime::of_window(first + window as i64, self.window)
    }

    /// The window of `counts` that holds this time; none before the first.
    pub(super) fn window_at(&self, at: MarketTime) -> Option<usize> {
        let first = self.train.start.window_index(self.window);
        usize::try_from(at.window_index(self.window) - first).ok()
    }

    /// Whether the test days follow the training days without a gap.
    pub(super) fn is_gapless(&self) -> bool {
        self.start_of(self.test.start) == self.train.end
    }

    fn count(&mut self) {
        for (at, zone) in &self.pickups {
            if let Ok(index) = self.zones.binary_search(zone) {
                let window = self
                    .window_at(*at)
                    .expect("a pickup is not before the first");
                self.counts[window][index] += 1;
            }
        }
    }
}

/// The pickups of one part of the data that count, with their cells, and the whole days that they
/// span.
struct Selection {
    days: Range<MarketTime>,
    pickups: Vec<(MarketTime, Zone)>,
}

impl Selection {
    /// The pickups of the base inside the box.
    fn of(
        pickups: &[Pickup],
        part: &'static str,
        settings: &BacktestSettings,
    ) -> Result<Self, BacktestError> {
        let counts = |pickup: &&Pickup| {
            pickup.base == settings.base && settings.bounds.contains(pickup.position)
        };
        let pickups: Vec<_> = pickups
            .iter()
            .filter(counts)
            .map(|pickup| {
                Ok((
                    pickup.at,
                    Zone::at_resolution(pickup.position, settings.resolution)?,
                ))
            })
            .collect::<Result<_, ZoneError>>()
            .map_err(|_| BacktestError::Resolution(settings.resolution))?;
        let days = whole_days(&pickups).ok_or_else(|| BacktestError::NoPickups {
            part,
            base: settings.base.clone(),
            bounds: settings.bounds.to_string(),
        })?;
        Ok(Self { days, pickups })
    }
}

fn whole_days(pickups: &[(MarketTime, Zone)]) -> Option<Range<MarketTime>> {
    let first = pickups.iter().map(|(at, _)| *at).min()?;
    let last = pickups.iter().map(|(at, _)| *at).max()?;
    const DAY: Duration = Duration::from_millis(DAY_MILLIS as u64);
    Some(new_york::start_of_day(first)..new_york::at_time_of_day(last, DAY))
}

fn check_window(settings: &BacktestSettings) -> Result<(), BacktestError> {
    let millis = millis_of(settings.window);
    if millis > 0 && 3_600_000 % millis == 0 {
        Ok(())
    } else {
        Err(BacktestError::Window(settings.window))
    }
}

fn check_days(train: &Range<MarketTime>, test: &Range<MarketTime>) -> Result<(), BacktestError> {
    if test.start < train.end {
        return Err(BacktestError::TestBeforeTraining {
            train_end: train.end,
            test_start: test.start,
        });
    }
    let days = days_in(&(train.start..test.end));
    if days > MAX_DAYS {
        Err(BacktestError::TooManyDays { days })
    } else {
        Ok(())
    }
}

/// From midnight to midnight: a day has 23 to 25 hours.
fn days_in(span: &Range<MarketTime>) -> i64 {
    (new_york::civil_millis(span.end) - new_york::civil_millis(span.start)) / DAY_MILLIS
}

fn totals(pickups: &[(MarketTime, Zone)]) -> HashMap<Zone, i64> {
    let mut totals = HashMap::new();
    for (_, zone) in pickups {
        *totals.entry(*zone).or_default() += 1;
    }
    totals
}

fn busy_zones(
    totals: &HashMap<Zone, i64>,
    train: &Range<MarketTime>,
    settings: &BacktestSettings,
) -> Result<Vec<Zone>, BacktestError> {
    let days = days_in(train);
    let mut zones: Vec<Zone> = totals
        .iter()
        .filter(|(_, total)| **total >= days)
        .map(|(zone, _)| *zone)
        .collect();
    zones.sort_unstable();
    if zones.is_empty() {
        Err(BacktestError::NoZones {
            resolution: settings.resolution,
        })
    } else {
        Ok(zones)
    }
}

/// The busiest twenty, ties in the order of their ids.
fn busiest(zones: &[Zone], totals: &HashMap<Zone, i64>) -> Vec<usize> {
    const BUSIEST: usize = 20;
    let mut indices: Vec<usize> = (0..zones.len()).collect();
    indices.sort_by_key(|index| std::cmp::Reverse(totals[&zones[*index]]));
    indices.truncate(BUSIEST);
    indices
}

fn windows_between(first: MarketTime, days: &Range<MarketTime>, window: Duration) -> Range<usize> {
    let since_first =
        |at: MarketTime| (at.window_index(window) - first.window_index(window)) as usize;
    since_first(days.start)..since_first(days.end)
}
