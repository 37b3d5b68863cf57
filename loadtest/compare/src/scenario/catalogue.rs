//! The scenarios that are compiled in, and how one is found by name or path.

use std::path::Path;

use super::Scenario;

/// A name and the file of that name.
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
/// The valid names, if it is neither; what is wrong with the file, and where, if it is a path.
pub(crate) fn named_or_read(name: &str) -> Result<Scenario, String> {
    if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        return Scenario::parse(name, text);
    }
    if !is_path(name) {
        return Err(format!(
            "no such scenario; there are {}, or give the path of a TOML file",
            names().join(", ")
        ));
    }
    let text =
        std::fs::read_to_string(name).map_err(|failed| format!("cannot read it: {failed}"))?;
    Scenario::parse(name, &text)
}

/// The names of the scenarios that come with the program.
fn names() -> Vec<&'static str> {
    BUILT_IN.iter().map(|(name, _)| *name).collect()
}

fn is_path(name: &str) -> bool {
    name.contains('/') || Path::new(name).extension().is_some_and(|it| it == "toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_that_comes_with_the_program_can_be_read_and_says_what_it_is_for() {
        for name in names() {
            let scenario = named_or_read(name).unwrap();
            assert_eq!(scenario.name(), name);
            assert!(scenario.purpose().ends_with(['.', '?', ')']), "{name}");
        }
        assert!(names().contains(&super::super::DEFAULT));
    }

    #[test]
    fn an_unknown_name_is_told_the_valid_ones() {
        let refused = named_or_read("moon").unwrap_err();
        for name in names() {
            assert!(refused.contains(name), "{refused}");
        }
        let refused = named_or_read("moon.toml").unwrap_err();
        assert!(refused.contains("cannot read"), "{refused}");
    }

    #[test]
    fn a_file_of_ones_own_goes_by_its_path_and_its_mistakes_by_their_line() {
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
