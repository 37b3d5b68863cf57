//! The local stack: it starts, quotes in every mode, survives the death of a part, and leaves
//! nothing behind.

use std::fs;

use crate::support::{PATIENCE, beside_others, is_alive, stack_in, wait_until};
use city::Client;
use surge::{Part, RunningStack, Stack};
use tokio_util::sync::CancellationToken;

type Outcome = anyhow::Result<()>;

#[tokio::test]
async fn stopped_stack_leaves_only_logs() -> Outcome {
    let folder = beside_others()?;
    let stack = Stack::start(stack_in(folder.path())).await?;
    let pids = Part::ALL.map(|part| stack.pid(part).expect("every part runs"));
    assert!(pids.into_iter().all(is_alive));
    assert!(RunningStack::find(folder.path())?.is_some());

    stack.stop(&CancellationToken::new()).await?;

    assert!(!pids.into_iter().any(is_alive));
    let mut left: Vec<_> = fs::read_dir(folder.path())?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?;
    left.sort();
    assert_eq!(left, ["lock", "logs"]);
    Ok(())
}

#[tokio::test]
async fn refuses_second_stack_in_folder() -> Outcome {
    let folder = beside_others()?;
    let stack = Stack::start(stack_in(folder.path())).await?;
    let refused = Stack::start(stack_in(folder.path())).await.unwrap_err();
    assert!(refused.to_string().contains("runs already"), "{refused:#}");
    stack.stop(&CancellationToken::new()).await
}

#[tokio::test]
async fn dead_part_is_reported_and_restarts() -> Outcome {
    let folder = beside_others()?;
    let mut stack = Stack::start(stack_in(folder.path())).await?;
    let ride = stack.target().ride;
    let client = Client::new(PATIENCE);
    assert!(stack.failures().is_empty());

    stack.kill(Part::RideManagement).await;
    assert!(client.get(&format!("{ride}/livez")).await.is_err());
    stack.restart(Part::RideManagement).await?;
    assert_eq!(client.get(&format!("{ride}/livez")).await?.status, 200);

    let nats = stack.pid(Part::Nats).expect("it runs");
    kill_from_outside(nats);
    wait_until("the stack reports the end of NATS", || {
        stack
            .failures()
            .iter()
            .any(|line| line.starts_with("nats ended"))
    });
    assert!(stack.failures().is_empty(), "it is reported once");
    stack.restart(Part::Nats).await?;
    stack.stop(&CancellationToken::new()).await
}

#[tokio::test]
async fn hurried_stop_leaves_nothing_behind() -> Outcome {
    let folder = beside_others()?;
    let stack = Stack::start(stack_in(folder.path())).await?;
    let pids = Part::ALL.map(|part| stack.pid(part).expect("every part runs"));
    let hurry = CancellationToken::new();
    hurry.cancel();
    stack.stop(&hurry).await?;
    assert!(!pids.into_iter().any(is_alive));
    assert!(!folder.path().join("instances").exists());
    Ok(())
}

fn kill_from_outside(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = Pid::from_raw(i32::try_from(pid).expect("Linux pids are small"));
    kill_process(pid.expect("nobody has pid 0"), Signal::KILL).expect("it is our own process");
}
