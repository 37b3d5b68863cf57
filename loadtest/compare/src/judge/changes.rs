//! Whether a figure has changed by more than noise.
//!
//! The noise of a change is that of both runs together: the root of the sum of their squares. For
//! figures of every second it comes from blocks of seconds, for capacities from the range of the
//! rounds.

use surge_proto::DataflowMode;

use crate::report::{Baseline, CompareReport, FLOOR_CAPACITY, FigureChange, Interval, Verdict};
use crate::statistics::{BLOCKS, batch_means_half_width, half_width, median};

/// Every figure of a mode that both runs have.
pub(super) fn changes(
    before: &CompareReport,
    now: &CompareReport,
    mode: DataflowMode,
) -> Vec<FigureChange> {
    let change = |figure: &Figure| {
        let (before, old_noise) = (figure.of)(before, mode);
        let (now, new_noise) = (figure.of)(now, mode);
        let (before, now) = (before?, now?);
        let noise = old_noise.zip(new_noise).map(|(old, new)| old.hypot(new));
        let difference = now - before;
        let verdict = match noise {
            _ if difference == 0.0 => Verdict::WithinNoise,
            None => Verdict::NoiseUnknown,
            Some(noise) if difference.abs() <= noise => Verdict::WithinNoise,
            Some(_) if difference < 0.0 => figure.less,
            Some(_) => figure.more,
        };
        Some(FigureChange {
            figure: figure.key.to_owned(),
            before,
            now,
            noise,
            verdict,
        })
    };
    FIGURES.iter().filter_map(change).collect()
}

/// By how many percent the floors have changed, where it is a tenth or more: then the machine
/// itself has changed.
pub(crate) fn machine_change(baseline: &Baseline) -> Option<f64> {
    let changes = baseline.modes.values().flatten();
    let floors = changes.filter(|change| change.figure == FLOOR_CAPACITY && change.before > 0.0);
    let percent = 100.0 * (median(floors.map(|floor| floor.now / floor.before))? - 1.0);
    (percent.abs() >= 10.0).then_some(percent)
}

/// A value and its noise, where they are known.
type WithNoise = (Option<f64>, Option<f64>);

struct Figure {
    key: &'static str,
    /// The verdicts on less and on more.
    less: Verdict,
    more: Verdict,
    /// Its value in a run, and its noise there.
    of: fn(&CompareReport, DataflowMode) -> WithNoise,
}

const FIGURES: [Figure; 9] = [
    Figure {
        key: "latency_us.p50",
        less: Verdict::Faster,
        more: Verdict::Slower,
        of: |report, mode| {
            let p50 = report.modes[&mode].latency_us.p50.map(|us| us as f64);
            (
                p50,
                timeline_noise(report, mode, |it| Some(it.latency_us_p50? as f64)),
            )
        },
    },
    Figure {
        key: "latency_us.p99",
        less: Verdict::Faster,
        more: Verdict::Slower,
        of: |report, mode| {
            let p99 = report.modes[&mode].latency_us.p99.map(|us| us as f64);
            (
                p99,
                timeline_noise(report, mode, |it| Some(it.latency_us_p99? as f64)),
            )
        },
    },
    Figure {
        key: "data_age_ms.p50",
        less: Verdict::Fresher,
        more: Verdict::Staler,
        of: |report, mode| {
            let noise = timeline_noise(report, mode, |interval| interval.data_age_ms_p50);
            (report.modes[&mode].data_age_ms.p50, noise)
        },
    },
    Figure {
        key: "data_age_ms.p99",
        less: Verdict::Fresher,
        more: Verdict::Staler,
        of: |report, mode| {
            let noise = timeline_noise(report, mode, |interval| interval.data_age_ms_max);
            (report.modes[&mode].data_age_ms.p99, noise)
        },
    },
    Figure {
        key: "multiplier_error.mean_abs",
        less: Verdict::MoreAccurate,
        more: Verdict::LessAccurate,
        of: |report, mode| {
            let noise = timeline_noise(report, mode, |interval| interval.multiplier_error_mean_abs);
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
        more: Verdict::MoreExpensive,
        of: |report, mode| {
            // Of the probes that held, where there are enough of them.
            let probes = report.series.probes.iter();
            let probes = probes.filter(|probe| probe.mode == mode && !probe.floor);
            let costs: Vec<f64> = probes.filter_map(|probe| probe.cpu_us_per_quote).collect();
            let noise = Some(costs).filter(|costs| costs.len() >= BLOCKS);
            (
                report.modes[&mode].cpu_us_per_quote,
                noise.and_then(|costs| half_width(&costs)),
            )
        },
    },
    Figure {
        key: "share_of_floor",
        less: Verdict::Lower,
        more: Verdict::Higher,
        of: |report, mode| {
            // The noise of a quotient, from the relative noise of its parts.
            let share = report.modes[&mode].share_of_floor;
            let relative = |(value, noise): WithNoise| Some(noise? / value?);
            let parts = (
                relative(capacity(report, mode)),
                relative(capacity_of_floor(report, mode)),
            );
            let noise = || Some(share? * parts.0?.hypot(parts.1?));
            (share, noise())
        },
    },
];

/// The noise of a figure that every interval of the measurement has.
fn timeline_noise(
    report: &CompareReport,
    mode: DataflowMode,
    figure: fn(&Interval) -> Option<f64>,
) -> Option<f64> {
    let intervals = report.series.timeline.get(&mode)?.iter();
    batch_means_half_width(&intervals.map(figure).collect::<Vec<_>>())
}

fn capacity(report: &CompareReport, mode: DataflowMode) -> WithNoise {
    let figures = &report.modes[&mode];
    search_result(
        report,
        (mode, false),
        figures.capacity_per_s,
        figures.capacity_range_per_s,
    )
}

fn capacity_of_floor(report: &CompareReport, mode: DataflowMode) -> WithNoise {
    let floor = report.floors.under(mode);
    search_result(
        report,
        (mode, true),
        floor.capacity_per_s,
        floor.capacity_range_per_s,
    )
}

/// A capacity and its noise: half the range of the rounds, together with the step from their median
/// to the next rate that failed, since a search does not look between the two. A single round has
/// none.
fn search_result(
    report: &CompareReport,
    (mode, floor): (DataflowMode, bool),
    capacity: Option<f64>,
    range: Option<[u32; 2]>,
) -> WithNoise {
    let noise = || {
        let (median, [low, high]) = (capacity?, range?);
        let probes = report.series.probes.iter();
        let failed =
            probes.filter(|probe| (probe.mode, probe.floor, probe.held) == (mode, floor, false));
        let steps = failed.map(|probe| f64::from(probe.rate_per_s) - median);
        let above = steps.filter(|step| *step > 0.0).min_by(f64::total_cmp);
        Some((f64::from(high - low) / 2.0).hypot(above.unwrap_or(0.0)))
    };
    (capacity, noise())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{CapacityProbe, example, example_with_series};

    const MODE: DataflowMode = DataflowMode::Events;

    fn run(capacity: f64, range: Option<[u32; 2]>) -> CompareReport {
        let mut report = example();
        let figures = report.modes.get_mut(&MODE).unwrap();
        figures.capacity_per_s = Some(capacity);
        figures.capacity_range_per_s = range;
        report
    }

    fn capacity_verdict(before: &CompareReport, now: &CompareReport) -> Verdict {
        let changes = changes(before, now, MODE);
        let mut changes = changes.iter();
        changes
            .find(|change| change.figure == "capacity_per_s")
            .unwrap()
            .verdict
    }

    #[test]
    fn change_must_exceed_range_of_rounds() {
        let before = run(1_000.0, Some([970, 1_030]));
        let near = run(1_030.0, Some([1_000, 1_060]));
        let far = run(1_200.0, Some([1_170, 1_230]));
        assert_eq!(capacity_verdict(&before, &near), Verdict::WithinNoise);
        assert_eq!(capacity_verdict(&before, &far), Verdict::Higher);
        assert_eq!(capacity_verdict(&far, &before), Verdict::Lower);
    }

    #[test]
    fn single_round_has_unknown_noise() {
        let (before, now) = (run(1_000.0, None), run(1_200.0, None));
        assert_eq!(capacity_verdict(&before, &now), Verdict::NoiseUnknown);
    }

    #[test]
    fn figure_missing_in_one_run_is_skipped() {
        let changes = changes(&example(), &run(1_000.0, None), MODE);
        let keys: Vec<&str> = changes
            .iter()
            .map(|change| change.figure.as_str())
            .collect();
        assert!(!keys.contains(&"capacity_per_s"), "{keys:?}");
        assert!(keys.contains(&"latency_us.p50"), "{keys:?}");
    }

    #[test]
    fn agreeing_rounds_keep_step_of_search() {
        let mut report = run(1_000.0, Some([1_000, 1_000]));
        let probe = |rate_per_s| CapacityProbe {
            mode: MODE,
            floor: false,
            rate_per_s,
            held: false,
            ..example_with_series().series.probes[0]
        };
        report.series.probes = [900, 1_120, 1_300].map(probe).into();
        assert_eq!(capacity(&report, MODE), (Some(1_000.0), Some(120.0)));
    }

    #[test]
    fn timeline_noise_is_that_of_blocks() {
        let mut report = example();
        let latencies = [0, 2, 1, 3, 2, 4, 3, 5, 4, 6, 5, 7];
        let interval = |latency| Interval {
            latency_us_p50: Some(latency),
            ..Interval::default()
        };
        report
            .series
            .timeline
            .insert(MODE, latencies.map(interval).into());
        let (_, noise) = (FIGURES[0].of)(&report, MODE);
        assert!((noise.unwrap() - 1.963).abs() < 0.001, "{noise:?}");
        report
            .series
            .timeline
            .insert(MODE, latencies[..5].iter().copied().map(interval).collect());
        assert_eq!((FIGURES[0].of)(&report, MODE).1, None, "too short to know");
    }

    #[test]
    fn changed_floors_reveal_changed_machine() {
        let percent = |now: [f64; 3]| {
            let change = |now| FigureChange {
                figure: FLOOR_CAPACITY.to_owned(),
                before: 1_000.0,
                now,
                noise: None,
                verdict: Verdict::NoiseUnknown,
            };
            let modes = DataflowMode::ALL.into_iter().zip(now);
            machine_change(&Baseline {
                path: "old.json".to_owned(),
                started_at: String::new(),
                git: None,
                differences: Vec::new(),
                modes: modes.map(|(mode, now)| (mode, vec![change(now)])).collect(),
            })
        };
        let quicker = percent([1_300.0, 900.0, 1_200.0]).unwrap();
        assert!(
            crate::wording::changes::machine(quicker)
                .starts_with("The minimal servers sustain 20 % more quotes")
        );
        let slower = crate::wording::changes::machine(percent([800.0, 1_000.0, 850.0]).unwrap());
        assert!(
            slower.contains("15 % fewer") && slower.contains("slower"),
            "{slower}"
        );
        assert_eq!(percent([1_300.0, 1_050.0, 700.0]), None);
    }
}
