//! `surge mode`: shows or switches the dataflow mode of a running suite.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use city::{
    Client,
    client::{CallError, HttpAnswer},
};
use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;

use crate::{cli::ModeArgs, terminal::say};

/// A switch waits for NATS, which has its own deadline below this.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// The mode in force, as price-optimization tells it.
#[derive(Debug, Deserialize)]
pub(super) struct ModeInForce {
    mode: DataflowMode,
    epoch: u64,
    switched_at: String,
}

#[derive(Serialize)]
struct Switch {
    mode: DataflowMode,
}

/// The part of an `application/problem+json` that a person reads.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

pub(crate) async fn run(args: ModeArgs) -> anyhow::Result<ExitCode> {
    let in_force = match args.mode {
        None => show(&args.target).await?,
        Some(mode) => switch(&args.target, mode).await?,
    };
    say(in_force.sentence());
    Ok(ExitCode::SUCCESS)
}

/// The mode in force at the suite whose price-optimization listens at `target`.
pub(super) async fn show(target: &str) -> anyhow::Result<ModeInForce> {
    let answer = Client::new(CALL_LIMIT).get(&route(target)).await;
    read(target, answer)
}

async fn switch(target: &str, mode: DataflowMode) -> anyhow::Result<ModeInForce> {
    let answer = Client::new(CALL_LIMIT)
        .put(&route(target), &Switch { mode })
        .await;
    read(target, answer)
}

fn route(target: &str) -> String {
    format!("{}/v1/dataflow", target.trim_end_matches('/'))
}

fn read(target: &str, answer: Result<HttpAnswer, CallError>) -> anyhow::Result<ModeInForce> {
    let answer = answer.with_context(|| {
        format!("no price-optimization answers at {target}: start one with ./surge up, or name it with --target")
    })?;
    if !answer.status.is_success() {
        let problem = answer.json::<Problem>();
        let reason = problem.map_or_else(|_| answer.excerpt(), |problem| problem.detail);
        bail!("price-optimization at {target} refuses: {reason}");
    }
    answer
        .json()
        .with_context(|| format!("{target} is no price-optimization: {}", answer.excerpt()))
}

impl ModeInForce {
    pub(super) fn sentence(&self) -> String {
        format!(
            "{} (epoch {}, since {})",
            self.mode, self.epoch, self.switched_at
        )
    }
}
