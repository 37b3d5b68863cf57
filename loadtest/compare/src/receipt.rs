//! The report on its way out, to the terminal and into two files, and back in from `compare.json`.

use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::report::{Report, SCHEMA};
use super::{Args, page, table};
use crate::whole_file;

/// Prints the table, then writes the figures and the page.
///
/// # Errors
/// When a file cannot be written: a full disk does not cost the table, and one file does not cost the other.
pub(crate) fn publish(report: &Report, args: &Args) -> anyhow::Result<()> {
    anstream::print!("{}", table::render(report));
    let figures = write_figures(report, &args.json);
    let page = write_page(report, &args.html);
    figures.and(page)?;
    anstream::println!(
        "Report: {} (charts, and what each column means) and {}",
        args.html.display(),
        args.json.display()
    );
    Ok(())
}

/// Prints the table and writes the page, of figures that are on the disk already.
///
/// # Errors
/// When the page cannot be written.
pub(crate) fn redraw(report: &Report, args: &Args) -> anyhow::Result<()> {
    anstream::print!("{}", table::render(report));
    write_page(report, &args.html)?;
    anstream::println!("Page: {}", args.html.display());
    Ok(())
}

fn write_figures(report: &Report, path: &Path) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(report)?;
    whole_file::replace(path, format!("{json}\n").as_bytes()).with_context(|| way_out("--json"))
}

fn write_page(report: &Report, path: &Path) -> anyhow::Result<()> {
    whole_file::replace(path, page::render(report).as_bytes()).with_context(|| way_out("--html"))
}

fn way_out(option: &str) -> String {
    format!(
        "the figures stand in the table above; make room on the disk, or name another place with {option}"
    )
}

/// The report in a file.
///
/// # Errors
/// When the file cannot be read or is of another format.
pub(crate) fn read(path: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| {
        format!(
            "{} is no receipt that can be read here; `./surge compare --json PATH` writes one",
            path.display()
        )
    })
}

fn parse(text: &str) -> anyhow::Result<Report> {
    // Looked at first: of another format, a missing key would be all that is said.
    let value: Value = serde_json::from_str(text)?;
    let schema = value.get("schema").and_then(Value::as_str);
    let schema = schema.unwrap_or("unknown");
    ensure!(schema == SCHEMA, "its format is {schema}, not {SCHEMA}");
    Ok(serde_json::from_value(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn a_report_that_was_written_can_be_drawn_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compare.json");
        let report = example();
        write_figures(&report, &path).unwrap();
        assert_eq!(page::render(&read(&path).unwrap()), page::render(&report));
    }

    #[test]
    fn a_receipt_from_before_there_were_charts_is_read_too() {
        let mut old = serde_json::to_value(example()).unwrap();
        for key in ["series", "extent", "stolen"] {
            old.as_object_mut().unwrap().remove(key).unwrap();
        }
        let report = parse(&old.to_string()).unwrap();
        assert!(report.is_complete(), "nothing says otherwise");
        assert_eq!(report.series, crate::Series::default());
    }

    #[test]
    fn another_format_is_named() {
        let refused = parse(r#"{"schema": "surge.compare/2"}"#).unwrap_err();
        assert!(refused.to_string().contains("surge.compare/2"), "{refused}");
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let refused = write_page(&example(), Path::new("/dev/full")).unwrap_err();
        let words = format!("{refused:#}");
        for word in ["the table above", "--html", "/dev/full", "No space left"] {
            assert!(words.contains(word), "{word} is missing: {words}");
        }
    }
}
