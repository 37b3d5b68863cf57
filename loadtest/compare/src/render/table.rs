//! The report on a terminal: 80 columns wide, understood without a manual.

use std::fmt::Write;
use std::ops::RangeInclusive;

use anstyle::{AnsiColor, Style};
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

use crate::judge;
use crate::report::{Baseline, CompareReport, FloorFigures, ModeFigures};
use crate::wording::columns::{CAPACITIES, FIGURES, MARKET, TableColumn};
use crate::wording::{self, changes, market, validity};

const WIDTH: usize = 80;

/// The mark of a figure that is not shown because the oracle cannot be trusted; a line below says
/// why.
const NOT_SHOWN: &str = "*";

/// The whole text, with colour codes that the printing stream strips where they are not wanted.
pub(crate) fn render(report: &CompareReport) -> String {
    let bold = Style::new().bold();
    let red = bold.fg_color(Some(AnsiColor::Red.into()));
    let mut text = Text::default();
    text.sentence(bold, &heading(report));
    for line in wording::workload(report) {
        text.sentence(Style::new(), &line);
    }
    text.table(modes(report, &FIGURES));
    if !report.untrusted_oracle.is_empty() {
        let why = validity::error_not_shown(&report.untrusted_oracle);
        text.sentence(red, &format!("{NOT_SHOWN} {why}"));
        text.newline();
    }
    if report.has_capacities() {
        text.sentence(bold, wording::CAPACITY_TITLE);
        text.table(modes(report, &CAPACITIES));
        if let Some(generator) = wording::generator(report) {
            text.sentence(Style::new(), &generator);
            text.newline();
        }
    }
    if let Some(cost) = &report.market_cost {
        text.sentence(bold, market::TITLE);
        text.sentence(Style::new(), &market::method(cost));
        let rows = cost
            .rows
            .iter()
            .map(|row| (row.label.clone(), row, &cost.rows[0]));
        text.table(table("quotes made from data", &MARKET, rows, true));
    }
    if let Some(coverage) = report.coverage.as_ref().filter(|_| !report.is_good()) {
        text.sentence(Style::new(), &validity::coverage(coverage));
    }
    for reason in &report.void_reasons {
        text.sentence(red, &format!("VOID: {reason}"));
    }
    if report.valid {
        let market = report.market_cost.iter().flat_map(judge::market_findings);
        for finding in judge::findings(report).into_iter().chain(market) {
            text.sentence(bold, &finding);
        }
    }
    if let Some(baseline) = &report.baseline {
        text.newline();
        text.sentence(bold, &changes::title(baseline));
        if let Some(caution) = changes::caution(baseline) {
            text.sentence(red, &caution);
        }
        if let Some(percent) = judge::machine_change(baseline) {
            text.sentence(bold, &changes::machine(percent));
        }
        text.table(change_table(baseline));
        text.sentence(Style::new(), changes::NOISE);
    }
    for warning in &report.warnings {
        text.sentence(Style::new(), &format!("Note: {warning}"));
    }
    text.0
}

fn heading(report: &CompareReport) -> String {
    let suffix = match (report.valid, report.is_complete()) {
        (true, true) => "",
        (true, false) => ": PARTIAL",
        (false, _) => ": VOID, do not use these figures",
    };
    format!("\n{}{suffix}", wording::TITLE)
}

#[derive(Default)]
struct Text(String);

impl Text {
    /// A sentence, broken between words at [`WIDTH`].
    fn sentence(&mut self, style: Style, words: &str) {
        let mut width = 0;
        self.push(format_args!("{style}"));
        for word in words.split(' ') {
            let length = word.chars().count() + 1;
            let space = match width {
                0 => "",
                width if width + length > WIDTH => "\n",
                _ => " ",
            };
            width = if space == "\n" {
                length
            } else {
                width + length
            };
            self.push(format_args!("{space}{word}"));
        }
        self.push(format_args!("{style:#}\n"));
    }

    fn table(&mut self, table: Table) {
        self.push(format_args!("\n{}\n\n", table.trim_fmt()));
    }

    fn newline(&mut self) {
        self.0.push('\n');
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a string takes every text");
    }
}

fn modes(report: &CompareReport, columns: &[TableColumn<ModeFigures, FloorFigures>]) -> Table {
    let rows = report.modes.iter();
    let rows = rows.map(|(mode, figures)| (mode.to_string(), figures, report.floors.under(*mode)));
    table(
        "dataflow",
        columns,
        rows,
        report.untrusted_oracle.is_empty(),
    )
}

/// A table of named rows: the units of its columns are below their names.
fn table<'a, Row: 'a, Reference: 'a>(
    names: &str,
    columns: &[TableColumn<Row, Reference>],
    rows: impl Iterator<Item = (String, &'a Row, &'a Reference)>,
    trusts_oracle: bool,
) -> Table {
    let mut table = Table::new();
    table.load_style(RULED);
    let head = |column: &TableColumn<_, _>| match column.unit {
        "" => column.name.to_owned(),
        unit => format!("{}\n{unit}", column.name),
    };
    let heads: Vec<String> = columns.iter().map(head).collect();
    let lines = heads
        .iter()
        .map(|head| head.lines().count())
        .max()
        .unwrap_or(1);
    let heads = heads
        .iter()
        .map(|head| "\n".repeat(lines - head.lines().count()) + head);
    table.set_header(std::iter::once(names.to_owned()).chain(heads));
    for (name, row, reference) in rows {
        let cells = columns
            .iter()
            .map(|column| match column.needs_oracle && !trusts_oracle {
                true => NOT_SHOWN.to_owned(),
                false => (column.cell)(row, reference),
            });
        table.add_row(std::iter::once(name).chain(cells));
    }
    align(&mut table, 1..=columns.len());
    table
}

fn change_table(baseline: &Baseline) -> Table {
    let mut table = Table::new();
    table.load_style(RULED);
    table.set_header(changes::HEADS);
    table.add_rows(changes::rows(baseline));
    align(&mut table, 2..=5);
    table
}

/// Figures stand at the right of their columns, one space from the column before.
fn align(table: &mut Table, figures: RangeInclusive<usize>) {
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 0));
        if figures.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// A line under the names and one under the figures.
const RULED: TableStyle = TableStyle::new().header_separator(RULE).bottom_border(RULE);

const RULE: LineStyle = LineStyle::none().fill('─').junction('─');

#[cfg(test)]
mod tests {
    use surge_proto::DataflowMode;

    use super::*;
    use crate::report::{FigureChange, Verdict, example};

    fn plain(report: &CompareReport) -> String {
        anstream::adapter::strip_str(&render(report)).to_string()
    }

    #[test]
    fn every_line_fits_eighty_columns() {
        let mut report = example();
        let mut cost = market::tests::made_up_cost();
        "database (15.5 min batch)".clone_into(&mut cost.rows[2].label);
        report.market_cost = Some(cost);
        for figures in report.modes.values_mut() {
            (figures.capacity_per_s, figures.share_of_floor) = (Some(104_711.0), Some(1.04));
            figures.capacity_range_per_s = Some([100_404, 111_444]);
            figures.cpu_us_per_quote = Some(149.0);
        }
        report.floors.http.capacity_range_per_s = Some([100_404, 111_444]);
        let change = FigureChange {
            figure: "multiplier_error.mean_abs".to_owned(),
            before: 0.1,
            now: 0.2,
            noise: Some(0.15),
            verdict: Verdict::MoreExpensive,
        };
        report.baseline = Some(Baseline {
            path: "report/old.json".to_owned(),
            started_at: "2000-01-01T00:00:00.000Z".to_owned(),
            git: None,
            differences: Vec::new(),
            modes: [(DataflowMode::Database, vec![change])].into(),
        });
        let text = plain(&report);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        for word in ["database", "request", "events", "ms", "mean |Δ|", "+20±4"] {
            assert!(text.contains(word), "{word} is missing:\n{text}");
        }
        assert!(
            text.contains("Friday 2014-04-04, 17:20 to 18:20 in New York"),
            "{text}"
        );
        assert!(
            !text.contains("VOID") && !text.contains(NOT_SHOWN),
            "{text}"
        );
    }

    #[test]
    fn void_run_says_so_first_and_last() {
        let mut report = example();
        report.valid = false;
        report.void_reasons = vec!["interrupted".to_owned()];
        let text = plain(&report);
        assert!(text.trim_start().lines().next().unwrap().contains("VOID"));
        assert!(text.contains("VOID: interrupted"), "{text}");
        assert!(!text.contains("fastest"), "{text}");
    }

    #[test]
    fn partial_run_says_how_much_was_done() {
        let mut report = example();
        assert!(!plain(&report).contains("Done:"));
        let coverage = report.coverage.as_mut().unwrap();
        (coverage.complete, coverage.planned_searches) = (false, 18);
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
            "the figures that were measured stand: {text}"
        );
    }

    fn cells_of_events(text: &str, cell: &str) -> usize {
        let row = text
            .lines()
            .find(|line| line.starts_with("events "))
            .unwrap();
        row.split_whitespace()
            .filter(|known| *known == cell)
            .count()
    }

    #[test]
    fn unmeasured_figure_is_a_dash() {
        let mut report = example();
        for figures in report.modes.values_mut() {
            figures.latency_us.p50 = None;
            figures.multiplier_error.mean_abs = None;
        }
        assert_eq!(cells_of_events(&plain(&report), "-"), 2);
    }

    #[test]
    fn untrusted_oracle_hides_errors_and_says_why() {
        let mut report = example();
        report.untrusted_oracle = vec!["another city is running on these services".to_owned()];
        let text = plain(&report);
        assert_eq!(cells_of_events(&text, NOT_SHOWN), 2, "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            words.contains(
                "* The multiplier error is not shown, because another city is running \
                on these services."
            ),
            "{text}"
        );
    }
}
