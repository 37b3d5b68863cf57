//! The changes in words, the same on the terminal and on the page.

use super::change::FLOOR_CAPACITY;
use super::{Baseline, Change};
use crate::median::median;

/// What stands above the columns of [`rows`].
pub(crate) const HEADS: [&str; 7] = ["dataflow", "figure", "then", "now", "change", "noise", ""];

/// What the noise is.
pub(crate) const NOISE: &str = "Noise: half of a 95 % interval of the difference, from blocks of seconds; for capacity and \
                                share, half of what the rounds are apart and the step to the next rate that failed.";

/// With what this run is compared.
pub(crate) fn title(baseline: &Baseline) -> String {
    let commit = baseline.git.as_deref().map(|git| format!(", commit {git}"));
    let commit = commit.unwrap_or_default();
    format!(
        "Against {} ({}{commit})",
        baseline.path, baseline.started_at
    )
}

/// Why the changes may mean nothing; none when the runs are comparable.
pub(crate) fn caution(baseline: &Baseline) -> Option<String> {
    (!baseline.differences.is_empty()).then(|| {
        let differences = baseline.differences.join("; ");
        format!("NOT COMPARABLE, shown all the same: {differences}")
    })
}

/// How much of the changes is the machine's: what the bare servers hold has changed by a tenth or more.
pub(crate) fn machine(baseline: &Baseline) -> Option<String> {
    let changes = baseline.modes.values().flatten();
    let floors = changes.filter(|change| change.figure == FLOOR_CAPACITY && change.before > 0.0);
    let percent = 100.0 * (median(floors.map(|floor| floor.now / floor.before))? - 1.0);
    let (more, quicker) = if percent > 0.0 {
        ("more", "quicker")
    } else {
        ("fewer", "slower")
    };
    (percent.abs() >= 10.0).then(|| {
        format!(
            "The bare servers hold {:.0} % {more} quotes than then. Unless they were changed, the machine itself is {quicker}, \
             which no noise below knows of: judge by the share of floor.",
            percent.abs()
        )
    })
}

/// A row for each change.
pub(crate) fn rows(baseline: &Baseline) -> Vec<[String; 7]> {
    let modes = baseline.modes.iter();
    modes
        .flat_map(|(mode, changes)| changes.iter().map(|change| row(mode.as_str(), change)))
        .collect()
}

fn row(mode: &str, change: &Change) -> [String; 7] {
    let figure = figure(&change.figure);
    let value = |value: f64| {
        format!(
            "{:.*} {}",
            figure.decimals,
            value * figure.factor,
            figure.unit
        )
    };
    let percent =
        |difference: f64| (change.before != 0.0).then(|| 100.0 * difference / change.before);
    let changed = percent(change.now - change.before);
    let noise = change.noise.and_then(percent);
    [
        mode.to_owned(),
        figure.name.to_owned(),
        value(change.before).trim_end().to_owned(),
        value(change.now).trim_end().to_owned(),
        changed.map_or("-".to_owned(), |percent| format!("{percent:+.1} %")),
        noise.map_or("-".to_owned(), |percent| format!("± {percent:.1} %")),
        change.verdict.to_string(),
    ]
}

struct Words<'a> {
    name: &'a str,
    unit: &'static str,
    factor: f64,
    decimals: usize,
}

fn figure(key: &str) -> Words<'_> {
    let (name, unit, factor, decimals) = match key {
        "latency_us.p50" => ("latency p50", "ms", 0.001, 2),
        "latency_us.p99" => ("latency p99", "ms", 0.001, 2),
        "data_age_ms.p50" => ("data age p50", "s", 0.001, 3),
        "data_age_ms.p99" => ("data age p99", "s", 0.001, 3),
        "multiplier_error.mean_abs" => ("multiplier error", "", 1.0, 4),
        "capacity_per_s" => ("capacity", "/s", 1.0, 0),
        FLOOR_CAPACITY => ("floor's capacity", "/s", 1.0, 0),
        "cpu_us_per_quote" => ("processor time", "us", 1.0, 0),
        "share_of_floor" => ("share of floor", "%", 100.0, 0),
        other => (other, "", 1.0, 3),
    };
    Words {
        name,
        unit,
        factor,
        decimals,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use surge_proto::DataflowMode;

    use crate::baseline::Verdict;

    #[test]
    fn a_change_is_told_with_its_noise_and_a_word() {
        let change = Change {
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
    fn a_machine_that_is_another_is_told() {
        let floors = |now: [f64; 3]| {
            let change = |now| Change {
                figure: FLOOR_CAPACITY.to_owned(),
                before: 1_000.0,
                now,
                noise: None,
                verdict: Verdict::NoiseUnknown,
            };
            let modes = DataflowMode::ALL.into_iter().zip(now);
            machine(&Baseline {
                path: "old.json".to_owned(),
                started_at: String::new(),
                git: None,
                differences: Vec::new(),
                modes: modes.map(|(mode, now)| (mode, vec![change(now)])).collect(),
            })
        };
        let quicker = floors([1_300.0, 900.0, 1_200.0]).unwrap();
        assert!(
            quicker.starts_with("The bare servers hold 20 % more quotes"),
            "{quicker}"
        );
        let slower = floors([800.0, 1_000.0, 850.0]).unwrap();
        assert!(
            slower.contains("15 % fewer") && slower.contains("slower"),
            "{slower}"
        );
        assert_eq!(floors([1_300.0, 1_050.0, 700.0]), None);
    }

    #[test]
    fn from_nothing_there_is_no_percentage() {
        let change = Change {
            figure: "multiplier_error.mean_abs".to_owned(),
            before: 0.0,
            now: 0.1,
            noise: None,
            verdict: Verdict::NoiseUnknown,
        };
        assert_eq!(row("request", &change)[4..], ["-", "-", "noise unknown"]);
    }
}
