//! `docs/architecture.md` against the sources: the files that a quote passes, and every file that
//! the page names.
//!
//! The page's section "The files of a quote" has a part for each mode, and in it a list: the first
//! file is where the quote comes in. The last part, "Value types", lists files that those import
//! but that only carry, name or convert values, or that act when the service starts. The test
//! follows the imports of the listed files of the service, of the economics and of the messages:
//! each leads to a file that the page lists in one of the two places.
//!
//! ```text
//! ## The files of a quote
//! ### `database`
//! services/price-optimization/src/http.rs     parses the request
//! ### Value types
//! crates/marketplace/src/time.rs              market time
//! ```

use std::collections::BTreeSet;
use std::fs;

use crate::modules::Workspace;
use crate::source::{is_held, root};

const PAGE: &str = "docs/architecture.md";
const MODES: [&str; 3] = ["database", "request", "events"];
const MOST_FILES: usize = 14;

/// Whose imports are followed: not those of the platform, which knows nothing of quotes.
const FOLLOWED: [&str; 3] = [
    "services/price-optimization/",
    "crates/marketplace/",
    "proto/",
];

fn page() -> String {
    fs::read_to_string(root().join(PAGE)).expect("the page of the architecture")
}

/// The lines under a heading, up to the next heading of the same rank or above.
fn section<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let rank = heading.split(' ').next().unwrap_or_default().len();
    let is_end = |line: &&str| {
        line.starts_with('#')
            && line
                .split(' ')
                .next()
                .is_some_and(|marks| marks.len() <= rank)
    };
    page.lines()
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !is_end(line))
        .collect()
}

/// The Rust files that a text names by their path from the root of the repository.
fn files_in<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let is_part = |c: char| c.is_alphanumeric() || "_-./".contains(c);
    let is_file = |name: &&str| {
        name.contains('/') && name.ends_with(".rs") && !name.starts_with(['.', '/', '-'])
    };
    lines
        .iter()
        .flat_map(|line| line.split(|c| !is_part(c)))
        .filter(is_file)
        .collect()
}

#[test]
fn page_names_files_that_exist() {
    let page = page();
    if !is_held(PAGE) {
        return;
    }
    let lines: Vec<&str> = page.lines().collect();
    let missing: Vec<&str> = files_in(&lines)
        .into_iter()
        .filter(|file| !root().join(file).exists())
        .collect();
    assert!(missing.is_empty(), "{PAGE}: {missing:?}");
}

#[test]
fn quote_passes_the_listed_files() {
    let (page, workspace) = (page(), Workspace::read());
    if !is_held(PAGE) {
        return;
    }
    let section = section(&page, "## The files of a quote").join("\n");
    let beside: BTreeSet<&str> = files_in(&self::section(&section, "### Value types"))
        .into_iter()
        .collect();
    let followed = |file: &str| FOLLOWED.iter().any(|folder| file.starts_with(folder));
    let of_mode = |mode| files_in(&self::section(&section, &format!("### `{mode}`")));
    // The seam imports all dataflows; a quote of one mode does not pass those of the others.
    let of_any_mode: BTreeSet<&str> = MODES.into_iter().flat_map(of_mode).collect();
    let mut imported_beside = BTreeSet::new();
    let mut wrong = Vec::new();
    for mode in MODES {
        let listed = of_mode(mode);
        if listed.is_empty() || listed.len() > MOST_FILES {
            wrong.push(format!(
                "{mode}: {} files, where 1 to {MOST_FILES} are allowed",
                listed.len()
            ));
        }
        let mut imported = BTreeSet::new();
        for file in &listed {
            let Some(place) = workspace.place_of(file) else {
                wrong.push(format!("{mode}: {file} is not a module of a library"));
                continue;
            };
            if !followed(file) {
                continue;
            }
            let places = workspace.imports(&place);
            imported.extend(
                places
                    .iter()
                    .map(|place| (workspace.file(place).to_owned(), *file)),
            );
        }
        for (to, from) in imported.iter().filter(|(to, _)| followed(to)) {
            if beside.contains(to.as_str()) {
                imported_beside.insert(to.clone());
            } else if !of_any_mode.contains(to.as_str()) {
                wrong.push(format!("{mode}: {from} imports {to}, which is in no list"));
            }
        }
        for file in listed.iter().skip(1) {
            if !imported.iter().any(|(to, _)| to == file) {
                wrong.push(format!("{mode}: no listed file imports {file}"));
            }
        }
    }
    let idle = beside
        .iter()
        .filter(|file| !imported_beside.contains(**file));
    wrong.extend(idle.map(|file| format!("Value types: no listed file imports {file}")));
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
}
