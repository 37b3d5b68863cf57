//! The scores of forecasts.

use serde::Serialize;

use super::grid::Grid;

/// The scores of one method over all test windows; `y` is a count and `f` its forecast, clipped to
/// at least 0.001.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Mean Poisson deviance per zone and window, `2 (y ln(y / f) - (y - f))`: the main score,
    /// lower is better.
    pub pdev: f64,
    /// The same over the twenty zones that were busiest in training.
    pub pdev_top20: f64,
    /// Mean absolute error, `mean |y - f|`.
    pub mae: f64,
    /// Weighted absolute percentage error, `sum |y - f| / sum y`.
    pub wape: f64,
    /// Mean error, `mean (f - y)`: positive if too many pickups were forecast.
    pub bias: f64,
}

impl Scores {
    pub(super) fn of(forecasts: &[Vec<f64>], grid: &Grid) -> Self {
        let all: Vec<usize> = (0..grid.zones.len()).collect();
        let over_all = Sums::over(&all, forecasts, grid);
        let over_busiest = Sums::over(&grid.busiest, forecasts, grid);
        Self {
            pdev: over_all.deviance / over_all.cells,
            pdev_top20: over_busiest.deviance / over_busiest.cells,
            mae: over_all.absolute_error / over_all.cells,
            wape: over_all.absolute_error / over_all.pickups,
            bias: over_all.error / over_all.cells,
        }
    }
}

/// Sums over zones and windows.
#[derive(Default)]
struct Sums {
    cells: f64,
    pickups: f64,
    deviance: f64,
    absolute_error: f64,
    error: f64,
}

impl Sums {
    fn over(zones: &[usize], forecasts: &[Vec<f64>], grid: &Grid) -> Self {
        let mut sums = Self::default();
        for (counts, forecasts) in grid.counts[grid.test.clone()].iter().zip(forecasts) {
            for zone in zones {
                sums.add(
                    f64::from(counts[*zone]),
                    forecasts[*zone].max(LEAST_FORECAST),
                );
            }
        }
        sums
    }

    fn add(&mut self, count: f64, forecast: f64) {
        self.cells += 1.0;
        self.pickups += count;
        self.deviance += poisson_deviance(count, forecast);
        self.absolute_error += (count - forecast).abs();
        self.error += forecast - count;
    }
}

/// A forecast of zero would make the first pickup infinitely surprising.
const LEAST_FORECAST: f64 = 0.001;

/// The term `y ln(y / f)` is zero for `y = 0`.
fn poisson_deviance(count: f64, forecast: f64) -> f64 {
    let surprise = if count > 0.0 {
        count * (count / forecast).ln()
    } else {
        0.0
    };
    2.0 * (surprise - (count - forecast))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_forecast_has_no_deviance() {
        assert_eq!(poisson_deviance(3.0, 3.0), 0.0);
        assert!((poisson_deviance(0.0, 0.5) - 1.0).abs() < 1e-12);
        assert!(poisson_deviance(1.0, LEAST_FORECAST) > 10.0);
    }
}
