//! `surge demo` starts a stack and compares the dataflows on it; `surge compare` compares them on
//! services that run already.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use city::TargetArgs;

use super::{INTERRUPTED, up};
use crate::{
    cli::DemoArgs,
    interrupts::Interrupts,
    stack::{Stack, meant},
    terminal::{complain, note, say},
};

/// How long an interrupted comparison may take to send its drivers home and to write its report.
const WIND_UP_LIMIT: Duration = Duration::from_secs(15);

pub(crate) async fn run(args: DemoArgs, state_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let interrupts = Interrupts::listen()?;
    let mut settings = args.stack.settings(state_dir)?;
    settings
        .demand_profile
        .clone_from(&args.compare.replay.profile);
    settings.service_area = args.compare.replay.service_area;
    let Some(mut stack) = up::start(settings, &args.stack.obeyed, &interrupts).await? else {
        return Ok(INTERRUPTED.into());
    };
    let outcome = compare_on(&mut stack, args.compare, &interrupts).await;
    if args.stay && !interrupts.end().is_cancelled() {
        stay(&mut stack, &outcome, &interrupts).await?;
    }
    up::stop(stack, &interrupts).await?;
    outcome
}

/// Compares on this stack, and reports parts that end meanwhile.
async fn compare_on(
    stack: &mut Stack,
    mut args: compare::Args,
    interrupts: &Interrupts,
) -> anyhow::Result<ExitCode> {
    let target = stack.target();
    args.target = TargetArgs {
        target: Some(target.price),
        driver_url: Some(target.driver),
        ride_url: Some(target.ride),
        grpc_url: Some(stack.quotes_grpc_url()),
        city_url: Some(stack.city_url()),
    };
    tokio::select! {
        outcome = compare::run_until(args, interrupts.end().clone()) => {
            Ok(outcome?.exit_code().into())
        }
        () = cut_off(stack, interrupts) => Ok(INTERRUPTED.into()),
    }
}

/// Ends when an interrupted comparison takes too long to finish, or at the second Ctrl-C.
async fn cut_off(stack: &mut Stack, interrupts: &Interrupts) {
    up::watch(stack, interrupts.end()).await;
    let hurry = interrupts.hurry().cancelled();
    if tokio::time::timeout(WIND_UP_LIMIT, hurry).await.is_err() {
        note("the comparison does not finish: cutting it off");
    }
}

async fn stay(
    stack: &mut Stack,
    outcome: &anyhow::Result<ExitCode>,
    interrupts: &Interrupts,
) -> anyhow::Result<()> {
    if let Err(error) = outcome {
        complain(format_args!("{error:#}"));
    }
    up::announce(stack)?;
    say("Ctrl-C ends it.")?;
    up::watch(stack, interrupts.end()).await;
    Ok(())
}

pub(crate) async fn compare(mut args: compare::Args, state_dir: &Path) -> anyhow::Result<ExitCode> {
    if args.from.is_none() {
        meant::complete(&mut args.target, state_dir)?;
    }
    Ok(compare::run(args).await?.exit_code().into())
}
