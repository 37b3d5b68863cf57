//! The report as one web page that needs nothing else: no script, no font, no network. The drawings
//! are in [`charts`]; here is the text.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use surge_proto::DataflowMode;

use super::charts;
use crate::judge;
use crate::report::{Baseline, CompareReport, FloorFigures, MarketCost, ModeFigures};
use crate::wording::columns::{CAPACITIES, FIGURES, MARKET, TableColumn};
use crate::wording::{self, UNKNOWN, changes, market, validity};

pub(crate) fn render(report: &CompareReport) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Surge: " (wording::TITLE) }
                style { (PreEscaped(STYLE)) (PreEscaped(charts::style())) }
            }
            body {
                main {
                    (heading(report))
                    (mode_table(report, &FIGURES, "Figures of each dataflow"))
                    @if report.valid {
                        @for finding in judge::findings(report) { p.finding { (finding) } }
                    }
                    @for warning in &report.warnings { p.warning { "Note: " (warning) } }
                    @if let Some(cost) = &report.market_cost {
                        (market_section(cost, report.valid))
                    }
                    @if report.has_capacities() {
                        h2 { (wording::CAPACITY_TITLE) }
                        (mode_table(report, &CAPACITIES, "Capacity of each dataflow"))
                        @if let Some(generator) = wording::generator(report) { p { (generator) } }
                    }
                    @if let Some(baseline) = &report.baseline { (change_section(baseline)) }
                    (charts::all(report))
                    (definitions())
                    (circumstances(report))
                }
            }
        }
    }
    .into_string()
}

fn heading(report: &CompareReport) -> Markup {
    let coverage = report.coverage.as_ref().map(validity::coverage);
    html! {
        h1 { (wording::TITLE) }
        @if !report.valid {
            section.void {
                h2 { "VOID: do not use these figures" }
                ul { @for reason in &report.void_reasons { li { (reason) } } }
                @if let Some(coverage) = coverage { p { (coverage) } }
            }
        } @else if !report.is_complete() {
            section.void {
                h2 { "PARTIAL: the run did not come to its end" }
                @if let Some(coverage) = coverage { p { (coverage) } }
            }
        }
        @for line in wording::workload(report) { p { (line) } }
    }
}

/// A table that scrolls by itself where the screen is narrow.
fn scrolling(label: &str, table: &Markup) -> Markup {
    html! { div.scroll tabindex="0" role="region" aria-label=(label) { (table) } }
}

fn heads<Row, Reference>(rows: &str, columns: &[TableColumn<Row, Reference>]) -> Markup {
    html! {
        thead {
            tr {
                th scope="col" { (rows) }
                @for column in columns {
                    th scope="col" title=(column.meaning) {
                        (column.title())
                        @if !column.unit.is_empty() { small { (column.unit) } }
                    }
                }
            }
        }
    }
}

/// Where the oracle cannot be trusted, its columns have one cell, which says why.
fn mode_table(
    report: &CompareReport,
    columns: &[TableColumn<ModeFigures, FloorFigures>],
    label: &str,
) -> Markup {
    let is_untrusted = !report.untrusted_oracle.is_empty();
    let is_hidden = |column: &TableColumn<_, _>| is_untrusted && column.needs_oracle;
    let hidden = columns.iter().filter(|column| is_hidden(column)).count();
    let table = html! {
        table {
            (heads("dataflow", columns))
            tbody {
                @for (row, (mode, figures)) in report.modes.iter().enumerate() {
                    tr {
                        th scope="row" { (mode) }
                        @for column in columns.iter().filter(|column| !is_hidden(column)) {
                            td { ((column.cell)(figures, report.floors.under(*mode))) }
                        }
                        @if hidden > 0 && row == 0 {
                            td.untrusted colspan=(hidden) rowspan=(report.modes.len()) {
                                (validity::error_not_shown(&report.untrusted_oracle))
                            }
                        }
                    }
                }
            }
        }
    };
    scrolling(label, &table)
}

fn change_section(baseline: &Baseline) -> Markup {
    let table = html! {
        table.changes {
            thead { tr { @for head in changes::HEADS { th scope="col" { (head) } } } }
            tbody {
                @for [mode, rest @ ..] in changes::rows(baseline) {
                    tr { th scope="row" { (mode) } @for cell in rest { td { (cell) } } }
                }
            }
        }
    };
    html! {
        h2 { (changes::title(baseline)) }
        @if let Some(caution) = changes::caution(baseline) { p.void { (caution) } }
        @if let Some(percent) = judge::machine_change(baseline) {
            p { strong { (changes::machine(percent)) } }
        }
        (scrolling("Changes since the baseline", &table))
        p { (changes::NOISE) }
    }
}

fn market_section(cost: &MarketCost, valid: bool) -> Markup {
    let table = html! {
        table {
            (heads("quotes made from data", &MARKET))
            tbody {
                @for row in &cost.rows {
                    tr {
                        th scope="row" { (row.label) }
                        @for column in &MARKET { td { ((column.cell)(row, &cost.rows[0])) } }
                    }
                }
            }
        }
    };
    html! {
        h2 { (market::TITLE) }
        p { (market::method(cost)) }
        (scrolling(market::TITLE, &table))
        @if valid {
            @for finding in judge::market_findings(cost) { p.finding { (finding) } }
        }
    }
}

fn definitions() -> Markup {
    html! {
        h2 { "The dataflows" }
        dl {
            @for mode in DataflowMode::ALL {
                dt { (mode) }
                dd { (mode.profile().how_it_works) }
            }
        }
        h2 { "The columns" }
        dl {
            @for column in FIGURES.iter().chain(&CAPACITIES) {
                dt {
                    (column.title())
                    @if !column.unit.is_empty() { ", " (column.unit) }
                }
                dd { (column.meaning) }
            }
        }
    }
}

fn circumstances(report: &CompareReport) -> Markup {
    let (cpus, memory) = (report.machine.cpus, report.machine.memory_gib);
    let unknown = || UNKNOWN.to_owned();
    html! {
        h2 { "This run" }
        dl.facts {
            dt { "started" } dd { (report.started_at) }
            dt { "commit" } dd { (report.git.as_deref().unwrap_or(UNKNOWN)) }
            dt { "processors" } dd { (cpus.map_or_else(unknown, |cpus| cpus.to_string())) }
            dt { "memory" } dd { (memory.map_or_else(unknown, |gib| format!("{gib} GiB"))) }
            dt { "CPU steal" } dd { (validity::steal_by_phase(&report.steal)) }
            dt { "format" } dd { (report.schema) }
        }
    }
}

const STYLE: &str = "
:root {
  --text: #1c2127; --quiet: #5b6470; --paper: #ffffff; --line: #d5dae0; --shade: #f3f5f7;
  --void: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e4e8ec; --quiet: #9aa4af; --paper: #14181d; --line: #343b44; --shade: #1d232a;
    --void: #ff8a80; }
}
body { margin: 0; background: var(--paper); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; max-width: 46rem; }
.scroll { overflow-x: auto; margin: 1.25rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; font-size: .85rem; font-weight: 600; background: var(--shade); }
thead small { display: block; font-weight: 400; color: var(--quiet); white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
thead th:first-child { background: var(--shade); }
td { white-space: nowrap; }
.changes :is(th, td):is(:nth-child(2), :last-child) { text-align: left; }
.finding { font-weight: 600; margin: .5rem 0; }
.untrusted { white-space: normal; text-align: left; min-width: 14rem; color: var(--void); }
.warning { color: var(--quiet); margin: .5rem 0; }
.void { border: 2px solid var(--void); border-radius: .4rem; padding: .5rem 1rem; margin: 1rem 0; }
.void h2 { color: var(--void); margin: 0; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; max-width: 46rem; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
.facts dt { margin: 0; }
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{example, example_with_series};

    #[test]
    fn page_is_complete_in_itself() {
        let page = render(&example_with_series());
        assert!(page.starts_with("<!DOCTYPE html>"));
        for outside in ["http://", "https://", "<script", "url(", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn void_page_says_so_and_escapes_text() {
        let mut report = example();
        report.valid = false;
        report.void_reasons = vec!["status 503: <b>".to_owned()];
        let page = render(&report);
        assert!(page.contains("VOID"));
        assert!(page.contains("status 503: &lt;b&gt;"));
    }

    #[test]
    fn untrusted_oracle_has_reason_in_its_columns() {
        let mut report = example();
        assert!(!render(&report).contains("td class=\"untrusted\""));
        report.untrusted_oracle = vec!["another city is running".to_owned()];
        let page = render(&report);
        let cell =
            "<td class=\"untrusted\" colspan=\"2\" rowspan=\"3\">The multiplier error is not shown";
        assert!(page.contains(cell), "{page}");
    }
}
