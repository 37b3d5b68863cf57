//! Child processes that end with their parent, even if the parent gets SIGKILL.
//!
//! Linux sends a child its "parent death signal" when the *thread* that forked it ends, not the
//! process. A child forked by a tokio blocking thread or a test thread would therefore die some
//! time later. So one thread that lives as long as the process forks every child. Other systems
//! have no such signal: there only a dropped handle or [`crate::sweep_stale`] ends the child.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;

/// A local stack starts about ten processes: if far more wait at once, the thread is stuck.
const WAITING_ORDERS: usize = 64;

/// Fork and exec take a millisecond; a program on a hung network disk may never start.
const DEADLINE: Duration = Duration::from_secs(10);

/// Starts the command so that it gets SIGTERM when this process ends in any way.
///
/// The child has its own process group: Ctrl-C in a terminal reaches this process only, which then
/// stops its children in order. The handle is a plain [`Child`]: dropping it does not end the
/// process.
///
/// # Errors
/// The error of the operating system, or `TimedOut` after 10 s.
pub fn spawn_tied(command: Command) -> io::Result<Child> {
    spawn_tied_with(command, Signal::TERM)
}

/// The same with the signal that makes this program end quickly and cleanly.
pub(crate) fn spawn_tied_with(mut command: Command, on_parent_death: Signal) -> io::Result<Child> {
    command.process_group(0);
    tie_to_parent(&mut command, on_parent_death);
    let (answer, answered) = sync_channel(0);
    let full = || {
        io::Error::new(
            io::ErrorKind::WouldBlock,
            "too many processes are being started at once",
        )
    };
    spawner()?
        .try_send(Order { command, answer })
        .map_err(|_| full())?;
    answered
        .recv_timeout(DEADLINE)
        .map_err(|error| io::Error::new(io::ErrorKind::TimedOut, error))?
}

struct Order {
    command: Command,
    answer: SyncSender<io::Result<Child>>,
}

/// The spawning thread, a static because the operating system's rule is about threads of a process.
fn spawner() -> io::Result<SyncSender<Order>> {
    static SPAWNER: Mutex<Option<SyncSender<Order>>> = Mutex::new(None);
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(orders) = &*spawner {
        return Ok(orders.clone());
    }
    let (orders, inbox) = sync_channel(WAITING_ORDERS);
    thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(move || serve(&inbox))?;
    Ok(spawner.insert(orders).clone())
}

fn serve(inbox: &Receiver<Order>) {
    for mut order in inbox {
        let started = order.command.spawn();
        if let Err(unread) = order.answer.send(started) {
            end(unread.0);
        }
    }
}

/// Ends a child whose caller does not wait any more.
fn end(started: io::Result<Child>) {
    let ended = started.and_then(|mut child| child.kill().and_then(|()| child.wait()));
    if let Err(error) = ended {
        tracing::warn!(%error, "a process that started too late may still run");
    }
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "only code between fork and exec can tie a child to its parent's life"
)]
fn tie_to_parent(command: &mut Command, signal: Signal) {
    use rustix::process::{getpid, getppid, set_parent_process_death_signal};

    let parent = getpid();
    let tie = move || {
        set_parent_process_death_signal(Some(signal))?;
        // A parent that died before the line above sends no signal any more.
        if getppid() == Some(parent) {
            Ok(())
        } else {
            Err(rustix::io::Errno::SRCH.into())
        }
    };
    // SAFETY: the closure makes two system calls, allocates nothing and takes no lock, which is
    // all that is allowed in the forked child of a process with threads.
    unsafe { command.pre_exec(tie) };
}

#[cfg(not(target_os = "linux"))]
fn tie_to_parent(_command: &mut Command, _signal: Signal) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn child_outlives_the_requesting_thread() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let asking_thread = thread::spawn(|| {
            let own_entry =
                std::fs::read_link("/proc/thread-self").expect("Linux names the thread here");
            (
                spawn_tied(command).expect("sleep is installed"),
                std::path::Path::new("/proc").join(own_entry),
            )
        });
        let (mut child, thread_entry) = asking_thread.join().unwrap();
        // The kernel removes the entry after it has sent the death signals, `join` may return
        // before.
        let deadline = std::time::Instant::now() + DEADLINE;
        while thread_entry.exists() {
            assert!(
                std::time::Instant::now() < deadline,
                "the joined thread does not end"
            );
            thread::yield_now();
        }
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn missing_program_is_an_error() {
        let error = spawn_tied(Command::new("/no/such/program")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
