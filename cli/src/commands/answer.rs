//! Reads an answer of price-optimization, or the reason why there is none.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use city::client::{CallError, HttpAnswer};
use serde::Deserialize;

/// The part of an `application/problem+json` that a person reads.
#[derive(Deserialize)]
struct ProblemDetail {
    detail: String,
}

/// The answer of `/readyz`.
#[derive(Deserialize)]
pub(super) struct ReadyzAnswer {
    pub(super) status: String,
    pub(super) dependencies: BTreeMap<String, DependencyStatus>,
}

#[derive(Deserialize)]
pub(super) struct DependencyStatus {
    pub(super) status: String,
    pub(super) needed: bool,
    #[serde(default)]
    pub(super) reason: Option<String>,
}

/// The value that price-optimization at `target` answered with.
///
/// # Errors
/// When nothing answers there, the service refuses, or another program answers.
pub(super) fn read<T: for<'a> Deserialize<'a>>(
    target: &str,
    answer: Result<HttpAnswer, CallError>,
) -> anyhow::Result<T> {
    let answer = answer.with_context(|| {
        format!(
            "no price-optimization answers at {target}: start one with ./surge up, or name it \
             with --target"
        )
    })?;
    if !answer.status.is_success() {
        let problem = answer.json::<ProblemDetail>();
        let reason = problem.map_or_else(|_| answer.excerpt(), |problem| problem.detail);
        bail!("price-optimization at {target}: {reason}");
    }
    answer.json().with_context(|| {
        let excerpt = answer.excerpt();
        format!("{target} is no price-optimization of this version: {excerpt}")
    })
}
