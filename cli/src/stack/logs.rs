//! The log files of a stack: one per part, emptied when a stack starts, kept when it ends, readable
//! only by their owner.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{Member, Part};

/// The folder of log files.
#[derive(Debug)]
pub(super) struct Logs {
    folder: PathBuf,
}

/// The log file of one process.
#[derive(Debug)]
pub(super) struct Log(PathBuf);

impl Logs {
    /// Makes the folder and removes the files of the last stack.
    pub(super) fn start_anew(state_dir: &Path) -> anyhow::Result<Self> {
        let folder = state_dir.join("logs");
        let logs = Self { folder };
        let empty = || {
            fs::create_dir_all(&logs.folder)?;
            Part::ALL
                .into_iter()
                .flat_map(|part| Member::first(part, Member::MOST))
                .try_for_each(|member| logs.of(member).remove())
        };
        empty().with_context(|| format!("cannot prepare {}", logs.folder.display()))?;
        Ok(logs)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn of(&self, member: impl Into<Member>) -> Log {
        Log(self.folder.join(format!("{}.log", member.into())))
    }
}

impl Log {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Opens it for appending.
    pub(super) fn open(&self) -> anyhow::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        options
            .open(&self.0)
            .with_context(|| format!("cannot open the log {}", self.0.display()))
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
