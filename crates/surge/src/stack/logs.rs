//! The log files of a stack: one per part, begun anew with each stack, kept when it ends, readable by their owner only.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::Part;

const TAIL_LINES: usize = 8;
const TAIL_BYTES: u64 = 8 * 1024;

/// The folder of log files.
#[derive(Debug)]
pub(super) struct Logs {
    folder: PathBuf,
}

/// The log file of one part.
#[derive(Debug)]
pub(super) struct Log(PathBuf);

impl Logs {
    /// Makes the folder and empties the files: those of the last stack are of no use beside those of this one.
    pub(super) fn start_anew(state_dir: &Path) -> anyhow::Result<Self> {
        let folder = state_dir.join("logs");
        let logs = Self { folder };
        let empty = || {
            fs::create_dir_all(&logs.folder)?;
            Part::ALL
                .into_iter()
                .try_for_each(|part| logs.of(part).remove())
        };
        empty().with_context(|| format!("cannot prepare {}", logs.folder.display()))?;
        Ok(logs)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn of(&self, part: Part) -> Log {
        Log(self.folder.join(format!("{part}.log")))
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

    /// The last lines, or why they cannot be had.
    pub(super) fn last_lines(&self) -> String {
        let text = self
            .last_bytes()
            .unwrap_or_else(|error| format!("({}: {error})", self.0.display()));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn last_bytes(&self) -> io::Result<String> {
        let mut file = File::open(&self.0)?;
        let skipped = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
