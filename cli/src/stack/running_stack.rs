//! How other commands find a running stack: a lock and a small file in its state folder.
//!
//! ```text
//! .surge/lock         held by the process of the stack; the kernel releases it at any kind of end
//! .surge/stack.json   ports and pids, no secret; valid only while the lock is held
//! ```
//!
//! Pids alone would not do: a killed stack leaves its file behind, and another process may get its
//! pid.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use strict_serde::Strict;

use compare::whole_file;

use super::{Member, PortMap, ports::url};

/// How long to wait for the lock: a stack holds it for its life, a command that looks for a stack
/// for microseconds.
const LOOK_LIMIT: Duration = Duration::from_millis(200);

const POLL: Duration = Duration::from_millis(5);

/// A stack that runs on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningStack {
    /// The process of the stack.
    pub pid: u32,
    /// Where everything listens.
    pub ports: PortMap,
    /// Every process with its pid, behind those it depends on.
    pub parts: Vec<(Member, Option<u32>)>,
    /// Folder of the log files.
    pub logs: PathBuf,
}

/// The lock on the state folder; dropping it removes the record too.
#[derive(Debug)]
pub(super) struct FolderLock {
    record: PathBuf,
    _lock: File,
}

impl RunningStack {
    /// The stack that runs in this folder, if one does.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn find(state_dir: &Path) -> anyhow::Result<Option<Self>> {
        if !is_locked(state_dir)? {
            return Ok(None);
        }
        let path = record_path(state_dir);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_slice(&text)
            .map(|Strict(stack)| Some(stack))
            .with_context(|| format!("{} is of another version", path.display()))
    }

    /// Base URL of the first price-optimization.
    pub fn price_url(&self) -> String {
        url(self.ports.http[2][0])
    }

    /// Base URLs of every price-optimization: each knows only its own quotes.
    pub fn price_urls(&self) -> Vec<String> {
        self.ports.http[2].iter().copied().map(url).collect()
    }
}

impl FolderLock {
    /// Locks the folder for this process and makes it if it is missing.
    pub(super) fn take(state_dir: &Path) -> anyhow::Result<Self> {
        let mut folder = fs::DirBuilder::new();
        // PostgreSQL may run under another account and must be able to pass through.
        folder.recursive(true).mode(0o711);
        folder
            .create(state_dir)
            .with_context(|| format!("cannot create {}", state_dir.display()))?;
        let lock = private_file(&lock_path(state_dir))
            .with_context(|| format!("cannot open the lock in {}", state_dir.display()))?;
        let taken = lock_within_limit(&lock)
            .with_context(|| format!("cannot lock the folder {}", state_dir.display()))?;
        if !taken {
            bail!(
                "a stack runs already in {}: see ./surge status, and end it with Ctrl-C in its \
                 terminal",
                state_dir.display()
            );
        }
        let lock = Self {
            record: record_path(state_dir),
            _lock: lock,
        };
        lock.withdraw()?;
        Ok(lock)
    }

    /// Lets other commands find the stack. They read the old record or the new one, never half of
    /// one.
    pub(super) fn publish(&self, record: &RunningStack) -> anyhow::Result<()> {
        whole_file::replace_private(&self.record, &serde_json::to_vec_pretty(record)?)
    }

    /// Removes the record: at the end this stack's, at the start that of a killed stack.
    fn withdraw(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.record.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if let Err(error) = self.withdraw() {
            tracing::warn!("{error:#}");
        }
    }
}

/// Whether a stack holds the lock of this folder. This takes a shared lock, so that two commands
/// that look do not mistake each other for a stack.
fn is_locked(state_dir: &Path) -> anyhow::Result<bool> {
    let path = lock_path(state_dir);
    let look = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        lock => lock.and_then(|lock| match lock.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }),
    };
    look.with_context(|| format!("cannot look at the lock {}", path.display()))
}

/// Takes the lock, unless another process holds it for longer than [`LOOK_LIMIT`].
fn lock_within_limit(lock: &File) -> io::Result<bool> {
    let deadline = Instant::now() + LOOK_LIMIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(POLL),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn lock_path(state_dir: &Path) -> PathBuf {
    state_dir.join("lock")
}

fn record_path(state_dir: &Path) -> PathBuf {
    state_dir.join("stack.json")
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::stack::{Part, Ports};

    fn record(pid: u32) -> RunningStack {
        RunningStack {
            pid,
            ports: Ports::Free.reserve(1, 1).unwrap().map,
            parts: vec![(Part::Nats.into(), Some(7)), (Part::Batch.into(), None)],
            logs: "logs".into(),
        }
    }

    #[test]
    fn published_stack_is_found_until_unlocked() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        assert_eq!(RunningStack::find(folder.path()).unwrap(), None);

        let record = record(std::process::id());
        lock.publish(&record).unwrap();
        assert_eq!(RunningStack::find(folder.path()).unwrap(), Some(record));
        let mode = fs::metadata(record_path(folder.path())).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);

        drop(lock);
        assert_eq!(RunningStack::find(folder.path()).unwrap(), None);
    }

    #[test]
    fn folder_is_locked_once() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        let refused = FolderLock::take(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("runs already"), "{refused}");
        drop(lock);
        assert!(FolderLock::take(folder.path()).is_ok());
    }

    #[test]
    fn record_without_lock_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let lock = FolderLock::take(folder.path()).unwrap();
        lock.publish(&record(std::process::id())).unwrap();
        // A killed stack loses its lock and leaves its record behind.
        let left_behind = fs::read(record_path(folder.path())).unwrap();
        drop(lock);
        fs::write(record_path(folder.path()), left_behind).unwrap();
        assert_eq!(RunningStack::find(folder.path()).unwrap(), None);

        let _starting = FolderLock::take(folder.path()).unwrap();
        assert_eq!(
            RunningStack::find(folder.path()).unwrap(),
            None,
            "the next stack has not published its record yet"
        );
    }

    #[test]
    fn look_at_folder_lets_stack_start() {
        let folder = tempfile::tempdir().unwrap();
        drop(FolderLock::take(folder.path()).unwrap());
        let look = File::open(lock_path(folder.path())).unwrap();
        look.lock_shared().unwrap();
        let starting = thread::scope(|scope| {
            let starting = scope.spawn(|| FolderLock::take(folder.path()).map(drop));
            drop(look);
            starting.join().unwrap()
        });
        starting.unwrap();
    }
}
