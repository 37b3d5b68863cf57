//! Shared by the tests of this crate: a folder for a stack, the command, and waiting for a
//! condition.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use rustix::process::{Pid, test_kill_process};
use surge::{Ports, StackSettings};
use tempfile::TempDir;

/// Enough for a debug build on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(10);

/// The command under test.
pub(crate) const SURGE: &str = env!("CARGO_BIN_EXE_surge");

/// The folder of the project, where the command is run.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A folder for one stack, which the account of PostgreSQL can reach; the end of the test removes
/// it.
pub(crate) fn state_folder() -> io::Result<TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    Ok(folder)
}

/// Stacks may run beside each other, but not beside one that is measured.
static MACHINE: RwLock<()> = RwLock::new(());

/// A [`state_folder`] and, until the test ends, the right to run its stack.
pub(crate) struct Place<Turn> {
    folder: TempDir,
    _turn: Turn,
}

impl<Turn> Place<Turn> {
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// For a stack that others may run beside.
pub(crate) fn beside_others() -> io::Result<Place<RwLockReadGuard<'static, ()>>> {
    Ok(Place {
        _turn: MACHINE.read().unwrap_or_else(PoisonError::into_inner),
        folder: state_folder()?,
    })
}

/// For a stack that is measured, once no other runs.
pub(crate) fn alone() -> io::Result<Place<RwLockWriteGuard<'static, ()>>> {
    Ok(Place {
        _turn: MACHINE.write().unwrap_or_else(PoisonError::into_inner),
        folder: state_folder()?,
    })
}

/// A stack on free ports, beside other stacks on this machine.
pub(crate) fn stack_in(folder: &Path) -> StackSettings {
    StackSettings {
        state_dir: folder.to_owned(),
        executable: Some(SURGE.into()),
        ports: Ports::Free,
        demand_profile: project().join(surge::DEMAND_PROFILE),
        ..StackSettings::default()
    }
}

/// The command in the project folder, with its state in this folder.
pub(crate) fn surge(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(SURGE);
    command
        .args(arguments)
        .current_dir(project())
        .env("SURGE_STATE_DIR", folder)
        .env_remove("SURGE_PORT_BASE")
        .env_remove("SURGE_TARGET");
    command
}

/// All that a command printed.
pub(crate) fn text(output: &Output) -> String {
    let printed = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&printed).into_owned()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let pid = Pid::from_raw(i32::try_from(pid).expect("Linux pids are small"));
    test_kill_process(pid.expect("nobody has pid 0")).is_ok()
}

/// Waits until a condition holds.
///
/// # Panics
/// If it does not hold in time.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(POLL);
    }
}
