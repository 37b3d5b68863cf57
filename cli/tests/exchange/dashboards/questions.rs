//! The queries of the dashboards, as Grafana gets them, and of the rules, as Prometheus reads them.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use promql_parser::parser;
use serde_json::Value;

use super::labels::{Check, Known};
use crate::stack_support::project;

/// Values of Grafana's variables, for a Prometheus that scrapes every second.
const VARIABLES: [(&str, &str); 5] = [
    ("$__rate_interval", "10s"),
    ("$__interval", "10s"),
    ("$__range", "5m"),
    ("$service", ".*"),
    ("$zone", ".*"),
];

/// An expression, and the use of its answer.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The panel or rule.
    pub(super) at: String,
    /// PromQL, without Grafana's variables.
    pub(super) expr: String,
    /// Labels in a legend or in the text of an alert.
    pub(super) shown: Vec<String>,
    /// Whether it also asks for exemplars.
    pub(super) exemplars: bool,
    /// Whether an empty answer is normal.
    pub(super) may_be_empty: bool,
}

impl Question {
    pub(super) fn new(at: String, expr: &str, words: &str) -> Self {
        let plain = VARIABLES
            .iter()
            .fold(expr.to_owned(), |expr, (variable, value)| {
                expr.replace(variable, value)
            });
        Self {
            at,
            expr: plain,
            shown: labels_in(words),
            exemplars: false,
            may_be_empty: false,
        }
    }

    /// The errors in it, given all series.
    pub(super) fn check(&self, known: &Known) -> Vec<String> {
        let mut check = Check::against(known);
        match parser::parse(&self.expr) {
            Ok(expr) => check.shows(&expr, &self.shown),
            Err(error) => check.complain(error),
        }
        let complaints = check.complaints.into_iter();
        complaints
            .map(|complaint| format!("{}: {complaint} in {}", self.at, self.expr))
            .collect()
    }
}

/// Every query of every dashboard; those of one panel follow each other.
pub(super) fn of_dashboards() -> anyhow::Result<Vec<Question>> {
    let mut questions = Vec::new();
    let mut files: Vec<PathBuf> = fs::read_dir(grafana("dashboards"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()?;
    files.sort();
    for file in files {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        questions.extend(of_dashboard(&dashboard).with_context(|| file.display().to_string())?);
    }
    Ok(questions)
}

fn of_dashboard(dashboard: &Value) -> anyhow::Result<Vec<Question>> {
    let title = text(dashboard, "title")?;
    let mut questions = Vec::new();
    for annotation in items(&dashboard["annotations"]["list"]) {
        let at = format!("{title} / {}", text(annotation, "name")?);
        let mut asked = Question::new(at, text(annotation, "expr")?, "");
        asked.may_be_empty = true;
        questions.push(asked);
    }
    for variable in items(&dashboard["templating"]["list"]) {
        let at = format!("{title} / ${}", text(variable, "name")?);
        let definition = text(variable, "definition")?;
        let (metric, label) = definition
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')')?.split_once(", "))
            .with_context(|| format!("{at}: {definition}"))?;
        questions.push(Question::new(at, metric, &format!("{{{{{label}}}}}")));
    }
    for panel in items(&dashboard["panels"]) {
        for target in items(&panel["targets"]) {
            let at = format!("{title} / {}", text(panel, "title")?);
            let legend = text(target, "legendFormat")?;
            let mut asked = Question::new(at, text(target, "expr")?, legend);
            asked.exemplars = target["exemplar"] == true;
            questions.push(asked);
        }
    }
    Ok(questions)
}

/// The label in which Grafana expects the id of a trace.
pub(super) fn exemplar_label() -> anyhow::Result<String> {
    let sources = fs::read_to_string(grafana("provisioning/datasources/surge.yml"))?;
    let after = sources.split_once("exemplarTraceIdDestinations:");
    let name = after.and_then(|(_, rest)| rest.split_once("- name: ")?.1.lines().next());
    Ok(name
        .context("no exemplarTraceIdDestinations")?
        .trim()
        .to_owned())
}

fn grafana(path: &str) -> PathBuf {
    project().join("observability/grafana").join(path)
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    value[key]
        .as_str()
        .with_context(|| format!("no {key} in {value}"))
}

/// The labels of a legend (`{{zone}}`) or of an alert's text (`{{ $labels.zone }}`).
fn labels_in(words: &str) -> Vec<String> {
    let inside = words
        .split("{{")
        .skip(1)
        .filter_map(|rest| rest.split("}}").next());
    inside
        .map(str::trim)
        .filter(|inside| !inside.starts_with("$value"))
        .map(|inside| inside.trim_start_matches("$labels.").to_owned())
        .collect()
}
