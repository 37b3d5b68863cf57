//! The table of the services in docs/settings.md equals the options of the services.

use std::{collections::BTreeSet, fs};

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
    let page = fs::read_to_string(project().join("docs/settings.md")).expect("the page");
    let (_, table) = page.split_once("## Of the services").expect("the table");
    let (table, _) = table.split_once("\n## ").expect("a section behind it");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
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
