//! One file per subcommand.

mod answer;
mod backtest;
mod costs;
mod demo;
mod doctor;
mod journey;
mod mode;
mod plan;
mod ready;
mod service;
mod status;
mod train;
mod up;

use std::{io, process::ExitCode};

use city::{interrupt::INTERRUPTED, output};
use tracing::Level;

use crate::{
    cli::{Cli, Command},
    stack::meant,
    terminal::complain,
};

/// Runs a subcommand to its exit code: 0 done, 1 failed, 2 misused, 130 interrupted.
pub(crate) fn run(cli: Cli) -> ExitCode {
    // A service has its own runtime and its own telemetry.
    if let Command::Service(args) = cli.command {
        return service::run(args);
    }
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(report(cli)),
        Err(error) => {
            complain(format_args!("cannot start a runtime: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn report(cli: Cli) -> ExitCode {
    show_warnings();
    match dispatch(cli).await {
        Ok(code) => code,
        Err(error) => {
            output::message(&error).iter().for_each(complain);
            compare::exit_code_of(&error).into()
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let state_dir = cli.state_dir;
    match cli.command {
        Command::Demo(args) => demo::run(*args, state_dir).await,
        Command::Up(args) => up::run(args, state_dir).await,
        Command::Costs(args) => costs::run(&args, &state_dir).await,
        Command::Plan(args) => plan::run(&args),
        Command::Status => status::run(&state_dir).await,
        Command::Mode(args) => mode::run(args, &state_dir).await,
        Command::Journey(args) => journey::run(args, &state_dir).await,
        Command::Compare(args) => demo::compare(*args, &state_dir).await,
        Command::City(mut args) => {
            meant::complete(&mut args.target, &state_dir)?;
            city::run(args).await.map(|_| ExitCode::SUCCESS)
        }
        Command::Backtest(args) => backtest::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Floor(floor) => bare_servers::run(floor).await.map(|()| ExitCode::SUCCESS),
        Command::Doctor => doctor::run(&state_dir),
        Command::Ready(args) => ready::run(args).await,
        Command::Service(args) => Ok(service::run(args)),
    }
}

/// Shows the warnings of libraries on the terminal, and nothing less.
fn show_warnings() {
    tracing_subscriber::fmt()
        .with_max_level(Level::WARN)
        .with_writer(io::stderr)
        .without_time()
        .with_target(false)
        .log_internal_errors(false)
        .init();
}
