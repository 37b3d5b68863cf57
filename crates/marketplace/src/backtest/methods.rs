//! The forecasting methods, from the simplest to the one that ships.
//!
//! Each is a function from the grid to forecasts per test window and zone. Parameters are fixed
//! here or shipped with the live service; none is fitted to the test days.

use std::sync::Arc;

use serde::Serialize;

use super::BacktestSettings;
use super::grid::Grid;
use crate::demand::{DemandForecaster, DemandProfile, ProfileSettings};
use crate::new_york;
use crate::time::{MarketTime, millis_of};

/// Forecasts per test window and zone.
pub(super) type Forecasts = Vec<Vec<f64>>;

/// A way to forecast the pickups of the next window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The count of the window before.
    LastValue,
    /// The count of the same window a week ago.
    SeasonalNaive,
    /// The mean of the last four hours.
    MovingAverage,
    /// The exponentially weighted mean.
    Ewma,
    /// The mean of this slot of the week, smoothed over its neighbours.
    SlotMean,
    /// The filter of the live service over its profile.
    GammaPoisson,
}

impl Method {
    /// All methods, the simplest first.
    pub const ALL: [Self; 6] = [
        Self::LastValue,
        Self::SeasonalNaive,
        Self::MovingAverage,
        Self::Ewma,
        Self::SlotMean,
        Self::GammaPoisson,
    ];

    /// One step ahead forecasts of all test windows.
    pub(super) fn forecasts(self, grid: &Grid, settings: &BacktestSettings) -> Forecasts {
        match self {
            Self::LastValue => earlier_value(grid, |window| window.checked_sub(1)),
            Self::SeasonalNaive => earlier_value(grid, |window| {
                grid.window_at(new_york::days_before(grid.start_of(window), 7))
            }),
            Self::MovingAverage => moving_average(grid),
            Self::Ewma => ewma(grid),
            Self::SlotMean => slot_mean(grid, settings),
            Self::GammaPoisson => gamma_poisson(grid, settings),
        }
    }
}

fn earlier_value(grid: &Grid, earlier: impl Fn(usize) -> Option<usize>) -> Forecasts {
    let value = |window: usize| match earlier(window) {
        Some(earlier) => grid.counts[earlier]
            .iter()
            .map(|count| f64::from(*count))
            .collect(),
        None => vec![0.0; grid.zones.len()],
    };
    grid.test.clone().map(value).collect()
}

fn moving_average(grid: &Grid) -> Forecasts {
    const FOUR_HOURS_MILLIS: i64 = 4 * 3_600_000;
    let length = (FOUR_HOURS_MILLIS / millis_of(grid.window)) as usize;
    let mean = |window: usize| {
        let recent = &grid.counts[window.saturating_sub(length)..window];
        let sum = |zone: usize| {
            recent
                .iter()
                .map(|counts| f64::from(counts[zone]))
                .sum::<f64>()
        };
        (0..grid.zones.len())
            .map(|zone| sum(zone) / recent.len().max(1) as f64)
            .collect()
    };
    grid.test.clone().map(mean).collect()
}

fn ewma(grid: &Grid) -> Forecasts {
    const HALF_LIFE_HOURS: f64 = 2.5;
    let weight = 1.0 - 0.5_f64.powf(grid.window.as_secs_f64() / 3600.0 / HALF_LIFE_HOURS);
    let mut means = vec![0.0; grid.zones.len()];
    let mut forecasts = Vec::with_capacity(grid.counts.len());
    for counts in &grid.counts {
        forecasts.push(means.clone());
        for (mean, count) in means.iter_mut().zip(counts) {
            *mean += weight * (f64::from(*count) - *mean);
        }
    }
    forecasts.split_off(grid.test.start)
}

fn slot_mean(grid: &Grid, settings: &BacktestSettings) -> Forecasts {
    let own_slots_only = ProfileSettings {
        city_weeks: 0.0,
        fallback_weeks: 0.0,
        ..settings.profile
    };
    let profile = profile(grid, grid.train.end, &own_slots_only);
    let expected = |window: usize| {
        let start = grid.start_of(window);
        grid.zones
            .iter()
            .map(|zone| profile.expected(*zone, start, grid.window))
            .collect()
    };
    grid.test.clone().map(expected).collect()
}

fn gamma_poisson(grid: &Grid, settings: &BacktestSettings) -> Forecasts {
    // After a gap the filter must not read the missing days as days without pickups.
    let first = if grid.is_gapless() {
        0
    } else {
        grid.test.start
    };
    let mut forecaster = forecaster(grid, first, settings);
    let retrain_every = (millis_of(settings.retrain_every) / millis_of(grid.window)) as usize;
    let mut forecasts = Vec::with_capacity(grid.test.len());
    for window in first..grid.test.end {
        let start = grid.start_of(window);
        if let Some(tested) = window.checked_sub(grid.test.start) {
            if tested.is_multiple_of(retrain_every) {
                forecaster.adopt(Arc::new(profile(grid, start, &settings.profile)));
            }
            forecasts.push(forecaster.forecasts(&grid.zones, start));
        }
        record(&mut forecaster, grid, window);
    }
    forecasts
}

/// The live forecaster as it would start after training, counting from the window `first`.
fn forecaster(grid: &Grid, first: usize, settings: &BacktestSettings) -> DemandForecaster {
    let profile = Arc::new(profile(grid, grid.train.end, &settings.profile));
    let since = grid.start_of(first);
    DemandForecaster::new(profile, &grid.zones, grid.window, since, settings.filter)
}

fn record(forecaster: &mut DemandForecaster, grid: &Grid, window: usize) {
    for (zone, count) in grid.zones.iter().zip(&grid.counts[window]) {
        forecaster.record_count(*zone, grid.start_of(window), *count);
    }
}

fn profile(grid: &Grid, until: MarketTime, settings: &ProfileSettings) -> DemandProfile {
    DemandProfile::train(
        &grid.pickups,
        &grid.zones,
        grid.train.start..until,
        settings,
    )
}
