//! Scenarios: the markets to compare on, and what each does to the load, to the city and to the
//! simulated evenings.
//!
//! A scenario is a TOML file ([`file`] has its keys). Those in `loadtest/scenarios` are compiled in
//! and have names; a file of your own is given by its path. A key that a file leaves out is as in
//! the default scenario.

mod file;

use std::path::Path;

pub use file::Scenario;
pub(crate) use file::StressRamp;

pub(crate) const DEFAULT: &str = "friday-evening";

macro_rules! built_in {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../scenarios/", $name, ".toml")),
        )
    };
}

/// Name and text of each scenario that comes with the program.
const BUILT_IN: [(&str, &str); 7] = [
    built_in!("friday-evening"),
    built_in!("concert"),
    built_in!("spike"),
    built_in!("soak"),
    built_in!("breakpoint"),
    built_in!("batch-cadence"),
    built_in!("pricing-outage"),
];

/// The scenario of this name, or the one in the file at this path.
///
/// # Errors
/// The valid names, if it is neither; the mistake in the file and its line, if it is a path.
pub(crate) fn named_or_read(name: &str) -> Result<Scenario, String> {
    if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        return Scenario::parse(name, text);
    }
    let path = Path::new(name);
    let is_path = name.contains('/')
        || path
            .extension()
            .is_some_and(|extension| extension == "toml");
    if !is_path {
        return Err(format!(
            "no such scenario; there are {}, or give the path of a TOML file",
            BUILT_IN.map(|(name, _)| name).join(", ")
        ));
    }
    let text =
        std::fs::read_to_string(path).map_err(|failed| format!("cannot read it: {failed}"))?;
    Scenario::parse(name, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_states_its_purpose() {
        for (name, _) in BUILT_IN {
            let scenario = named_or_read(name).unwrap();
            assert_eq!(scenario.name(), name);
            assert!(scenario.purpose().ends_with(['.', '?', ')']), "{name}");
        }
        assert!(BUILT_IN.map(|(name, _)| name).contains(&DEFAULT));
    }

    #[test]
    fn unknown_name_is_answered_with_valid_ones() {
        let refused = named_or_read("moon").unwrap_err();
        for (name, _) in BUILT_IN {
            assert!(refused.contains(name), "{refused}");
        }
        let refused = named_or_read("moon.toml").unwrap_err();
        assert!(refused.contains("cannot read"), "{refused}");
    }

    #[test]
    fn file_is_read_and_mistakes_are_located() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let path = path.to_str().unwrap();
        std::fs::write(path, "purpose = \"mine\"\n[load]\nseconds = 30\n").unwrap();
        assert_eq!(named_or_read(path).unwrap().seconds(), Some(30));

        std::fs::write(path, "purpose = \"mine\"\n[load]\nminutes = 30\n").unwrap();
        let refused = named_or_read(path).unwrap_err();
        for said in ["mine.toml", "minutes", "line 3", "seconds", "steps"] {
            assert!(refused.contains(said), "{said} is missing: {refused}");
        }
    }
}
