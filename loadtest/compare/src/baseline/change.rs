//! One figure, then and now.

use std::fmt;

use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;

use super::noise;
use crate::report::Report;
use crate::series::Interval;

/// One figure in two runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Its key in the figures of a mode.
    pub figure: String,
    /// In the older run.
    pub before: f64,
    /// In this run.
    pub now: f64,
    /// How far the difference wanders by itself: half of a 95 % interval, or of the range of the rounds, both runs together.
    /// `None` when the runs do not tell.
    pub noise: Option<f64>,
    /// What to make of it.
    pub verdict: Verdict,
}

/// What to make of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each word says what it means")]
pub enum Verdict {
    Faster,
    Slower,
    Fresher,
    Staler,
    MoreAccurate,
    LessAccurate,
    Higher,
    Lower,
    Cheaper,
    Dearer,
    WithinNoise,
    NoiseUnknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Fresher => "fresher",
            Self::Staler => "staler",
            Self::MoreAccurate => "more accurate",
            Self::LessAccurate => "less accurate",
            Self::Higher => "higher",
            Self::Lower => "lower",
            Self::Cheaper => "cheaper",
            Self::Dearer => "dearer",
            Self::WithinNoise => "within noise",
            Self::NoiseUnknown => "noise unknown",
        })
    }
}

/// Every figure of a mode that both runs have.
pub(super) fn changes(before: &Report, now: &Report, mode: DataflowMode) -> Vec<Change> {
    let change = |figure: &Figure| {
        let (before, now) = ((figure.of)(before, mode), (figure.of)(now, mode));
        Some(figure.change((before.0?, before.1), (now.0?, now.1)))
    };
    FIGURES.iter().filter_map(change).collect()
}

/// A figure that is compared.
struct Figure {
    key: &'static str,
    /// Words for less and for more.
    less: Verdict,
    more: Verdict,
    /// Its value in a run, and its noise there.
    of: fn(&Report, DataflowMode) -> WithNoise,
}

/// A value and its noise, where they are known.
type WithNoise = (Option<f64>, Option<f64>);

impl Figure {
    fn change(&self, (before, old): (f64, Option<f64>), (now, new): (f64, Option<f64>)) -> Change {
        let noise = old.zip(new).map(|(old, new)| old.hypot(new));
        let difference = now - before;
        let verdict = match noise {
            _ if difference == 0.0 => Verdict::WithinNoise,
            None => Verdict::NoiseUnknown,
            Some(noise) if difference.abs() <= noise => Verdict::WithinNoise,
            Some(_) if difference < 0.0 => self.less,
            Some(_) => self.more,
        };
        Change {
            figure: self.key.to_owned(),
            before,
            now,
            noise,
            verdict,
        }
    }
}

/// The key of what the bare server under a mode holds: no figure of the mode, but of the machine.
pub(super) const FLOOR_CAPACITY: &str = "floor.capacity_per_s";

const FIGURES: [Figure; 9] = [
    Figure {
        key: "latency_us.p50",
        less: Verdict::Faster,
        more: Verdict::Slower,
        of: |report, mode| {
            let p50 = |interval: &Interval| Some(interval.latency_us_p50? as f64);
            let value = report.modes[&mode].latency_us.p50;
            (
                value.map(|us| us as f64),
                noise::of_course(report, mode, p50),
            )
        },
    },
    Figure {
        key: "latency_us.p99",
        less: Verdict::Faster,
        more: Verdict::Slower,
        of: |report, mode| {
            let p99 = |interval: &Interval| Some(interval.latency_us_p99? as f64);
            let value = report.modes[&mode].latency_us.p99;
            (
                value.map(|us| us as f64),
                noise::of_course(report, mode, p99),
            )
        },
    },
    Figure {
        key: "data_age_ms.p50",
        less: Verdict::Fresher,
        more: Verdict::Staler,
        of: |report, mode| {
            let noise = noise::of_course(report, mode, |interval| interval.data_age_ms_p50);
            (report.modes[&mode].data_age_ms.p50, noise)
        },
    },
    Figure {
        key: "data_age_ms.p99",
        less: Verdict::Fresher,
        more: Verdict::Staler,
        of: |report, mode| {
            let noise = noise::of_course(report, mode, |interval| interval.data_age_ms_max);
            (report.modes[&mode].data_age_ms.p99, noise)
        },
    },
    Figure {
        key: "multiplier_error.mean_abs",
        less: Verdict::MoreAccurate,
        more: Verdict::LessAccurate,
        of: |report, mode| {
            let noise =
                noise::of_course(report, mode, |interval| interval.multiplier_error_mean_abs);
            (report.modes[&mode].multiplier_error.mean_abs, noise)
        },
    },
    Figure {
        key: "capacity_per_s",
        less: Verdict::Lower,
        more: Verdict::Higher,
        of: capacity,
    },
    Figure {
        key: FLOOR_CAPACITY,
        less: Verdict::Lower,
        more: Verdict::Higher,
        of: capacity_of_floor,
    },
    Figure {
        key: "cpu_us_per_quote",
        less: Verdict::Cheaper,
        more: Verdict::Dearer,
        of: |report, mode| {
            let noise = noise::of_processor_time(report, mode);
            (report.modes[&mode].cpu_us_per_quote, noise)
        },
    },
    Figure {
        key: "share_of_floor",
        less: Verdict::Lower,
        more: Verdict::Higher,
        of: |report, mode| {
            let share = report.modes[&mode].share_of_floor;
            let parts = (capacity(report, mode), capacity_of_floor(report, mode));
            (share, noise::of_share(share, parts.0, parts.1))
        },
    },
];

fn capacity(report: &Report, mode: DataflowMode) -> WithNoise {
    let figures = &report.modes[&mode];
    let found = (figures.capacity_per_s, figures.capacity_range_per_s);
    (found.0, noise::of_capacity(report, (mode, false), found))
}

fn capacity_of_floor(report: &Report, mode: DataflowMode) -> WithNoise {
    let floor = report.floors.under(mode);
    let found = (floor.capacity_per_s, floor.capacity_range_per_s);
    (found.0, noise::of_capacity(report, (mode, true), found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    const MODE: DataflowMode = DataflowMode::Events;

    fn run(capacity: f64, range: Option<[u32; 2]>) -> Report {
        let mut report = example();
        let figures = report.modes.get_mut(&MODE).unwrap();
        figures.capacity_per_s = Some(capacity);
        figures.capacity_range_per_s = range;
        report
    }

    fn capacity_verdict(before: &Report, now: &Report) -> Verdict {
        let changes = changes(before, now, MODE);
        let capacity = changes
            .iter()
            .find(|change| change.figure == "capacity_per_s");
        capacity.unwrap().verdict
    }

    #[test]
    fn a_change_must_be_greater_than_the_rounds_are_apart() {
        let before = run(1_000.0, Some([970, 1_030]));
        let near = run(1_030.0, Some([1_000, 1_060]));
        let far = run(1_200.0, Some([1_170, 1_230]));
        assert_eq!(capacity_verdict(&before, &near), Verdict::WithinNoise);
        assert_eq!(capacity_verdict(&before, &far), Verdict::Higher);
        assert_eq!(capacity_verdict(&far, &before), Verdict::Lower);
    }

    #[test]
    fn one_round_does_not_tell_its_noise() {
        let (before, now) = (run(1_000.0, None), run(1_200.0, None));
        assert_eq!(capacity_verdict(&before, &now), Verdict::NoiseUnknown);
    }

    #[test]
    fn a_figure_that_one_run_lacks_is_not_compared() {
        let changes = changes(&example(), &run(1_000.0, None), MODE);
        let keys: Vec<&str> = changes
            .iter()
            .map(|change| change.figure.as_str())
            .collect();
        assert!(!keys.contains(&"capacity_per_s"), "{keys:?}");
        assert!(keys.contains(&"latency_us.p50"), "{keys:?}");
    }
}
