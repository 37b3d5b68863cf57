//! `surge up`: the stack, kept running until Ctrl-C.

use std::{collections::BTreeSet, env, path::PathBuf, process::ExitCode, time::Duration};

use city::Target;
use platform::sampling::Sampler;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::INTERRUPTED;
use crate::{
    cli::UpArgs,
    interrupts::Interrupts,
    stack::{EXAMPLE_TRIP, Stack, StackSettings},
    terminal::{complain, heading, new_york, note, say},
};

/// How often the command looks for processes that have ended.
const LOOK_EVERY: Duration = Duration::from_millis(250);

pub(crate) async fn run(args: UpArgs, state_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let interrupts = Interrupts::listen()?;
    let mut settings = args.stack.settings(state_dir)?;
    settings.demand_profile.clone_from(&args.replay.profile);
    settings.service_area = args.replay.service_area;
    settings.city = args.city.then(|| args.replay.command_line());
    let Some(mut stack) = start(settings, &args.stack.obeyed, &interrupts).await? else {
        return Ok(INTERRUPTED.into());
    };
    announce(&stack)?;
    if args.city {
        say(format_args!(
            "  city       {}/v1/truth  (the right multiplier, supply and demand of every zone)",
            stack.city_url()
        ))?;
        say("  look now   ./surge journey: prices move most in the first three minutes,")?;
        say("             and by more with ./surge up --city --batch-every 15m")?;
    }
    say("Ctrl-C ends it.")?;
    watch(&mut stack, interrupts.end()).await;
    stop(stack, &interrupts).await?;
    Ok(ExitCode::SUCCESS)
}

/// Starts a stack; none if a Ctrl-C comes first.
pub(super) async fn start(
    settings: StackSettings,
    obeyed: &BTreeSet<String>,
    interrupts: &Interrupts,
) -> anyhow::Result<Option<Stack>> {
    note("starting PostgreSQL, NATS, the trace collector, three services and the batch job …");
    note(format_args!(
        "the market starts on {} New York time and runs {} times as fast as life",
        new_york(settings.start),
        settings.speed
    ));
    note(format_args!("traced: {}", Sampler::from_env()?));
    if !obeyed.is_empty() {
        let variables: Vec<String> = obeyed.iter().map(as_set).collect();
        note(format_args!("from your shell: {}", variables.join(" ")));
    }
    let began = Instant::now();
    let stack = tokio::select! {
        stack = Stack::start(settings) => stack?,
        () = interrupts.end().cancelled() => return Ok(None),
    };
    note(format_args!(
        "ready after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    Ok(Some(stack))
}

/// `NAME=value` of a variable of the shell.
fn as_set(name: &String) -> String {
    let value = env::var_os(name).unwrap_or_default();
    format!("{name}={}", value.to_string_lossy())
}

/// Prints the addresses of the stack, each with something to type or to click.
/// # Errors
/// When they cannot be printed.
pub(super) fn announce(stack: &Stack) -> anyhow::Result<()> {
    let Target {
        driver,
        ride,
        price,
    } = stack.target();
    say(heading("Surge is running"))?;
    say(format_args!(
        "  a quote    curl -is {price}/v1/quotes -H 'content-type: application/json' \
         -d '{EXAMPLE_TRIP}'"
    ))?;
    for number in 2..=stack.replicas() {
        if let Some(replica) = stack.target_of(number) {
            let (driver, ride, price) = (replica.driver, replica.ride, replica.price);
            say(format_args!(
                "  replica {number}  {driver}  {ride}  {price}"
            ))?;
        }
    }
    say("  a journey  ./surge journey  (how supply and demand reached a quote, in each mode)")?;
    say(format_args!("  all zones  {price}/v1/surge"))?;
    say(format_args!(
        "  dataflow   {price}/v1/dataflow  (./surge mode events switches)"
    ))?;
    say(format_args!(
        "  try it     {driver}/docs/  {ride}/docs/  {price}/docs/  (OpenAPI)"
    ))?;
    say(format_args!(
        "  traces     {}/  (Jaeger UI; the header trace-id of a traced answer names its trace)",
        stack.traces_url()
    ))?;
    say(format_args!(
        "  logs       {}",
        stack.logs_folder().display()
    ))?;
    Ok(())
}

/// Reports every part that ends by itself, until `end` is cancelled. The rest of the stack goes on.
pub(super) async fn watch(stack: &mut Stack, end: &CancellationToken) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = looks.tick() => stack.failures().iter().for_each(complain),
        }
    }
}

pub(super) async fn stop(stack: Stack, interrupts: &Interrupts) -> anyhow::Result<()> {
    note("stopping … (Ctrl-C once more kills)");
    stack.stop(interrupts.hurry()).await
}
