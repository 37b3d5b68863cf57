//! `docs/architecture.md` against the sources: the files that it names exist, its table of crates
//! is complete and its numbers of lines are true, and a quote passes the files that it lists.
//!
//! The section "The files of a quote" has a part for each mode with a list, whose first file is
//! where the quote comes in. Its last part, "Value types", lists files that those import but that
//! only carry, name or convert values, or act only at the start. The test follows the imports of
//! the listed files of the service, of the economics and of the messages: each import leads to a
//! file in one of the lists.
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
use crate::source::{Source, root, sources};

const PAGE: &str = "docs/architecture.md";
const MODES: [&str; 3] = ["database", "request", "events"];
const MOST_FILES: usize = 14;

/// The file that puts the platform's edge around the routes: it may import a listed file too.
const ROOT: &str = "services/price-optimization/src/lib.rs";

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
    let lines: Vec<&str> = page.lines().collect();
    let missing: Vec<&str> = files_in(&lines)
        .into_iter()
        .filter(|file| !root().join(file).exists())
        .collect();
    assert!(missing.is_empty(), "{PAGE}: {missing:?}");
}

/// A number of lines may differ by this share before the page is wrong.
const TOLERANCE: f64 = 0.15;

#[test]
fn table_of_crates_is_true() {
    let sources = sources(&[".rs", ".sql", ".proto"]);
    let page = page();
    let mut wrong = Vec::new();
    for manifest in self::sources(&["Cargo.toml"]) {
        let Some(folder) = manifest.path.strip_suffix("/Cargo.toml") else {
            continue;
        };
        let of_crate = |source: &&Source| source.path.starts_with(&format!("{folder}/"));
        let lines: usize = sources
            .iter()
            .filter(of_crate)
            .map(|source| source.text.lines().count())
            .sum();
        let row = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("| `{folder}` | ")));
        let listed = row.and_then(|row| row.split(' ').next()?.parse::<f64>().ok());
        let is_true = listed.is_some_and(|listed| (listed / lines as f64 - 1.0).abs() < TOLERANCE);
        if !is_true {
            wrong.push(format!(
                "{folder} has {lines} lines, the page says {listed:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
}

#[test]
fn quote_passes_the_listed_files() {
    let (page, workspace) = (page(), Workspace::read());
    let section = section(&page, "## The files of a quote").join("\n");
    let beside = files_in(&self::section(&section, "### Value types"));
    let of_mode = |mode| files_in(&self::section(&section, &format!("### `{mode}`")));
    // The seam imports all dataflows; a quote of one mode does not pass those of the others.
    let of_any_mode: BTreeSet<&str> = MODES.into_iter().flat_map(of_mode).collect();
    let followed = |file: &str| FOLLOWED.iter().any(|folder| file.starts_with(folder));
    let imports_of = |file: &str| -> BTreeSet<String> {
        let places = workspace
            .place_of(file)
            .map(|place| workspace.imports(&place));
        let places = places.unwrap_or_default();
        places
            .iter()
            .map(|place| workspace.file(place).to_owned())
            .collect()
    };

    let mut wrong = Vec::new();
    for mode in MODES {
        let listed = of_mode(mode);
        if listed.is_empty() || listed.len() > MOST_FILES {
            wrong.push(format!(
                "{mode}: {} files instead of 1 to {MOST_FILES}",
                listed.len()
            ));
        }
        let importers = listed.iter().chain([&ROOT]);
        let imported: BTreeSet<String> = importers.flat_map(|file| imports_of(file)).collect();
        for file in listed
            .iter()
            .skip(1)
            .filter(|file| followed(file) && !imported.contains(**file))
        {
            wrong.push(format!("{mode}: no listed file imports {file}"));
        }
    }
    let mut imported = BTreeSet::new();
    for from in of_any_mode.iter().filter(|file| followed(file)) {
        for to in imports_of(from).into_iter().filter(|to| followed(to)) {
            if !of_any_mode.contains(to.as_str()) && !beside.contains(&to.as_str()) {
                wrong.push(format!("{from} imports {to}, which is in no list"));
            }
            imported.insert(to);
        }
    }
    for file in beside.iter().filter(|file| !imported.contains(**file)) {
        wrong.push(format!("Value types: no listed file imports {file}"));
    }
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
}
