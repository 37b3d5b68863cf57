//! This run against an older one.
//!
//! Two runs are compared only when they requested the same of the same machine in the same market:
//! [`Older::read`] refuses before anything is measured. [`changes`](super::changes) then says
//! whether a figure has changed by more than noise.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use marketplace::{MarketTime, new_york};
use surge_proto::DataflowMode;

use super::changes;
use crate::report::{Baseline, CompareReport, Machine, Workload};

/// An older run, with which a new one is going to be compared.
#[derive(Debug)]
pub(crate) struct Older {
    path: String,
    report: CompareReport,
    differences: Vec<String>,
}

impl Older {
    /// The run in this file, for a new run in the `planned` circumstances.
    ///
    /// # Errors
    /// [`NotComparable`] when it is no report, or when the runs differ and the user did not say
    /// `anyway`.
    pub(crate) fn read(path: &Path, planned: &Circumstances, anyway: bool) -> anyhow::Result<Self> {
        let report =
            CompareReport::read(path).map_err(|error| NotComparable(format!("{error:#}")))?;
        let path = path.display().to_string();
        let differences = planned.differences(&report);
        if !differences.is_empty() && !anyway {
            return Err(NotComparable(format!(
                "{path} cannot be the baseline of this run:\n  {}\nRun the same again, or compare \
                 all the same with --baseline-anyway.",
                differences.join("\n  ")
            ))
            .into());
        }
        Ok(Self {
            path,
            report,
            differences,
        })
    }

    /// The changes from it to the new run.
    pub(crate) fn changes_to(self, now: &CompareReport) -> Baseline {
        let mut differences = self.differences;
        if !now.valid {
            differences.push("this run is void".to_owned());
        }
        let both = now
            .modes
            .keys()
            .filter(|mode| self.report.modes.contains_key(mode));
        let changes = both.map(|&mode| (mode, changes::changes(&self.report, now, mode)));
        Baseline {
            path: self.path,
            modes: changes.collect(),
            started_at: self.report.started_at,
            git: self.report.git,
            differences,
        }
    }
}

/// What two runs must have in common.
#[derive(Debug, Clone)]
pub(crate) struct Circumstances {
    pub(crate) machine: Machine,
    pub(crate) workload: Workload,
    pub(crate) fleet: usize,
    pub(crate) modes: Vec<DataflowMode>,
    /// When the measurement begins: demand and prices of six o'clock are not those of nine.
    pub(crate) market_time: MarketTime,
}

impl Circumstances {
    /// Each difference from an older run, with both values.
    fn differences(&self, older: &CompareReport) -> Vec<String> {
        let (was, is) = (&older.workload, &self.workload);
        let older_modes: Vec<DataflowMode> = older.modes.keys().copied().collect();
        let names = |modes: &[DataflowMode]| {
            let names: Vec<&str> = modes.iter().map(|mode| mode.as_str()).collect();
            names.join(",")
        };
        let both = [
            (
                "processors",
                known(older.machine.cpus),
                known(self.machine.cpus),
            ),
            (
                "GiB of memory",
                known(older.machine.memory_gib),
                known(self.machine.memory_gib),
            ),
            ("scenario", was.scenario.clone(), is.scenario.clone()),
            ("seed", was.seed.to_string(), is.seed.to_string()),
            ("market speed", was.speed.to_string(), is.speed.to_string()),
            (
                "rate",
                was.rate_per_s.to_string(),
                is.rate_per_s.to_string(),
            ),
            ("arrivals", word(&was.arrivals), word(&is.arrivals)),
            ("transport", word(&was.transport), word(&is.transport)),
            ("seconds", was.seconds.to_string(), is.seconds.to_string()),
            (
                "fleet",
                older.city.fleet.to_string(),
                self.fleet.to_string(),
            ),
            ("modes", names(&older_modes), names(&self.modes)),
        ];
        let differing = both.into_iter().filter(|(_, was, is)| was != is);
        let void = (!older.valid).then(|| "it is void".to_owned());
        void.into_iter()
            .chain(differing.map(|(what, was, is)| format!("{what}: {was} then, {is} now")))
            .chain(self.other_hour(older))
            .collect()
    }

    /// The hour of the market, where it is another: day of the week and time of day must agree to a
    /// quarter of an hour.
    fn other_hour(&self, older: &CompareReport) -> Option<String> {
        const WEEK: i64 = 7 * 24 * 3_600 * 1_000;
        const MOST: i64 = Duration::from_secs(15 * 60).as_millis() as i64;
        let was = older.city.measured_from.as_deref()?;
        let (was, is) = (was.parse().ok()?, self.market_time);
        let apart = new_york::millis_into_week(was) - new_york::millis_into_week(is);
        let apart = apart.rem_euclid(WEEK);
        let [was, is] = [was, is].map(|time| new_york::show(time, "%A %H:%M"));
        (apart.min(WEEK - apart) > MOST).then(|| {
            format!(
                "hour of the market: {was} then, {is} now (a fresh `./surge up` starts at the same \
             hour)"
            )
        })
    }
}

fn known(figure: Option<impl ToString>) -> String {
    figure.map_or_else(|| "unknown".to_owned(), |figure| figure.to_string())
}

fn word(setting: &dyn fmt::Debug) -> String {
    format!("{setting:?}").to_lowercase()
}

/// The older run says nothing about the new one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotComparable(String);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    fn planned() -> Circumstances {
        let example = example();
        Circumstances {
            machine: example.machine,
            workload: example.workload,
            fleet: example.city.fleet,
            modes: DataflowMode::ALL.to_vec(),
            market_time: example.city.measured_from.unwrap().parse().unwrap(),
        }
    }

    fn file(report: &CompareReport) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&file, report).unwrap();
        file
    }

    #[test]
    fn same_run_is_accepted() {
        let file = file(&example());
        let older = Older::read(file.path(), &planned(), false).unwrap();
        assert_eq!(older.differences, [""; 0]);
    }

    #[test]
    fn report_of_earlier_build_is_a_baseline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            include_str!("../../tests/data/from-before.json"),
        )
        .unwrap();
        let older = Older::read(file.path(), &planned(), true).unwrap();
        let changes = older.changes_to(&example());
        assert!(
            changes.modes[&DataflowMode::Events].len() >= 5,
            "{changes:?}"
        );
    }

    #[test]
    fn every_difference_is_named_with_remedy() {
        let mut older = example();
        older.valid = false;
        older.machine.cpus = Some(64);
        older.workload.rate_per_s = 1_000;
        older.city.fleet = 12;
        older.modes.remove(&DataflowMode::Request);
        let file = file(&older);
        let refused = Older::read(file.path(), &planned(), false).unwrap_err();
        assert!(refused.is::<NotComparable>());
        let refused = refused.to_string();
        for words in [
            "it is void",
            "processors: 64 then, 2 now",
            "rate: 1000 then, 300 now",
            "fleet: 12 then, 240 now",
            "modes: database,events then, database,request,events now",
            "--baseline-anyway",
        ] {
            assert!(refused.contains(words), "{words} is missing: {refused}");
        }
        assert!(!refused.contains("memory"), "{refused}");
    }

    #[test]
    fn another_hour_of_market_is_a_difference() {
        let at = |from: &str| {
            let mut older = example();
            older.city.measured_from = Some(from.to_owned());
            planned().differences(&older)
        };
        assert_eq!(at("2014-04-04T21:30:00.000Z"), [""; 0], "ten minutes apart");
        assert_eq!(at("2014-04-11T21:20:00.000Z"), [""; 0], "a week earlier");
        let later = at("2014-04-04T22:29:00.000Z");
        assert!(
            later[0].starts_with("hour of the market: Friday 18:29 then, Friday 17:20 now"),
            "{later:?}"
        );
        assert_eq!(at("2014-04-05T21:20:00.000Z").len(), 1, "a Saturday");
    }

    #[test]
    fn user_who_insists_gets_the_differences() {
        let mut older = example();
        older.workload.seed = 7;
        let file = file(&older);
        let older = Older::read(file.path(), &planned(), true).unwrap();
        let baseline = older.changes_to(&example());
        assert_eq!(baseline.differences, ["seed: 7 then, 1 now"]);
        assert_eq!(baseline.modes.len(), 3);
    }

    #[test]
    fn other_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"schema": "surge.backtest/1"}"#).unwrap();
        let refused = Older::read(file.path(), &planned(), true).unwrap_err();
        assert!(refused.is::<NotComparable>());
        assert!(
            refused.to_string().contains("surge.backtest/1"),
            "{refused}"
        );
    }
}
