//! The labels of the answer to a PromQL expression, and whether every metric and label that the
//! expression names exists. Prometheus reports no error: an unknown label matches nothing, and an
//! empty answer is valid.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::{
    label::{METRIC_NAME, MatchOp, Matcher},
    parser::{
        AggregateExpr, BinaryExpr, Call, Expr, LabelModifier, VectorMatchCardinality,
        VectorSelector, token,
    },
};

/// The series of a Prometheus: by metric, the values of each label.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

type Labels = BTreeSet<String>;

/// Labels that a series has only after a failure: to Prometheus an empty label is no label.
const ON_BAD_DAYS: [&str; 1] = ["error_type"];

impl From<Vec<BTreeMap<String, String>>> for Known {
    fn from(series: Vec<BTreeMap<String, String>>) -> Self {
        let mut known = Self::default();
        for mut labels in series {
            let metric = labels.remove(METRIC_NAME).unwrap_or_default();
            let metric = known.0.entry(metric).or_default();
            for (label, value) in labels {
                metric.entry(label).or_default().insert(value);
            }
        }
        // Prometheus makes this series only while a rule fires.
        let alerts = ["alertname", "alertstate", "severity"]
            .map(|label| (label.to_owned(), BTreeSet::new()));
        known.0.insert("ALERTS".to_owned(), alerts.into());
        known
    }
}

/// The check of one expression.
#[derive(Debug)]
pub(super) struct Check<'a> {
    known: &'a Known,
    pub(super) complaints: Vec<String>,
}

impl<'a> Check<'a> {
    pub(super) const fn against(known: &'a Known) -> Self {
        Self {
            known,
            complaints: Vec::new(),
        }
    }

    pub(super) fn complain(&mut self, complaint: impl Into<String>) {
        self.complaints.push(complaint.into());
    }

    /// Checks the expression, and that its answer has these labels.
    pub(super) fn shows(&mut self, expr: &Expr, labels: &[String]) {
        let there = self.labels(expr);
        self.among(labels, &there, "the answer");
    }

    fn among(&mut self, asked: &[String], there: &Labels, of: &str) {
        for label in asked.iter().filter(|label| !there.contains(*label)) {
            self.complain(format!("{of} has no label {label}"));
        }
    }

    /// The labels that the answer has.
    fn labels(&mut self, expr: &Expr) -> Labels {
        match expr {
            Expr::VectorSelector(selector) => self.selected(selector),
            Expr::MatrixSelector(matrix) => self.selected(&matrix.vs),
            Expr::Paren(paren) => self.labels(&paren.expr),
            Expr::Unary(unary) => self.labels(&unary.expr),
            Expr::Subquery(subquery) => self.labels(&subquery.expr),
            Expr::Aggregate(aggregate) => self.aggregated(aggregate),
            Expr::Binary(binary) => self.combined(binary),
            Expr::Call(call) => self.called(call),
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => Labels::new(),
        }
    }

    fn selected(&mut self, selector: &VectorSelector) -> Labels {
        let name = selector.name.as_deref().unwrap_or_default();
        let Some(metric) = self.known.0.get(name) else {
            self.complain(format!("there is no metric {name:?}"));
            return Labels::new();
        };
        for matcher in &selector.matchers.matchers {
            match metric.get(&matcher.name) {
                None if ON_BAD_DAYS.contains(&matcher.name.as_str()) => {}
                None => self.complain(format!("{name} has no label {}", matcher.name)),
                Some(values) if name != "ALERTS" => {
                    for value in wanted(matcher).filter(|value| !values.contains(*value)) {
                        self.complain(format!("{name} has no {}={value:?}", matcher.name));
                    }
                }
                Some(_) => {}
            }
        }
        metric.keys().cloned().collect()
    }

    fn aggregated(&mut self, aggregate: &AggregateExpr) -> Labels {
        let inner = self.labels(&aggregate.expr);
        let keeps_series = [token::T_TOPK, token::T_BOTTOMK].contains(&aggregate.op.id());
        match &aggregate.modifier {
            _ if keeps_series => inner,
            None => Labels::new(),
            Some(LabelModifier::Include(by)) => {
                self.among(&by.labels, &inner, "the aggregated expression");
                by.labels.iter().cloned().collect()
            }
            Some(LabelModifier::Exclude(without)) => {
                self.among(&without.labels, &inner, "the aggregated expression");
                inner
                    .into_iter()
                    .filter(|label| !without.labels.contains(label))
                    .collect()
            }
        }
    }

    fn combined(&mut self, binary: &BinaryExpr) -> Labels {
        let (left, right) = (self.labels(&binary.lhs), self.labels(&binary.rhs));
        let Some(modifier) = &binary.modifier else {
            return if left.is_empty() { right } else { left };
        };
        if let Some(matching) = &modifier.matching {
            self.among(&matching.labels().labels, &left, "the left side");
            self.among(&matching.labels().labels, &right, "the right side");
        }
        match &modifier.card {
            VectorMatchCardinality::ManyToOne(more) => {
                self.among(&more.labels, &right, "the right side");
                left.into_iter()
                    .chain(more.labels.iter().cloned())
                    .collect()
            }
            VectorMatchCardinality::OneToMany(more) => {
                self.among(&more.labels, &left, "the left side");
                right
                    .into_iter()
                    .chain(more.labels.iter().cloned())
                    .collect()
            }
            VectorMatchCardinality::OneToOne | VectorMatchCardinality::ManyToMany => {
                left.into_iter().chain(right).collect()
            }
        }
    }

    /// Functions keep labels, except these.
    fn called(&mut self, call: &Call) -> Labels {
        let arguments: Labels = call
            .args
            .args
            .iter()
            .flat_map(|argument| self.labels(argument))
            .collect();
        match call.func.name {
            "histogram_quantile" => {
                self.among(&["le".to_owned()], &arguments, "the argument of a quantile");
                arguments
                    .into_iter()
                    .filter(|label| label != "le")
                    .collect()
            }
            "vector" | "scalar" | "time" => Labels::new(),
            _ => arguments,
        }
    }
}

/// The values that must exist for this matcher; none if it is a pattern or excludes values.
fn wanted(matcher: &Matcher) -> impl Iterator<Item = &str> {
    let is_pattern = matcher
        .value
        .contains(['.', '*', '+', '[', '(', '^', '$', '\\']);
    let values = match matcher.op {
        MatchOp::Equal => vec![matcher.value.as_str()],
        MatchOp::Re(_) if !is_pattern => matcher.value.split('|').collect(),
        _ => Vec::new(),
    };
    // A label that is empty and one that is missing are the same.
    values.into_iter().filter(|value| !value.is_empty())
}
