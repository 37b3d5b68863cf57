//! The load test by itself, for containers: `loadtest city` and `loadtest compare`. On a
//! developer's machine the same two are commands of `surge`.

use std::process::ExitCode;

use bare_servers::Floor;
use city::output;
use clap::{Parser, Subcommand};
use compare::ask;

/// Simulates a city on the public APIs of the services, and measures them.
#[derive(Parser)]
#[command(name = "loadtest", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replay real pickups with a fleet of simulated drivers until Ctrl-C
    City(Box<city::Args>),
    /// Compare the three dataflows on the same market at the same moment
    Compare(Box<compare::Args>),
    /// Request quotes of one address at a fixed rate, and print the result as JSON
    Ask(ask::Args),
    /// Serve one of the bare servers, the floors of the modes
    #[command(subcommand, hide = true)]
    Floor(Floor),
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match Cli::try_parse()
        .unwrap_or_else(|refused| output::leave(&refused))
        .command
    {
        Command::City(args) => city::run(*args).await.map(|_| 0),
        Command::Ask(args) => ask::run(args).await,
        Command::Floor(floor) => bare_servers::run(floor).await.map(|()| 0),
        Command::Compare(args) => compare::run(*args).await.map(|outcome| outcome.exit_code()),
    };
    match ended {
        Ok(code) => code.into(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    if let Some(message) = output::message(error) {
        output::note(format_args!("error: {message}"));
    }
    compare::exit_code_of(error).into()
}
