//! What other commands know of a running stack: a small file with ports and pids, and the lock that
//! makes it the only one in its folder. The file holds no secret. The lock ends with its process,
//! whatever ends it, so it is what counts: a pid may long be somebody else's.

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

use compare::whole_file;

use super::{Member, PortMap, ports::url};

/// A stack holds the lock while it lives; whoever else holds it, only looks for a stack and is gone
/// in microseconds.
const LOOK_LIMIT: Duration = Duration::from_millis(200);

const POLL: Duration = Duration::from_millis(5);

/// A running stack, as `status`, `mode` and `compare` find it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The process that owns the stack, for a person who wants to end it.
    pub pid: u32,
    /// Where everything listens.
    pub ports: PortMap,
    /// Every process with its pid, what is leant on first.
    pub parts: Vec<(Member, Option<u32>)>,
    /// Folder of the log files.
    pub logs: PathBuf,
}

/// The stack's claim on its folder; given up when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    record: PathBuf,
    // Held for its lock alone.
    _lock: File,
}

impl Record {
    /// The stack that runs in this folder, if one does.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn find(state_dir: &Path) -> anyhow::Result<Option<Self>> {
        if !is_claimed(state_dir)? {
            return Ok(None);
        }
        let path = record_path(state_dir);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("{} is of another version", path.display()))
    }

    /// Base URL of the first price-optimization, which stands for the whole suite.
    pub fn price_url(&self) -> String {
        url(self.ports.http[2][0])
    }

    /// Base URLs of every price-optimization, for what each knows alone.
    pub fn price_urls(&self) -> Vec<String> {
        self.ports.http[2].iter().copied().map(url).collect()
    }
}

impl Claim {
    /// Claims the folder, made if missing, for this process.
    pub(super) fn stake(state_dir: &Path) -> anyhow::Result<Self> {
        let mut folder = fs::DirBuilder::new();
        // Servers that run under another account have to pass through.
        folder.recursive(true).mode(0o711);
        folder
            .create(state_dir)
            .with_context(|| format!("cannot create {}", state_dir.display()))?;
        let lock = private_file(&lock_path(state_dir))
            .with_context(|| format!("cannot open the lock in {}", state_dir.display()))?;
        let taken = take(&lock)
            .with_context(|| format!("cannot lock the folder {}", state_dir.display()))?;
        if !taken {
            bail!(
                "a stack runs already in {}: see ./surge status, and end it with Ctrl-C where it runs",
                state_dir.display()
            );
        }
        let claim = Self {
            record: record_path(state_dir),
            _lock: lock,
        };
        claim.withdraw()?;
        Ok(claim)
    }

    /// Lets other commands find the stack. A reader sees the old record or the new one, never half
    /// of one.
    pub(super) fn publish(&self, record: &Record) -> anyhow::Result<()> {
        whole_file::replace_private(&self.record, &serde_json::to_vec_pretty(record)?)
    }

    /// Removes the record: this stack's at its end, or at its start the one that a killed stack
    /// left behind.
    fn withdraw(&self) -> anyhow::Result<()> {
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.record.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = self.withdraw() {
            tracing::warn!("{error:#}");
        }
    }
}

/// Whether a stack holds the lock of this folder. The look is shared, so that two of them do not
/// take each other for a stack.
fn is_claimed(state_dir: &Path) -> anyhow::Result<bool> {
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

/// Takes the lock for good, unless it is held for longer than a look takes.
fn take(lock: &File) -> io::Result<bool> {
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

    fn record(pid: u32) -> Record {
        Record {
            pid,
            ports: Ports::Free.reserve(1, 1).unwrap().map,
            parts: vec![(Part::Nats.into(), Some(7)), (Part::Batch.into(), None)],
            logs: "logs".into(),
        }
    }

    #[test]
    fn a_published_stack_is_found_until_its_claim_ends() {
        let folder = tempfile::tempdir().unwrap();
        let claim = Claim::stake(folder.path()).unwrap();
        assert_eq!(Record::find(folder.path()).unwrap(), None);

        let record = record(std::process::id());
        claim.publish(&record).unwrap();
        assert_eq!(Record::find(folder.path()).unwrap(), Some(record));
        let mode = fs::metadata(record_path(folder.path())).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);

        drop(claim);
        assert_eq!(Record::find(folder.path()).unwrap(), None);
    }

    #[test]
    fn a_folder_is_claimed_once() {
        let folder = tempfile::tempdir().unwrap();
        let claim = Claim::stake(folder.path()).unwrap();
        let refused = Claim::stake(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("runs already"), "{refused}");
        drop(claim);
        assert!(Claim::stake(folder.path()).is_ok());
    }

    #[test]
    fn a_record_without_its_lock_counts_for_nothing_whoever_has_its_pid_now() {
        let folder = tempfile::tempdir().unwrap();
        let claim = Claim::stake(folder.path()).unwrap();
        claim.publish(&record(std::process::id())).unwrap();
        // A stack that is killed leaves its record behind, and its lock goes.
        let left_behind = fs::read(record_path(folder.path())).unwrap();
        drop(claim);
        fs::write(record_path(folder.path()), left_behind).unwrap();
        assert_eq!(Record::find(folder.path()).unwrap(), None);

        let _starting = Claim::stake(folder.path()).unwrap();
        assert_eq!(
            Record::find(folder.path()).unwrap(),
            None,
            "the next stack is not where the last one was"
        );
    }

    #[test]
    fn a_look_at_the_folder_does_not_keep_a_stack_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        drop(Claim::stake(folder.path()).unwrap());
        let look = File::open(lock_path(folder.path())).unwrap();
        look.lock_shared().unwrap();
        let starting = thread::scope(|scope| {
            let starting = scope.spawn(|| Claim::stake(folder.path()).map(drop));
            drop(look);
            starting.join().unwrap()
        });
        starting.unwrap();
    }
}
