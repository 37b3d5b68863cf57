//! `surge mode`: shows or switches the dataflow mode of a running suite.

use std::{path::Path, process::ExitCode, time::Duration};

use city::Client;
use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;

use super::answer::read;
use crate::{cli::ModeArgs, stack::meant, terminal::say};

/// A switch waits for NATS, which has its own deadline below this.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// The mode in force, as price-optimization reports it.
#[derive(Debug, Deserialize)]
pub(super) struct DefaultMode {
    mode: DataflowMode,
    epoch: u64,
    switched_at: String,
}

#[derive(Serialize)]
struct Switch {
    mode: DataflowMode,
}

pub(crate) async fn run(args: ModeArgs, state_dir: &Path) -> anyhow::Result<ExitCode> {
    let target = match args.target {
        Some(target) => target,
        None => meant::price_urls(state_dir)?.swap_remove(0),
    };
    let in_force = match args.mode {
        None => show(&target).await?,
        Some(mode) => switch(&target, mode).await?,
    };
    say(in_force.sentence())?;
    Ok(ExitCode::SUCCESS)
}

/// The mode in force at the suite whose price-optimization listens at `target`.
pub(super) async fn show(target: &str) -> anyhow::Result<DefaultMode> {
    let answer = Client::new(CALL_LIMIT).get(&route(target)).await;
    read(target, answer)
}

async fn switch(target: &str, mode: DataflowMode) -> anyhow::Result<DefaultMode> {
    let answer = Client::new(CALL_LIMIT)
        .put(&route(target), &Switch { mode })
        .await;
    read(target, answer)
}

fn route(target: &str) -> String {
    format!("{}/v1/dataflow", target.trim_end_matches('/'))
}

impl DefaultMode {
    pub(super) fn sentence(&self) -> String {
        format!(
            "{} (epoch {}, since {})",
            self.mode, self.epoch, self.switched_at
        )
    }
}
