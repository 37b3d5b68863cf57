//! The report as one web page that needs nothing else: no script, no font, no network. What is drawn is in
//! [`charts`]; here is what is written.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use surge_proto::DataflowMode;

use super::baseline::{Baseline, words};
use super::charts;
use super::market_cost::{self, MarketCost};
use super::report::Report;
use super::stolen::StolenByPhase;
use super::verdict;
use super::wording;
use super::wording::{COLUMNS, Column, LIMITS, LIMITS_TITLE, TITLE, UNKNOWN, done};

/// The whole page.
pub(crate) fn render(report: &Report) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Surge: " (TITLE) }
                style { (PreEscaped(STYLE)) (PreEscaped(charts::style())) }
            }
            body {
                main {
                    (heading(report))
                    (figures(report, &COLUMNS, "Figures of each dataflow"))
                    (notes(report))
                    @if let Some(cost) = &report.market_cost { (market(cost, report.valid)) }
                    @if report.has_capacities() {
                        h2 { (LIMITS_TITLE) }
                        (figures(report, &LIMITS, "Capacity of each dataflow"))
                        @if let Some(generator) = wording::generator(report) { p { (generator) } }
                    }
                    @if let Some(baseline) = &report.baseline { (changes(baseline)) }
                    (charts::all(report))
                    (definitions())
                    (circumstances(report))
                }
            }
        }
    }
    .into_string()
}

fn heading(report: &Report) -> Markup {
    html! {
        h1 { (TITLE) }
        @if !report.valid {
            section.void {
                h2 { "VOID: do not use these figures" }
                ul { @for reason in &report.void_reasons { li { (reason) } } }
                @if let Some(extent) = &report.extent { p { (extent.in_words()) } }
            }
        } @else if !report.is_complete() {
            section.void {
                h2 { "PARTIAL: the run did not come to its end" }
                @if let Some(extent) = &report.extent { p { (extent.in_words()) } }
            }
        }
        @for line in done(report) { p { (line) } }
    }
}

fn figures(report: &Report, columns: &[Column], label: &str) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(label) {
            table {
                thead {
                    tr {
                        th scope="col" { "dataflow" }
                        @for column in columns {
                            th scope="col" {
                                (column.name.replace('\n', " "))
                                @if !column.unit.is_empty() { small { (column.unit) } }
                            }
                        }
                    }
                }
                tbody {
                    @for (mode, figures) in &report.modes {
                        tr {
                            th scope="row" { (mode) }
                            @for column in columns { td { ((column.figure)(figures, report.floors.under(*mode))) } }
                        }
                    }
                }
            }
        }
    }
}

fn changes(baseline: &Baseline) -> Markup {
    html! {
        h2 { (words::title(baseline)) }
        @if let Some(caution) = words::caution(baseline) { p.void { (caution) } }
        @if let Some(machine) = words::machine(baseline) { p { strong { (machine) } } }
        div.scroll tabindex="0" role="region" aria-label="Changes since the baseline" {
            table.changes {
                thead { tr { @for head in words::HEADS { th scope="col" { (head) } } } }
                tbody {
                    @for [mode, rest @ ..] in words::rows(baseline) {
                        tr { th scope="row" { (mode) } @for cell in rest { td { (cell) } } }
                    }
                }
            }
        }
        p { (words::NOISE) }
    }
}

fn market(cost: &MarketCost, valid: bool) -> Markup {
    html! {
        h2 { (market_cost::TITLE) }
        p { (market_cost::done(cost)) }
        div.scroll tabindex="0" role="region" aria-label=(market_cost::TITLE) {
            table {
                thead {
                    tr {
                        th scope="col" { "quotes made from data" }
                        @for column in &market_cost::COLUMNS {
                            th scope="col" title=(column.meaning) {
                                (column.name.replace('\n', " "))
                                small { (column.unit) }
                            }
                        }
                    }
                }
                tbody {
                    @for row in &cost.rows {
                        tr {
                            th scope="row" { (row.label) }
                            @for column in &market_cost::COLUMNS { td { (column.cell(row, &cost.rows[0])) } }
                        }
                    }
                }
            }
        }
        @if valid {
            @for finding in market_cost::findings(cost) { p.finding { (finding) } }
        }
    }
}

fn notes(report: &Report) -> Markup {
    html! {
        @if report.valid {
            @for finding in verdict::findings(report) { p.finding { (finding) } }
        }
        @for warning in &report.warnings { p.warning { "Note: " (warning) } }
    }
}

fn definitions() -> Markup {
    html! {
        h2 { "The dataflows" }
        dl {
            @for mode in DataflowMode::ALL {
                dt { (mode) }
                dd { (how_it_works(mode)) }
            }
        }
        h2 { "The columns" }
        dl {
            @for column in COLUMNS.iter().chain(&LIMITS) {
                dt {
                    (column.name.replace('\n', " "))
                    @if !column.unit.is_empty() { ", " (column.unit) }
                }
                dd { (column.meaning) }
            }
        }
    }
}

const fn how_it_works(mode: DataflowMode) -> &'static str {
    match mode {
        DataflowMode::Database => {
            "Every few minutes a batch job reads what the other services keep in the shared database and writes a \
             table of all zones; the quote reads that table."
        }
        DataflowMode::Request => {
            "The quote asks the two services that know supply and demand, and waits for both of them."
        }
        DataflowMode::Events => {
            "The two services publish every change; the quote reads the copy that price-optimization keeps in memory."
        }
    }
}

fn circumstances(report: &Report) -> Markup {
    let machine = &report.machine;
    let cpus = machine
        .cpus
        .map_or(UNKNOWN.to_owned(), |cpus| cpus.to_string());
    let memory = machine
        .memory_gib
        .map_or(UNKNOWN.to_owned(), |gib| format!("{gib} GiB"));
    html! {
        h2 { "This run" }
        dl.facts {
            dt { "started" } dd { (report.started_at) }
            dt { "commit" } dd { (report.git.as_deref().unwrap_or(UNKNOWN)) }
            dt { "processors" } dd { (cpus) }
            dt { "memory" } dd { (memory) }
            dt { "taken by the hypervisor" } dd { (stolen(&report.stolen)) }
            dt { "format" } dd { (report.schema) }
        }
    }
}

/// What was taken in each phase, "-" where nobody tells.
fn stolen(stolen: &StolenByPhase) -> String {
    let phases = [
        ("warm-up", stolen.warm_up),
        ("measurement", stolen.measurement),
        ("climb", stolen.climb),
        ("capacities", stolen.capacity),
        ("evenings", stolen.market),
    ];
    let known = phases.into_iter().filter_map(|(phase, stolen)| {
        let stolen = stolen?;
        let (mean, worst) = (
            stolen.stolen_share * 100.0,
            stolen.worst_second_share * 100.0,
        );
        Some(format!(
            "{mean:.1} % during {phase} (worst second {worst:.0} %)"
        ))
    });
    let known: Vec<String> = known.collect();
    if known.is_empty() {
        return UNKNOWN.to_owned();
    }
    known.join(", ")
}

const STYLE: &str = "
:root { --ink: #1c2127; --quiet: #5b6470; --paper: #ffffff; --line: #d5dae0; --shade: #f3f5f7; --void: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --quiet: #9aa4af; --paper: #14181d; --line: #343b44; --shade: #1d232a; --void: #ff8a80; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
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
    use crate::report::example;
    use crate::series;

    #[test]
    fn the_page_is_complete_in_itself() {
        let mut report = example();
        report.series = series::example();
        let page = render(&report);
        assert!(page.starts_with("<!DOCTYPE html>"));
        for outside in ["http://", "https://", "<script", "url(", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn the_page_of_a_void_run_says_so_and_escapes_what_services_wrote() {
        let mut report = example();
        report.valid = false;
        report.void_reasons = vec!["status 503: <b>".to_owned()];
        let page = render(&report);
        assert!(page.contains("VOID"));
        assert!(page.contains("status 503: &lt;b&gt;"));
    }
}
