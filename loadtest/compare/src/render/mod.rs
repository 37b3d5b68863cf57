//! The report on its way out: the table on the terminal, and the figures and the page as files.
//! Nothing here measures or judges.

mod charts;
mod page;
mod table;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use city::output::say;

use crate::report::CompareReport;
use crate::whole_file;

/// Prints the table, then writes the figures and the page.
///
/// A void or partial run does not overwrite a good report: it is written beside it, as
/// `compare.void.json`.
///
/// # Errors
/// When the table cannot be printed or a file cannot be written: one does not cost the others.
pub(crate) fn publish(report: &CompareReport, json: &Path, html: &Path) -> anyhow::Result<()> {
    let table = say(table::render(report).trim_end());
    let keeps_good =
        !report.is_good() && CompareReport::read(json).is_ok_and(|there| there.is_good());
    let [json_to, html_to] = [json, html].map(|path| {
        let kind = if report.valid { "partial" } else { "void" };
        if keeps_good {
            beside(path, kind)
        } else {
            path.to_owned()
        }
    });
    let figures = write_figures(report, &json_to);
    let page = write_page(report, &html_to);
    figures.and(page)?;
    table?;
    if keeps_good {
        say(format_args!(
            "The good report in {} stays as it is.",
            json.display()
        ))?;
    }
    Ok(say(format_args!(
        "Report: {} (charts, and what each column means) and {}",
        html_to.display(),
        json_to.display()
    ))?)
}

/// Prints the table and writes the page of figures that are on the disk already.
///
/// # Errors
/// When the page cannot be written.
pub(crate) fn redraw(report: &CompareReport, html: &Path) -> anyhow::Result<()> {
    let table = say(table::render(report).trim_end());
    write_page(report, html)?;
    table?;
    Ok(say(format_args!("Page: {}", html.display()))?)
}

/// `report/compare.json` of kind `void` is `report/compare.void.json`. What is no regular file,
/// such as a terminal, stays.
fn beside(path: &Path, kind: &str) -> PathBuf {
    match path.extension() {
        Some(extension) if path.is_file() => {
            path.with_extension(format!("{kind}.{}", extension.display()))
        }
        _ => path.to_owned(),
    }
}

fn write_figures(report: &CompareReport, path: &Path) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(report)?;
    whole_file::replace(path, format!("{json}\n").as_bytes()).with_context(|| remedy("--json"))
}

fn write_page(report: &CompareReport, path: &Path) -> anyhow::Result<()> {
    whole_file::replace(path, page::render(report).as_bytes()).with_context(|| remedy("--html"))
}

fn remedy(option: &str) -> String {
    format!(
        "the table above has the figures; make room on the disk, or name another place with \
         {option}"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::report::example_with_series;

    /// `--from` reads the figures that a run wrote: the page must not need anything else.
    #[test]
    fn page_from_file_is_byte_equal() {
        let folder = tempfile::tempdir().unwrap();
        let [json, live, again] =
            ["a.json", "live.html", "again.html"].map(|name| folder.path().join(name));
        let mut report = example_with_series();
        for untrusted_oracle in [vec![], vec!["another city is running".to_owned()]] {
            report.untrusted_oracle = untrusted_oracle;
            publish(&report, &json, &live).unwrap();
            redraw(&CompareReport::read(&json).unwrap(), &again).unwrap();
            assert!(fs::read(&live).unwrap() == fs::read(&again).unwrap());
        }
    }

    #[test]
    fn void_run_does_not_overwrite_good_report() {
        let folder = tempfile::tempdir().unwrap();
        let [json, html] = ["compare.json", "compare.html"].map(|name| folder.path().join(name));
        let (good, mut bad) = (example_with_series(), example_with_series());
        bad.valid = false;
        publish(&bad, &json, &html).unwrap();
        assert!(
            !CompareReport::read(&json).unwrap().valid,
            "there was nothing to keep"
        );
        publish(&good, &json, &html).unwrap();
        let page = fs::read(&html).unwrap();
        publish(&bad, &json, &html).unwrap();
        assert!(CompareReport::read(&json).unwrap().is_good());
        assert!(fs::read(&html).unwrap() == page);
        assert!(
            !CompareReport::read(&folder.path().join("compare.void.json"))
                .unwrap()
                .valid
        );
        assert!(folder.path().join("compare.void.html").is_file());
    }

    #[test]
    fn full_disk_is_answered_with_remedy() {
        let refused = write_page(&example_with_series(), Path::new("/dev/full")).unwrap_err();
        let words = format!("{refused:#}");
        for word in ["the table above", "--html", "/dev/full", "No space left"] {
            assert!(words.contains(word), "{word} is missing: {words}");
        }
    }
}
