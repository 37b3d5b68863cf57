//! A server's log file, and its last lines for an error message.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, error::on};

const TAIL_LINES: usize = 8;
const TAIL_BYTES: u64 = 8 * 1024;

/// One file for standard output and standard error. Restarts append to it; only we can read it.
#[derive(Debug)]
pub(crate) struct ServerLog {
    path: PathBuf,
}

impl ServerLog {
    pub(crate) fn create(path: PathBuf) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(on(folder, "create"))?;
        }
        let log = Self { path };
        log.open().map(|_| log)
    }

    /// Sends the command's output here. The server inherits the open file and needs no access to
    /// the path.
    pub(crate) fn attach(&self, command: &mut Command) -> Result<(), Error> {
        let file = self.open()?;
        let copy = file.try_clone().map_err(on(&self.path, "open"))?;
        command.stdin(Stdio::null()).stdout(file).stderr(copy);
        Ok(())
    }

    /// The last lines, or the reason why they cannot be read.
    pub(crate) fn tail(&self) -> String {
        last_lines(&self.path)
    }

    fn open(&self) -> Result<File, Error> {
        let mut options = OpenOptions::new();
        options
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(on(&self.path, "open"))
    }
}

/// The last lines of a log file, or the reason why they cannot be read.
pub fn last_lines(log: &Path) -> String {
    let text = last_bytes(log).unwrap_or_else(|error| format!("({}: {error})", log.display()));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn last_bytes(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let skipped = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
