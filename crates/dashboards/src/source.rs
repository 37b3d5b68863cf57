//! The form of a source file. An unknown key is an error, so that a misspelt one is not ignored.

use serde::Deserialize;

/// A dashboard.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Its address in Grafana; links and bookmarks hold it, so it never changes.
    pub uid: String,
    /// Its title.
    pub title: String,
    /// Its purpose, in a sentence or two.
    pub about: String,
    /// The time that it shows when opened, such as `30m`.
    #[serde(default = "half_an_hour")]
    pub look_back: String,
    /// The choices at its top.
    #[serde(default)]
    pub variables: Vec<Variable>,
    /// Its panels, in rows under headings.
    pub rows: Vec<PanelRow>,
}

/// A choice at the top of a dashboard: any number of values of a label.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Written `$name` in queries, where it is a regular expression.
    pub name: String,
    /// Its title.
    pub title: String,
    /// The metric that has the label.
    pub metric: String,
    /// The label.
    pub label: String,
}

/// Panels that belong together.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PanelRow {
    /// Their heading.
    pub title: String,
    /// From left to right, and then from top to bottom.
    pub panels: Vec<Panel>,
}

/// A picture of one or a few queries.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// What the panel shows and what that means; behind the small i in Grafana.
    pub about: String,
    /// How it is drawn.
    #[serde(default)]
    pub kind: PanelKind,
    /// Grafana's name of the unit: `s`, `reqps`, `percentunit`, `short`, `bytes`, …
    #[serde(default)]
    pub unit: String,
    /// How much of the 24 columns it takes.
    #[serde(default = "half")]
    pub width: u32,
    /// Its height, in Grafana's units of 30 pixels.
    #[serde(default = "eight")]
    pub height: u32,
    /// Whether the axis is logarithmic: where modes differ by orders of magnitude.
    #[serde(default)]
    pub log: bool,
    /// What should not be exceeded: drawn as a dashed line, or as the value from which on a figure
    /// is red.
    pub limit: Option<f64>,
    /// What a value should not fall below, instead.
    pub floor: Option<f64>,
    /// The top of the axis, where there is a natural one.
    pub max: Option<f64>,
    /// Whether traces are shown as dots on the lines, to be opened in Jaeger; for queries over
    /// histograms that have them.
    #[serde(default)]
    pub exemplars: bool,
    /// What a figure says when there is nothing, such as `no quotes`.
    pub nothing: Option<String>,
    /// Words for values, for states: `{ 0 = "", 1 = "in force" }`.
    #[serde(default)]
    pub words: std::collections::BTreeMap<String, String>,
    /// What is asked of Prometheus.
    pub queries: Vec<Query>,
}

/// How a panel is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PanelKind {
    /// Lines over time.
    #[default]
    Lines,
    /// Areas over time, each upon the one before.
    Areas,
    /// The figure of now, with its course in the background.
    Figure,
    /// A bar for each series, as of now.
    Bars,
    /// States over time.
    States,
    /// A row for each series, as of now, with a column for each query.
    Table,
}

/// A query and what its series are called.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// PromQL.
    pub expr: String,
    /// The name of its series, with labels in double braces: `{{dataflow}}`. In a table, the
    /// heading of its column.
    pub legend: String,
}

fn half_an_hour() -> String {
    "30m".into()
}

const fn half() -> u32 {
    12
}

const fn eight() -> u32 {
    8
}
