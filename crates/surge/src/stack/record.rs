//! What other commands know of a running stack: a small file with ports and pids, and the lock that makes it the only
//! one in its folder. The file holds no secret. The lock ends with its process, whatever ends it, so it is what counts.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use super::{Part, PortMap, ports::url};

/// A running stack, as `status`, `mode` and `compare` find it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The process that owns the stack.
    pub pid: u32,
    /// Where everything listens.
    pub ports: PortMap,
    /// Every part with its pid, what is leant on first.
    pub parts: Vec<(Part, Option<u32>)>,
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
        let path = record_path(state_dir);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let record: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not of this version: remove it", path.display()))?;
        Ok(record.owner_lives().then_some(record))
    }

    /// Base URL of price-optimization, which stands for the whole suite.
    pub fn price_url(&self) -> String {
        url(self.ports.http[2])
    }

    fn owner_lives(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process(pid).is_ok())
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
        let lock = private_file(&state_dir.join("lock"))
            .with_context(|| format!("cannot open the lock in {}", state_dir.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "a stack runs already in {}: see ./surge status, and end it with Ctrl-C where it runs",
                state_dir.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error)
                    .with_context(|| format!("cannot lock the folder {}", state_dir.display()));
            }
        }
        Ok(Self {
            record: record_path(state_dir),
            _lock: lock,
        })
    }

    /// Lets other commands find the stack. A reader sees the old record or the new one, never half of one.
    pub(super) fn publish(&self, record: &Record) -> anyhow::Result<()> {
        let unfinished = self.record.with_extension("json.new");
        let write = || {
            let mut file = private_file(&unfinished)?;
            file.set_len(0)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            fs::rename(&unfinished, &self.record)
        };
        write().with_context(|| format!("cannot write {}", self.record.display()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{} is left behind: {error}", self.record.display());
            }
            _ => {}
        }
    }
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
    use crate::stack::Ports;

    fn record(pid: u32) -> Record {
        Record {
            pid,
            ports: Ports::Free.reserve().unwrap().map,
            parts: vec![(Part::Nats, Some(7)), (Part::Batch, None)],
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
    fn the_record_of_a_dead_stack_counts_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let claim = Claim::stake(folder.path()).unwrap();
        claim.publish(&record(u32::MAX)).unwrap();
        assert_eq!(Record::find(folder.path()).unwrap(), None);
    }
}
