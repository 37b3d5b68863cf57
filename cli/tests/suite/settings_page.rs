//! docs/settings.md has every variable that the programs read.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{programs::program, support::project};

/// The letter of each process in the table, and the arguments that start it.
const PROCESSES: [(&str, &[&str]); 4] = [
    ("D", &["service", "driver-management"]),
    ("R", &["service", "ride-management"]),
    ("P", &["service", "price-optimization"]),
    ("B", &["service", "price-optimization", "batch"]),
];

#[test]
fn page_lists_every_variable_of_services() {
    let page = page();
    let rows = rows(&page, "## Of the services");
    for (letter, arguments) in PROCESSES {
        let of_process = rows
            .iter()
            .filter(|row| row[3].split(' ').any(|word| word == letter));
        let listed: BTreeSet<&str> = of_process
            .filter_map(|row| row[1].split('`').nth(1))
            .collect();
        let (program, _) = program(arguments);
        let variables = program
            .get_arguments()
            .filter_map(|argument| argument.get_env()?.to_str());
        let known: BTreeSet<&str> = variables.collect();
        let differing: Vec<_> = listed.symmetric_difference(&known).collect();
        assert!(
            differing.is_empty(),
            "{letter}, on the page or in the options only: {differing:?}"
        );
    }
}

#[test]
fn page_says_what_a_stack_passes_on() {
    let page = page();
    let of_services = rows(&page, "## Of the services");
    let of_telemetry = rows(&page, "## Of telemetry");
    let unmarked: BTreeSet<&str> = of_services
        .iter()
        .chain(&of_telemetry)
        .filter(|row| !row[1].ends_with('*'))
        .flat_map(|row| row[1].split('`').skip(1).step_by(2))
        .collect();
    assert_eq!(unmarked, surge::PASSED_ON.into_iter().collect());
}

fn page() -> String {
    fs::read_to_string(project().join("docs/settings.md")).expect("the page")
}

/// The cells of the table below this heading.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, section) = page.split_once(heading).expect("the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| line.split('|').map(str::trim).collect())
        .collect()
}

/// Options, and what the sources ask the environment for.
#[test]
fn page_names_every_variable_read() {
    let page = fs::read_to_string(project().join("docs/settings.md")).expect("the page");
    let mut missing = BTreeSet::new();
    let mut read = 0;
    for path in sources(&project()) {
        let text = fs::read_to_string(&path).expect("a source");
        let lines = text
            .split("#[cfg(test)]")
            .next()
            .unwrap_or_default()
            .lines();
        let of_environment =
            lines.filter(|line| line.contains("env") || line.to_lowercase().contains("variable"));
        for name in of_environment
            .flat_map(|line| line.split('"').skip(1).step_by(2))
            .filter(|text| is_variable(text) && !text.starts_with("CARGO_") && *text != "LC_ALL")
        {
            read += 1;
            let named = page.contains(&format!("`{name}`")) || page.contains(&format!("`{name}="));
            if !named {
                missing.insert(name.to_owned());
            }
        }
    }
    assert!(read > 40, "only {read} variables are read");
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for part in ["cli/src", "crates", "services", "loadtest", "proto/src"] {
        let mut folders = vec![folder.join(part)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder").flatten() {
                let path = entry.path();
                if path.is_dir() && entry.file_name() != "tests" {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    found.push(path);
                }
            }
        }
    }
    found
}

fn is_variable(text: &str) -> bool {
    text.contains('_')
        && text
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}
