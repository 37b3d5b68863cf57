//! `surge ready URL`: asks one service whether it is ready. The container image, which has neither
//! a shell nor curl, uses it as its health check.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use city::Client;

use crate::cli::ReadyArgs;

/// A service gives each of its dependencies half a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: ReadyArgs) -> anyhow::Result<ExitCode> {
    let url = format!("{}/readyz", args.url.trim_end_matches('/'));
    let answer = Client::new(ANSWER_LIMIT).get(&url).await;
    let answer = answer.with_context(|| url.clone())?;
    ensure!(
        answer.status.is_success(),
        "{url} answers {}: {}",
        answer.status,
        answer.excerpt()
    );
    Ok(ExitCode::SUCCESS)
}
