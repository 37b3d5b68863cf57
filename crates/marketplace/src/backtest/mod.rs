//! The backtest: scores forecasting methods on recorded pickups.
//!
//! # How this works
//!
//! Each method learns from the training days and then forecasts the test days, one window ahead: it
//! may use every earlier window, those of the test days too.
//!
//! ```text
//! | training days ............ | test days ............ |
//!   all windows before  -----> [forecast][count]           error of this window
//!   all windows before  ---------------> [forecast][count] error of the next one
//! ```
//!
//! Zones are the cells with at least one pickup a day in training. The gamma-Poisson method is the
//! live [`DemandForecaster`](crate::DemandForecaster) with its default parameters.
//!
//! Which score? Cells are nearly empty (a quarter of a pickup per window), so the forecast "always
//! zero" has an excellent mean absolute error. Judge by the Poisson deviance first.

mod grid;
mod methods;
mod scores;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

pub use methods::Method;
pub use scores::Scores;

use crate::demand::{FilterSettings, ProfileSettings};
use crate::time::MarketTime;
use crate::zone::{Bounds, Position};
use grid::Grid;

/// Scores every method on the test pickups after training on the earlier ones.
///
/// # Errors
/// [`BacktestError`] if the pickups or the settings leave nothing to score.
pub fn run(
    train: &[Pickup],
    test: &[Pickup],
    settings: &BacktestSettings,
) -> Result<BacktestReport, BacktestError> {
    let grid = Grid::new(train, test, settings)?;
    let score = |method: Method| {
        (
            method,
            Scores::of(&method.forecasts(&grid, settings), &grid),
        )
    };
    Ok(BacktestReport {
        schema: "surge.backtest/1",
        zones: grid.zones.len(),
        windows: grid.test.len(),
        methods: Method::ALL.map(score).into(),
    })
}

/// One recorded pickup.
#[derive(Debug, Clone, PartialEq)]
pub struct Pickup {
    /// When the rider got in.
    pub at: MarketTime,
    /// Where.
    pub position: Position,
    /// The code of the base that sent the car, for example `B02512`.
    pub base: String,
}

/// What is scored, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct BacktestSettings {
    /// Only pickups of this base count: the bundled files are complete for one base only.
    pub base: String,
    /// Only pickups in this box count.
    pub bounds: Bounds,
    /// H3 resolution of the zones.
    pub resolution: u8,
    /// Length of a forecast window; divides an hour.
    pub window: Duration,
    /// How the profile is trained.
    pub profile: ProfileSettings,
    /// How often the profile is trained anew on everything seen by then, as a nightly job would.
    pub retrain_every: Duration,
    /// How the filter follows the day.
    pub filter: FilterSettings,
}

impl Default for BacktestSettings {
    fn default() -> Self {
        Self {
            base: "B02512".to_owned(),
            bounds: Bounds::NEW_YORK_REGION,
            resolution: 7,
            window: Duration::from_secs(15 * 60),
            profile: ProfileSettings::default(),
            retrain_every: Duration::from_secs(24 * 3600),
            filter: FilterSettings::default(),
        }
    }
}

/// The outcome of a backtest; serializes to schema `surge.backtest/1`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BacktestReport {
    /// Name and version of this format.
    pub schema: &'static str,
    /// How many zones were scored.
    pub zones: usize,
    /// How many windows were scored: all of the test days.
    pub windows: usize,
    /// The scores of each method, the simplest first.
    pub methods: BTreeMap<Method, Scores>,
}

/// Why there is nothing to score.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BacktestError {
    /// No pickup of the base lies in the box.
    #[error("the {part} files hold no pickup of base {base} inside {bounds}")]
    NoPickups {
        /// `training` or `test`.
        part: &'static str,
        /// The base that was asked for.
        base: String,
        /// The box that was asked for.
        bounds: String,
    },
    /// Test days are also training days, or come before them.
    #[error(
        "the test days must come after the training days: training ends at {train_end}, the test \
         starts at {test_start}"
    )]
    TestBeforeTraining {
        /// End of the last training day.
        train_end: MarketTime,
        /// Start of the first test day.
        test_start: MarketTime,
    },
    /// More days than a backtest is made for: a wrong year in one row would otherwise cost all
    /// memory.
    #[error(
        "the files span {days} days; at most {} are scored at once",
        grid::MAX_DAYS
    )]
    TooManyDays {
        /// Days from the first training day to the last test day.
        days: i64,
    },
    /// No zone is busy enough.
    #[error("no cell of resolution {resolution} has a pickup a day in training")]
    NoZones {
        /// The H3 resolution that was asked for.
        resolution: u8,
    },
    /// Not an H3 resolution.
    #[error("resolution {0} is not one of 0 to 15")]
    Resolution(u8),
    /// The window makes no calendar grid.
    #[error("a window of {0:?} does not divide an hour; use for example 5m, 15m or 30m")]
    Window(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pickup(day: u32, hour: u32, minute: u32) -> Pickup {
        let first_day: MarketTime = "2014-04-01T00:00:00-04:00".parse().unwrap();
        let minutes = (day * 24 + hour) * 60 + minute;
        Pickup {
            at: first_day + Duration::from_secs(60) * minutes,
            position: Position::new(40.7527, -73.9772).unwrap(),
            base: "B02512".to_owned(),
        }
    }

    /// Four pickups an hour, every day from 8 to 20 o'clock.
    fn regular(days: std::ops::Range<u32>) -> Vec<Pickup> {
        let hours = days.flat_map(|day| (8..20).map(move |hour| (day, hour)));
        hours
            .flat_map(|(day, hour)| [0, 15, 30, 45].map(|minute| pickup(day, hour, minute)))
            .collect()
    }

    #[test]
    fn scores_every_method_on_whole_days() {
        let report = run(
            &regular(0..28),
            &regular(28..30),
            &BacktestSettings::default(),
        )
        .unwrap();
        assert_eq!(
            (report.zones, report.windows, report.methods.len()),
            (1, 2 * 96, 6)
        );
        assert!(
            report.methods[&Method::SeasonalNaive].mae <= 0.001,
            "off by the clip alone"
        );
        let deviance = |method| report.methods[&method].pdev;
        assert!(deviance(Method::GammaPoisson) < deviance(Method::MovingAverage));
    }

    #[test]
    fn report_is_the_documented_json() {
        let report = run(
            &regular(0..28),
            &regular(28..29),
            &BacktestSettings::default(),
        )
        .unwrap();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], "surge.backtest/1");
        for figure in ["pdev", "pdev_top20", "mae", "wape", "bias"] {
            assert!(
                json["methods"]["gamma_poisson"][figure].is_f64(),
                "{figure}"
            );
        }
    }

    #[test]
    fn missing_days_are_not_silent_days() {
        let settings = BacktestSettings::default();
        let gap = run(&regular(0..21), &regular(25..26), &settings).unwrap();
        let none = run(&regular(0..25), &regular(25..26), &settings).unwrap();
        let bias = |report: &BacktestReport| report.methods[&Method::GammaPoisson].bias;
        assert!(
            (bias(&gap) - bias(&none)).abs() < 0.05,
            "{} {}",
            bias(&gap),
            bias(&none)
        );
    }

    #[test]
    fn ignores_other_bases_and_places() {
        let mut test = regular(28..29);
        test.push(Pickup {
            base: "B02598".to_owned(),
            ..pickup(29, 9, 0)
        });
        test.push(Pickup {
            position: Position::new(42.36, -71.06).unwrap(),
            ..pickup(29, 9, 0)
        });
        let report = run(&regular(0..28), &test, &BacktestSettings::default()).unwrap();
        assert_eq!(report.windows, 96);
    }

    #[test]
    fn refused_backtest_says_why() {
        let (train, test) = (regular(0..28), regular(28..29));
        let settings = BacktestSettings::default();
        let odd_window = BacktestSettings {
            window: Duration::from_secs(7 * 60),
            ..settings.clone()
        };
        let no_grid = BacktestSettings {
            resolution: 16,
            ..settings.clone()
        };
        let outcomes = [
            (
                run(&[], &test, &settings),
                "training files hold no pickup of base B02512",
            ),
            (run(&train, &[], &settings), "test files hold no pickup"),
            (
                run(&train, &train, &settings),
                "must come after the training days",
            ),
            (
                run(&train[..1], &regular(900..901), &settings),
                "at most 730",
            ),
            (
                run(&[train[0].clone(), train[100].clone()], &test, &settings),
                "a pickup a day",
            ),
            (run(&train, &test, &odd_window), "does not divide an hour"),
            (run(&train, &test, &no_grid), "resolution 16"),
        ];
        for (outcome, reason) in outcomes {
            let refused = outcome.unwrap_err().to_string();
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
