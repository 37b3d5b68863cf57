//! The life of a service process, the same for all: configuration, telemetry, work until a signal, drain, exit code.

use std::{fmt::Display, future::Future, process::ExitCode};

use clap::Parser;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    config::{self, EXIT_USAGE, Refused},
    shutdown,
    telemetry::Telemetry,
};

/// Who the process is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// `service.name` of its telemetry.
    pub name: &'static str,
    /// `service.version` of its telemetry.
    pub version: &'static str,
}

/// Reads the configuration from `arguments` and the environment, then runs `life` until it ends by itself or by a
/// signal. Exit codes: 0 ended well, 1 failed, 64 was asked for the impossible.
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
    match config::parse(arguments) {
        Ok(config) => live(identity, config, life),
        Err(Refused::Informed(text)) => {
            tell(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(Refused::Mistake(line)) => {
            tell(format_args!("{}: {line}", identity.name));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// [`run`] for a service, whose life has two parts: `start`, which a signal cuts short, and `serve`, which a signal asks to
/// finish what it has begun.
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

fn live<C, F, E>(
    identity: Identity,
    config: C,
    life: impl FnOnce(C, CancellationToken) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(format_args!(
                "{}: cannot start a runtime: {error}",
                identity.name
            ));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let telemetry = match Telemetry::start(identity) {
            Ok(telemetry) => telemetry,
            Err(error) => {
                tell(format_args!("{}: {error}", identity.name));
                return ExitCode::from(EXIT_USAGE);
            }
        };
        let code = until_signal(config, life).await;
        // The exporter flushes with blocking calls.
        let _ = tokio::task::spawn_blocking(|| telemetry.finish()).await;
        code
    })
}

async fn until_signal<C, F, E>(config: C, life: impl FnOnce(C, CancellationToken) -> F) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let ended = match shutdown::on_signal() {
        Ok(token) => life(config, token)
            .await
            .map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("cannot listen for signals: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            error!(error.message = reason, "stopped: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Before telemetry is up, and for `--help`, there is only the terminal.
#[expect(clippy::print_stderr, reason = "telemetry is not up yet")]
fn tell(text: impl Display) {
    eprintln!("{text}");
}
