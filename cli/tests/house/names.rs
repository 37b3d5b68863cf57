//! Names that a reader meets: types, tests, and how wide a line is.

use std::collections::{BTreeMap, BTreeSet};

use crate::modules::item;
use crate::source::sources;

/// Names that say a room of the crate, so that every crate may have one.
const ROOM_NAMES: &[&str] = &[
    "App", "Args", "Cli", "Command", "Config", "Error", "Metrics", "Parts", "Result", "Server",
    "Service", "Store",
];

#[test]
fn crates_share_no_type_names() {
    let mut crates: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources(&[".rs"]).iter().filter(|source| !source.is_test()) {
        let Some((package, _)) = source.path.split_once("/src/") else {
            continue;
        };
        for (kind, name) in source.code.lines().filter_map(item) {
            if ["struct", "enum", "trait", "type", "union"].contains(&kind) {
                crates
                    .entry(name.to_owned())
                    .or_default()
                    .insert(package.to_owned());
            }
        }
    }
    let shared: Vec<String> = crates
        .iter()
        .filter(|(name, crates)| crates.len() > 1 && !ROOM_NAMES.contains(&name.as_str()))
        .map(|(name, crates)| {
            format!(
                "{name}: {}",
                Vec::from_iter(crates.iter().map(String::as_str)).join(", ")
            )
        })
        .collect();
    assert!(
        shared.is_empty(),
        "one noun, one type; give each its subject:\n{}",
        shared.join("\n")
    );
}

#[test]
fn lines_have_at_most_100_columns() {
    let wide: Vec<String> = sources(&[".rs"])
        .iter()
        .flat_map(|source| {
            let lines = source
                .text
                .lines()
                .enumerate()
                .filter(|(_, line)| line.chars().count() > 100);
            lines
                .map(|(number, _)| format!("{}:{}", source.path, number + 1))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

/// A prepared `*` fails once a newer version of a service has added a column. Tests may use it.
#[test]
fn statements_name_their_columns() {
    let all_columns = |line: &str| {
        ["SELECT *", "RETURNING *"]
            .iter()
            .any(|all| line.contains(all))
    };
    for source in sources(&[".rs"]) {
        if !source.path.contains("/tests/") {
            let found = source.text.lines().find(|line| all_columns(line));
            assert_eq!(found, None, "{}", source.path);
        }
    }
}

#[test]
fn test_names_have_at_most_seven_words() {
    let mut long = Vec::new();
    for source in sources(&[".rs"]).into_iter() {
        let mut is_test = false;
        for line in source.text.lines().map(str::trim) {
            if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, rest)) = line.split_once("fn ")
                && is_test
            {
                let name = rest.split('(').next().unwrap_or_default();
                if name.split('_').count() > 7 {
                    long.push(format!("{}: {name}", source.path));
                }
                is_test = false;
            }
        }
    }
    assert!(
        long.is_empty(),
        "subject, condition, result:\n{}",
        long.join("\n")
    );
}
