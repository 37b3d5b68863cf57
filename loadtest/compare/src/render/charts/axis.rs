//! The axes of a chart: the position of a value, and the values at which the reader finds a number.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// One axis, with the values that it spans.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// Its quantity, with the unit.
    pub(super) name: &'static str,
    scale: AxisScale,
    /// The first and the last value.
    pub(super) ends: (f64, f64),
    /// The values with a number.
    ticks: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum AxisScale {
    Linear,
    Log,
    /// Percentiles: from 90 to 99 is as long as from 99 to 99.9.
    Percentiles,
}

impl Axis {
    /// From zero or the least value to the greatest; none without values.
    pub(super) fn linear(name: &'static str, values: Vec<f64>) -> Option<Self> {
        let (least, greatest) = bounds(values.into_iter())?;
        let spread = if greatest > least {
            greatest - least
        } else {
            1.0
        };
        let step = round_step(spread / 5.0);
        let (low, high) = ((least / step).floor(), (greatest / step).ceil());
        // A flat line would leave no room between its ends.
        let high = if high > low { high } else { low + 1.0 };
        let ticks = (0..=(high - low) as u32).map(|n| (low + f64::from(n)) * step);
        Some(Self {
            name,
            scale: AxisScale::Linear,
            ends: (low * step, high * step),
            ticks: ticks.collect(),
        })
    }

    /// Powers of ten at the same distance; none without values above zero.
    pub(super) fn log(name: &'static str, values: Vec<f64>) -> Option<Self> {
        let (least, greatest) = bounds(values.into_iter().filter(|value| *value > 0.0))?;
        let floor = |value: f64| value.log10().floor() as i32;
        let series = (floor(least)..=floor(greatest) + 1)
            .flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(decade)));
        let series: Vec<f64> = series.collect();
        let first = series.iter().rposition(|tick| *tick <= least).unwrap_or(0);
        let last = series.iter().position(|tick| *tick >= greatest);
        let last = last.unwrap_or(series.len() - 1).max(first + 1);
        let mut ticks = series[first..=last].to_vec();
        let ends = (ticks[0], ticks[ticks.len() - 1]);
        if ticks.len() > MOST_TICKS {
            ticks.retain(|tick| (tick.log10() - tick.log10().round()).abs() < 1e-9);
        }
        Some(Self {
            name,
            scale: AxisScale::Log,
            ends,
            ticks,
        })
    }

    /// Percentiles to that of one in `count`, at least to 99.9.
    pub(super) fn percentiles(name: &'static str, count: f64) -> Self {
        let last = 100.0 - 100.0 / count.max(1_000.0);
        let percentiles = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999];
        Self {
            name,
            scale: AxisScale::Percentiles,
            ends: (0.0, last),
            ticks: percentiles
                .into_iter()
                .filter(|tick| *tick <= last)
                .collect(),
        }
    }

    /// The position of a value, in units of the axis.
    fn place(&self, value: f64) -> f64 {
        match self.scale {
            AxisScale::Linear => value,
            AxisScale::Log => value.log10(),
            AxisScale::Percentiles => 2.0 - (100.0 - value).log10(),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let (start, end) = (self.place(self.ends.0), self.place(self.ends.1));
        let share = (self.place(*value) - start) / (end - start);
        first + (f64::from(last - first) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            Vec::new()
        } else {
            self.ticks.clone()
        }
    }

    fn range(&self) -> Range<f64> {
        self.ends.0..self.ends.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        number(*value)
    }
}

/// Beyond, only powers of ten are written.
const MOST_TICKS: usize = 8;

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |bounds, value| {
        let (least, greatest) = bounds.unwrap_or((value, value));
        Some((least.min(value), greatest.max(value)))
    })
}

/// The least of 1, 2, 5, 10, 20 ... that is no smaller.
fn round_step(step: f64) -> f64 {
    let decade = 10_f64.powf(step.log10().floor());
    let digits = [1.0, 2.0, 5.0, 10.0].into_iter();
    let mut steps = digits.map(|digit| digit * decade);
    steps.find(|round| *round >= step).unwrap_or(step)
}

/// A number as short as it can be, with a comma in thousands.
pub(super) fn number(value: f64) -> String {
    if value.abs() < 10_000.0 {
        let text = format!("{value:.4}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let (thousands, rest) = digits.split_at(digits.len() - 3);
    format!("{thousands},{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_axis_spans_values_between_ticks() {
        let axis = Axis::log("ms", vec![0.3, 40.0]).unwrap();
        assert_eq!(axis.ends, (0.2, 50.0));
        let numbers: Vec<String> = axis.ticks.iter().map(|&tick| number(tick)).collect();
        assert_eq!(numbers, ["0.2", "0.5", "1", "2", "5", "10", "20", "50"]);
        assert_eq!(axis.map(&0.2, (0, 100)), 0);
        assert_eq!(axis.map(&50.0, (0, 100)), 100);
    }

    #[test]
    fn wide_log_axis_shows_powers_of_ten() {
        let axis = Axis::log("ms", vec![0.3, 9_000.0, 0.0]).unwrap();
        assert_eq!(axis.ticks, [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
    }

    #[test]
    fn linear_axis_has_room_for_flat_line() {
        let axis = Axis::linear("s", vec![0.0, 59.0]).unwrap();
        assert_eq!(axis.ticks, [0.0, 20.0, 40.0, 60.0]);
        let flat = Axis::linear("", vec![1.0, 1.0]).unwrap();
        assert!(flat.ends.0 < flat.ends.1, "{flat:?}");
    }

    #[test]
    fn each_further_nine_has_equal_length() {
        let axis = Axis::percentiles("percentile", 6_000.0);
        assert!((axis.place(90.0) - 1.0).abs() < 1e-9);
        assert!((axis.place(99.9) - 3.0).abs() < 1e-9);
        assert_eq!(axis.ticks, [0.0, 50.0, 90.0, 99.0, 99.9]);
    }

    #[test]
    fn no_values_give_no_axis() {
        assert_eq!(Axis::linear("s", vec![]), None);
        assert_eq!(Axis::log("s", vec![0.0]), None);
    }
}
