//! The Grafana dashboards, from a source that people can read and change.
//!
//! A dashboard is a TOML file in `observability/grafana/panels`: a title, rows, and for each panel
//! what to see there, its unit and its PromQL. What Grafana wants is a hundred lines of JSON for
//! each of these, in which nobody finds the query; it is made here and committed beside the source,
//! in `observability/grafana/dashboards`, which is what Grafana is given. After a change of the
//! source: `cargo run -p dashboards`. A test compares the two.

mod grafana;
mod palette;
mod source;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;

pub use palette::{MODES, ModeStyle};
pub use source::{Board, Kind, Panel, Query, Row, Variable};

/// The folder of everything that is Grafana's.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../observability/grafana")
}

/// The sources, each under the stem of its file.
///
/// # Errors
/// When one cannot be read; says which and where.
pub fn sources() -> anyhow::Result<BTreeMap<String, Board>> {
    let files = files(&folder().join("panels"), "toml")?;
    let boards = files.into_iter().map(|(stem, text)| {
        let board = toml::from_str(&text).with_context(|| format!("panels/{stem}.toml"))?;
        Ok((stem, board))
    });
    boards.collect()
}

/// The JSON of a dashboard, as Grafana keeps it.
///
/// # Errors
/// When its panels do not fit a screen.
pub fn render(board: &Board) -> anyhow::Result<String> {
    let json = serde_json::to_string_pretty(&grafana::dashboard(board)?)?;
    Ok(json + "\n")
}

/// The dashboards as they are committed, each under the stem of its file.
///
/// # Errors
/// When the folder cannot be read.
pub fn committed() -> io::Result<BTreeMap<String, String>> {
    files(&folder().join("dashboards"), "json")
}

/// Makes the folder of dashboards what the sources say, and returns what it holds then.
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
