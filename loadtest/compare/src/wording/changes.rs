//! The changes since a baseline.

use crate::report::{Baseline, FLOOR_CAPACITY, FigureChange, Verdict};
use crate::wording::UNKNOWN;

pub(crate) const HEADS: [&str; 7] = ["dataflow", "figure", "then", "now", "change", "noise", ""];

pub(crate) const NOISE: &str = "Noise: half of a 95 % interval of the difference, from blocks of \
    seconds. For capacity and share of floor: half of the range of the rounds, and the step to \
    the next rate that failed.";

pub(crate) fn title(baseline: &Baseline) -> String {
    let commit = baseline.git.as_deref().map(|git| format!(", commit {git}"));
    let commit = commit.unwrap_or_default();
    format!(
        "Against {} ({}{commit})",
        baseline.path, baseline.started_at
    )
}

/// Why the changes may mean nothing; `None` when the runs are comparable.
pub(crate) fn caution(baseline: &Baseline) -> Option<String> {
    let differences = baseline.differences.join("; ");
    (!differences.is_empty()).then(|| format!("NOT COMPARABLE, shown all the same: {differences}"))
}

/// The machine itself has changed by this many percent, judged by the floors.
pub(crate) fn machine(percent: f64) -> String {
    let (more, quicker) = if percent > 0.0 {
        ("more", "quicker")
    } else {
        ("fewer", "slower")
    };
    format!(
        "The minimal servers sustain {:.0} % {more} quotes than then. Unless their code has \
         changed, the machine itself is {quicker}, which the noise below does not include: judge \
         by the share of floor.",
        percent.abs()
    )
}

pub(crate) fn rows(baseline: &Baseline) -> Vec<[String; 7]> {
    let row_of = |(mode, changes): (&_, &Vec<FigureChange>)| {
        let mode = ToString::to_string(mode);
        changes
            .iter()
            .map(|change| row(&mode, change))
            .collect::<Vec<_>>()
    };
    baseline.modes.iter().flat_map(row_of).collect()
}

fn row(mode: &str, change: &FigureChange) -> [String; 7] {
    let (name, unit, factor, decimals) = match change.figure.as_str() {
        "latency_us.p50" => ("latency p50", " ms", 0.001, 2),
        "latency_us.p99" => ("latency p99", " ms", 0.001, 2),
        "data_age_ms.p50" => ("data age p50", " s", 0.001, 3),
        "data_age_ms.p99" => ("data age p99", " s", 0.001, 3),
        "multiplier_error.mean_abs" => ("multiplier error", "", 1.0, 4),
        "capacity_per_s" => ("capacity", " /s", 1.0, 0),
        FLOOR_CAPACITY => ("floor's capacity", " /s", 1.0, 0),
        "cpu_us_per_quote" => ("CPU time", " us", 1.0, 0),
        "share_of_floor" => ("share of floor", " %", 100.0, 0),
        other => (other, "", 1.0, 3),
    };
    let value = |value: f64| format!("{:.decimals$}{unit}", value * factor);
    let percent =
        |difference: f64| (change.before != 0.0).then(|| 100.0 * difference / change.before);
    let changed = percent(change.now - change.before);
    let noise = change.noise.and_then(percent);
    [
        mode.to_owned(),
        name.to_owned(),
        value(change.before),
        value(change.now),
        changed.map_or(UNKNOWN.to_owned(), |percent| format!("{percent:+.1} %")),
        noise.map_or(UNKNOWN.to_owned(), |percent| format!("± {percent:.1} %")),
        verdict(change.verdict).to_owned(),
    ]
}

const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Faster => "faster",
        Verdict::Slower => "slower",
        Verdict::Fresher => "fresher",
        Verdict::Staler => "staler",
        Verdict::MoreAccurate => "more accurate",
        Verdict::LessAccurate => "less accurate",
        Verdict::Higher => "higher",
        Verdict::Lower => "lower",
        Verdict::Cheaper => "cheaper",
        Verdict::MoreExpensive => "more expensive",
        Verdict::WithinNoise => "within noise",
        Verdict::NoiseUnknown => "noise unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_has_noise_and_verdict() {
        let change = FigureChange {
            figure: "latency_us.p50".to_owned(),
            before: 400.0,
            now: 300.0,
            noise: Some(20.0),
            verdict: Verdict::Faster,
        };
        let expected = [
            "events",
            "latency p50",
            "0.40 ms",
            "0.30 ms",
            "-25.0 %",
            "± 5.0 %",
            "faster",
        ];
        assert_eq!(row("events", &change), expected);
    }

    #[test]
    fn change_from_zero_has_no_percentage() {
        let change = FigureChange {
            figure: "multiplier_error.mean_abs".to_owned(),
            before: 0.0,
            now: 0.1,
            noise: None,
            verdict: Verdict::NoiseUnknown,
        };
        assert_eq!(row("request", &change)[4..], ["-", "-", "noise unknown"]);
    }
}
