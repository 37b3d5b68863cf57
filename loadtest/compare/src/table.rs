//! The report on a terminal: at most a hundred columns wide, understood without a manual.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

use super::baseline::{Baseline, words};
use super::market_cost::{self, MarketCost};
use super::report::Report;
use super::verdict;
use super::wording;
use super::wording::{COLUMNS, Column, LIMITS, LIMITS_TITLE, TITLE, done};

/// The whole text, with colour codes that the printing stream strips where they are not wanted.
pub(crate) fn render(report: &Report) -> String {
    let mut text = String::from("\n");
    sentence(&mut text, Style::new().bold(), &heading(report));
    for done in done(report) {
        sentence(&mut text, Style::new(), &done);
    }
    writeln!(text, "\n{}\n", figures(report, &COLUMNS)).expect(STRING_TAKES_ALL);
    if report.has_capacities() {
        sentence(&mut text, Style::new().bold(), LIMITS_TITLE);
        writeln!(text, "\n{}\n", figures(report, &LIMITS)).expect(STRING_TAKES_ALL);
        if let Some(generator) = wording::generator(report) {
            sentence(&mut text, Style::new(), &generator);
            text.push('\n');
        }
    }
    if let Some(cost) = &report.market_cost {
        sentence(&mut text, Style::new().bold(), market_cost::TITLE);
        sentence(&mut text, Style::new(), &market_cost::done(cost));
        writeln!(text, "\n{}\n", market(cost)).expect(STRING_TAKES_ALL);
    }
    if let Some(extent) = report.extent.filter(|it| !(report.valid && it.complete)) {
        sentence(&mut text, Style::new(), &extent.in_words());
    }
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    for reason in &report.void_reasons {
        sentence(&mut text, red, &format!("VOID: {reason}"));
    }
    if report.valid {
        let cost = report.market_cost.iter().flat_map(market_cost::findings);
        for finding in verdict::findings(report).into_iter().chain(cost) {
            sentence(&mut text, Style::new().bold(), &finding);
        }
    }
    if let Some(baseline) = &report.baseline {
        writeln!(text).expect(STRING_TAKES_ALL);
        changes(&mut text, baseline);
    }
    for warning in &report.warnings {
        sentence(&mut text, Style::new(), &format!("Note: {warning}"));
    }
    text
}

fn heading(report: &Report) -> String {
    match (report.valid, report.is_complete()) {
        (true, true) => TITLE.to_owned(),
        (true, false) => format!("{TITLE}: PARTIAL"),
        (false, _) => format!("{TITLE}: VOID, do not use these figures"),
    }
}

/// A sentence, broken between words where the table above it ends.
fn sentence(text: &mut String, style: Style, words: &str) {
    let mut width = 0;
    write!(text, "{style}").expect(STRING_TAKES_ALL);
    for word in words.split(' ') {
        let length = word.chars().count() + 1;
        if width > 0 && width + length > WIDTH {
            text.push('\n');
            width = 0;
        }
        let space = if width > 0 { " " } else { "" };
        write!(text, "{space}{word}").expect(STRING_TAKES_ALL);
        width += length;
    }
    writeln!(text, "{style:#}").expect(STRING_TAKES_ALL);
}

/// Columns of text.
const WIDTH: usize = 100;

const STRING_TAKES_ALL: &str = "a string takes every text";

fn figures(report: &Report, columns: &[Column]) -> Table {
    let names = columns.iter().map(|column| (column.name, column.unit));
    let mut table = ruled("dataflow", names);
    for (mode, figures) in &report.modes {
        let floor = report.floors.under(*mode);
        let cells = columns.iter().map(|column| (column.figure)(figures, floor));
        table.add_row(std::iter::once(mode.to_string()).chain(cells));
    }
    align(&mut table);
    table
}

fn market(cost: &MarketCost) -> Table {
    let columns = &market_cost::COLUMNS;
    let names = columns.iter().map(|column| (column.name, column.unit));
    let mut table = ruled("quotes made from data", names);
    for row in &cost.rows {
        let cells = columns.iter().map(|column| column.cell(row, &cost.rows[0]));
        table.add_row(std::iter::once(row.label.clone()).chain(cells));
    }
    align(&mut table);
    table
}

/// A table with this heading over its rows, and the names and units of its columns.
fn ruled<'a>(rows: &str, columns: impl Iterator<Item = (&'a str, &'a str)>) -> Table {
    let mut table = Table::new();
    table.load_style(RULED);
    let names = columns.map(|(name, unit)| match unit {
        "" => name.to_owned(),
        unit => format!("{name}\n{unit}"),
    });
    table.set_header(std::iter::once(rows.to_owned()).chain(names));
    table
}

/// Figures stand at the right of their columns.
fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
        column.set_padding((1, 0));
    }
}

fn changes(text: &mut String, baseline: &Baseline) {
    sentence(text, Style::new().bold(), &words::title(baseline));
    if let Some(caution) = words::caution(baseline) {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        sentence(text, red, &caution);
    }
    if let Some(machine) = words::machine(baseline) {
        sentence(text, Style::new().bold(), &machine);
    }
    let mut table = Table::new();
    table.load_style(RULED);
    table.set_header(words::HEADS);
    table.add_rows(words::rows(baseline));
    for column in table.column_iter_mut().skip(2).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(text, "\n{table}\n").expect(STRING_TAKES_ALL);
    sentence(text, Style::new(), words::NOISE);
}

/// A line under the names and one under the figures.
const RULED: TableStyle = TableStyle::new().header_separator(RULE).bottom_border(RULE);

const RULE: LineStyle = LineStyle::none().fill('─').junction('─');

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    fn plain(report: &Report) -> String {
        anstream::adapter::strip_str(&render(report)).to_string()
    }

    #[test]
    fn the_table_fits_on_a_hundred_columns_and_names_its_units() {
        let mut report = example();
        report.market_cost = Some(market_cost::wording::tests::cost());
        let text = plain(&report);
        for line in text.lines().filter(|line| line.contains('─')) {
            assert!(line.chars().count() <= 100, "{line}");
        }
        for word in ["database", "request", "events", "ms", "mean |Δ|", "+20 ±4"] {
            assert!(text.contains(word), "{word} is missing:\n{text}");
        }
        assert!(
            text.contains("Friday 2014-04-04, 17:20 to 18:20 in New York"),
            "{text}"
        );
        assert!(!text.contains("VOID"), "{text}");
    }

    #[test]
    fn a_void_run_says_so_first_and_why_last() {
        let mut report = example();
        report.valid = false;
        report.void_reasons = vec!["interrupted".to_owned()];
        let text = plain(&report);
        assert!(text.trim_start().lines().next().unwrap().contains("VOID"));
        assert!(text.contains("VOID: interrupted"), "{text}");
        assert!(!text.contains("fastest"), "{text}");
    }

    #[test]
    fn a_run_that_was_cut_short_says_how_far_it_came() {
        let mut report = example();
        assert!(!plain(&report).contains("What was done"));
        let extent = report.extent.as_mut().unwrap();
        (extent.complete, extent.planned_searches) = (false, 18);
        let text = plain(&report);
        assert!(
            text.trim_start()
                .lines()
                .next()
                .unwrap()
                .ends_with("PARTIAL")
        );
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains("none of 18 searches for a capacity"),
            "{text}"
        );
        assert!(
            text.contains("fastest"),
            "what was measured is told: {text}"
        );
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        let mut report = example();
        for figures in report.modes.values_mut() {
            figures.latency_us.p50 = None;
            figures.multiplier_error.mean_abs = None;
        }
        let row = plain(&report);
        let row = row.lines().find(|line| line.contains("events ")).unwrap();
        assert_eq!(
            row.split_whitespace().filter(|cell| *cell == "-").count(),
            2,
            "{row}"
        );
    }
}
