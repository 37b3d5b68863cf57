//! The Grafana dashboards, from a source that people can read and change.
//!
//! ```text
//! observability/grafana/panels/*.toml --this crate--> .../dashboards/*.json --> Grafana
//!                              cargo run -p dashboards
//! ```
//!
//! The source of a dashboard has a title, rows, and for each panel its explanation, unit and
//! PromQL. Grafana needs a hundred lines of JSON per panel, in which nobody finds the query. This
//! crate writes that JSON, which is committed beside the source; a test compares the two.

mod grafana;
mod palette;
mod source;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;

pub use source::{Board, Panel, PanelKind, PanelRow, Query, Variable};

/// The folder of Grafana's files.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../observability/grafana")
}

/// The sources, each under the stem of its file.
///
/// # Errors
/// The file that cannot be read, and the place of the error.
pub fn sources() -> anyhow::Result<BTreeMap<String, Board>> {
    let files = files(&folder().join("panels"), "toml")?;
    let boards = files.into_iter().map(|(stem, text)| {
        let board = toml::from_str(&text).with_context(|| format!("panels/{stem}.toml"))?;
        Ok((stem, board))
    });
    boards.collect()
}

/// The JSON of a dashboard in Grafana's form.
///
/// # Errors
/// When its panels do not fit a screen.
pub fn render(board: &Board) -> anyhow::Result<String> {
    let json = serde_json::to_string_pretty(&grafana::dashboard(board)?)?;
    Ok(json + "\n")
}

/// The committed dashboards, each under the stem of its file.
///
/// # Errors
/// When the folder cannot be read.
pub fn committed() -> io::Result<BTreeMap<String, String>> {
    files(&folder().join("dashboards"), "json")
}

/// Writes the dashboards of all sources, removes others, and returns the names of those written.
///
/// # Errors
/// When a source is wrong or the folder cannot be written.
pub fn write() -> anyhow::Result<Vec<String>> {
    let into = folder().join("dashboards");
    let sources = sources()?;
    for stem in committed()?.keys() {
        if !sources.contains_key(stem) {
            fs::remove_file(into.join(stem).with_extension("json"))?;
        }
    }
    for (stem, board) in &sources {
        let json = render(board).with_context(|| format!("panels/{stem}.toml"))?;
        fs::write(into.join(stem).with_extension("json"), json)?;
    }
    Ok(sources.into_keys().collect())
}

fn files(folder: &Path, extension: &str) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|is| is == extension) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            found.insert(stem.into_owned(), fs::read_to_string(&path)?);
        }
    }
    Ok(found)
}
