//! This run against an older one: what changed, and whether the change is more than noise.
//!
//! Two runs are only compared when they asked the same of the same machine; [`Older::of`] refuses before anything is
//! measured. [`noise`] says how far a figure wanders by itself.

mod change;
mod noise;
pub(crate) mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;

pub use change::{Change, Verdict};

use super::receipt;
use super::report::Report;

/// The changes since an older run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The receipt of the older run.
    pub path: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// The commit that it compared.
    pub git: Option<String>,
    /// Why the two runs are not comparable, a clause each; empty unless somebody insisted, or this run turned out void.
    pub differences: Vec<String>,
    /// The figures that both runs have, of the modes that both asked.
    pub modes: BTreeMap<DataflowMode, Vec<Change>>,
}

/// An older run that a new one is going to be held against.
#[derive(Debug)]
pub(crate) struct Older {
    path: String,
    report: Report,
    differences: Vec<String>,
}

impl Older {
    /// The run in this receipt, for a new run whose circumstances are in `planned`.
    ///
    /// # Errors
    /// [`NotComparable`] when it is no receipt, or when the runs differ and nobody said `anyway`.
    pub(crate) fn of(path: &Path, planned: &Circumstances, anyway: bool) -> anyhow::Result<Self> {
        let report = receipt::read(path).map_err(|error| NotComparable(format!("{error:#}")))?;
        let path = path.display().to_string();
        let differences = planned.differences(&report);
        if !differences.is_empty() && !anyway {
            return Err(NotComparable::of(&path, &differences).into());
        }
        Ok(Self {
            path,
            report,
            differences,
        })
    }

    /// What changed from it to the new run.
    pub(crate) fn changes_to(self, now: &Report) -> Baseline {
        let mut differences = self.differences;
        if !now.valid {
            differences.push("this run is void".to_owned());
        }
        let both = now
            .modes
            .keys()
            .filter(|mode| self.report.modes.contains_key(mode));
        let changes = both.map(|mode| (*mode, change::changes(&self.report, now, *mode)));
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
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Circumstances {
    pub(crate) machine: super::Machine,
    pub(crate) workload: super::Workload,
    pub(crate) fleet: usize,
    pub(crate) modes: Vec<DataflowMode>,
}

impl Circumstances {
    /// Each difference from an older run, with both values.
    fn differences(&self, older: &Report) -> Vec<String> {
        let (was, is) = (&older.workload, &self.workload);
        let gib = |gib: Option<f64>| gib.map_or("unknown".to_owned(), |gib| format!("{gib} GiB"));
        let cpus = |cpus: Option<usize>| cpus.map_or("unknown".to_owned(), |cpus| cpus.to_string());
        let names = |modes: &[DataflowMode]| {
            let names: Vec<&str> = modes.iter().map(|mode| mode.as_str()).collect();
            names.join(",")
        };
        let word = |setting: &dyn fmt::Debug| format!("{setting:?}").to_lowercase();
        let older_modes: Vec<DataflowMode> = older.modes.keys().copied().collect();
        let both = [
            (
                "processors",
                cpus(older.machine.cpus),
                cpus(self.machine.cpus),
            ),
            (
                "memory",
                gib(older.machine.memory_gib),
                gib(self.machine.memory_gib),
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
            .collect()
    }
}

/// The older run says nothing about the new one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct NotComparable(String);

impl NotComparable {
    fn of(path: &str, differences: &[String]) -> Self {
        Self(format!(
            "{path} cannot be the baseline of this run:\n  {}\nRun the same again, or compare all the same with \
             --baseline-anyway.",
            differences.join("\n  ")
        ))
    }
}

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
        }
    }

    fn receipt(report: &Report) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        serde_json::to_writer(&file, report).unwrap();
        file
    }

    #[test]
    fn the_same_run_is_accepted() {
        let file = receipt(&example());
        let older = Older::of(file.path(), &planned(), false).unwrap();
        assert_eq!(older.differences, [""; 0]);
    }

    #[test]
    fn every_difference_is_named_with_both_values_and_the_way_out() {
        let mut older = example();
        older.valid = false;
        older.machine.cpus = Some(64);
        older.workload.rate_per_s = 1_000;
        older.city.fleet = 12;
        older.modes.remove(&DataflowMode::Request);
        let file = receipt(&older);
        let refused = Older::of(file.path(), &planned(), false).unwrap_err();
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
    fn who_insists_gets_the_changes_with_the_differences_beside_them() {
        let mut older = example();
        older.workload.seed = 7;
        let file = receipt(&older);
        let older = Older::of(file.path(), &planned(), true).unwrap();
        let baseline = older.changes_to(&example());
        assert_eq!(baseline.differences, ["seed: 7 then, 1 now"]);
        assert_eq!(baseline.modes.len(), 3);
    }

    #[test]
    fn what_is_no_receipt_is_refused_as_well() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"schema": "surge.backtest/1"}"#).unwrap();
        let refused = Older::of(file.path(), &planned(), true).unwrap_err();
        assert!(refused.is::<NotComparable>());
        assert!(
            refused.to_string().contains("surge.backtest/1"),
            "{refused}"
        );
    }
}
