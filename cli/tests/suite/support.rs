//! What the tests of this crate share: a folder for a stack of their own, the command itself, and
//! waiting for things to come true.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use rustix::process::{Pid, test_kill_process};
use surge::{Ports, StackSettings};
use tempfile::TempDir;

/// A debug build on a busy machine; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(10);

/// The command under test.
pub(crate) const SURGE: &str = env!("CARGO_BIN_EXE_surge");

/// The folder of the project, where the command is run.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A folder for one stack, reachable for the account that PostgreSQL runs under, gone at the end of
/// the test.
pub(crate) fn state_folder() -> io::Result<TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    Ok(folder)
}

/// A stack beside whatever else runs on this machine.
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

/// Waits until it is so.
///
/// # Panics
/// When it is not so in time.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(POLL);
    }
}
