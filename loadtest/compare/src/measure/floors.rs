//! Starts the floors, the bare servers to which the modes are compared, each as a process of this
//! same executable.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use private_servers::with_known_environment;
use surge_proto::{DataflowMode, FloorKind};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

#[derive(Debug)]
pub(crate) struct FloorProcess {
    /// Where it answers quotes.
    pub(crate) url: String,
    processes: Vec<Child>,
}

impl FloorProcess {
    /// Starts the floor of `mode` and waits until it answers.
    ///
    /// # Errors
    /// Why it cannot start here, such as that PostgreSQL is not installed.
    pub(crate) async fn of(mode: DataflowMode) -> anyhow::Result<Self> {
        match mode.profile().floor {
            FloorKind::Http => Self::alone(&["http"]).await,
            FloorKind::SqlRow => Self::alone(&["sql-row"]).await,
            FloorKind::RpcFanout => Self::rpc_fanout().await,
        }
    }

    async fn alone(arguments: &[&str]) -> anyhow::Result<Self> {
        let (process, url) = start(arguments).await?;
        Ok(Self {
            url,
            processes: vec![process],
        })
    }

    async fn rpc_fanout() -> anyhow::Result<Self> {
        let (supply, supply_url) = start(&["rpc-callee"]).await?;
        let (demand, demand_url) = start(&["rpc-callee"]).await?;
        let (fanout, url) = start(&[
            "rpc-fanout",
            "--supply-url",
            &supply_url,
            "--demand-url",
            &demand_url,
        ])
        .await?;
        Ok(Self {
            url,
            processes: vec![fanout, supply, demand],
        })
    }

    /// Ends its processes, and kills those that do not end by themselves.
    pub(crate) async fn stop(self) {
        for mut process in self.processes {
            drop(process.stdin.take());
            if timeout(STOP_LIMIT, process.wait()).await.is_err() {
                // Best effort: it dies with this process at the latest.
                let _ = process.kill().await;
            }
        }
    }
}

/// A private PostgreSQL starts in a second; a busy machine gets twenty times that.
const START_LIMIT: Duration = Duration::from_secs(20);

const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Starts one bare server; it ends when its standard input does, that is with this process at the
/// latest.
async fn start(arguments: &[&str]) -> anyhow::Result<(Child, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    with_known_environment(command.as_std_mut(), &["FLOOR_DATABASE_URL"]);
    let mut process = command
        .arg("floor")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Out of reach of a Ctrl-C on this terminal: it must clean up first.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let out = process.stdout.take().context("standard output is piped")?;
    let mut line = String::new();
    let mut lines = BufReader::new(out);
    timeout(START_LIMIT, lines.read_line(&mut line))
        .await
        .with_context(|| format!("not ready within {START_LIMIT:?}"))??;
    match line.trim_end() {
        "" => bail!(its_error(process).await),
        url => Ok((process, url.to_owned())),
    }
}

async fn its_error(mut process: Child) -> String {
    let mut message = String::new();
    if let Some(stderr) = &mut process.stderr {
        // An unreadable message is as good as none.
        let _ = timeout(STOP_LIMIT, stderr.read_to_string(&mut message)).await;
    }
    let message = message.trim();
    if message.is_empty() {
        "it ended without an error message".to_owned()
    } else {
        message.to_owned()
    }
}
