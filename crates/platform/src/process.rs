//! The life of a process, the same for every service and job.
//!
//! ```text
//!  configuration ─▶ telemetry ─▶ work ───────────▶ drain ──────▶ last spans ─▶ exit code
//!   64: wrong        64: wrong    SIGTERM, Ctrl-C   5 s at most                 0 done, 1 failed
//! ```

use std::{
    fmt::Display,
    future::Future,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;
use tokio_util::sync::CancellationToken;
use tracing::error;

pub use crate::identity::Identity;
use crate::{
    config::{self, EXIT_USAGE, Refused},
    shutdown,
    telemetry::Telemetry,
};

/// Reads the configuration from `arguments` and the environment, then runs `life` until it ends by
/// itself or by a signal, which cancels its token. Exit codes: 0 it ended well, 1 it failed, 64 the
/// configuration makes no sense.
pub fn run<C, F, E>(
    identity: Identity,
    arguments: impl IntoIterator<Item = String>,
    life: impl FnOnce(C, CancellationToken) -> F,
) -> ExitCode
where
    C: Parser,
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let config = match config::parse(arguments) {
        Ok(config) => config,
        Err(Refused::Informed(text)) => {
            print(text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(Refused::Mistake(line)) => return refuse(identity, line),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            print(format_args!("{}: no runtime: {error}", identity.name));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let telemetry = match Telemetry::start(identity) {
            Ok(telemetry) => telemetry,
            Err(error) => return refuse(identity, error),
        };
        let outcome = match shutdown::on_signal() {
            Ok(token) => life(config, token)
                .await
                .map_err(|error| format!("{error:#}")),
            Err(error) => Err(format!("cannot listen for signals: {error}")),
        };
        if let Err(reason) = &outcome {
            error!(error.message = reason, "stopped: {reason}");
        }
        // The exporter flushes with blocking calls.
        let _ = tokio::task::spawn_blocking(|| telemetry.finish()).await;
        outcome.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
    })
}

/// [`run`] for a service, whose life has two parts: a signal cuts `start` short, and asks `serve`
/// to finish what it has begun.
pub fn run_service<C, S, F, G, E>(
    identity: Identity,
    arguments: impl IntoIterator<Item = String>,
    start: impl FnOnce(C) -> F,
    serve: impl FnOnce(S, CancellationToken) -> G,
) -> ExitCode
where
    C: Parser,
    F: Future<Output = Result<S, E>>,
    G: Future<Output = Result<(), E>>,
    E: Display,
{
    run(identity, arguments, async |config, token| {
        match token.run_until_cancelled(start(config)).await {
            Some(started) => serve(started?, token).await,
            None => Ok(()),
        }
    })
}

fn refuse(identity: Identity, reason: impl Display) -> ExitCode {
    print(format_args!("{}: {reason}", identity.name));
    ExitCode::from(EXIT_USAGE)
}

/// Before telemetry is up. If nobody can read it, nobody can be informed of that.
fn print(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
