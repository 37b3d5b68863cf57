//! The errors of private servers. Each message names a remedy or shows the server's log.

use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

use crate::Missing;

/// Why a private server could not be started, restarted or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server's program is not installed, or too old.
    #[error(transparent)]
    Missing(#[from] Missing),

    /// A requested port is in use.
    #[error(
        "port {port} on 127.0.0.1 is in use: stop the program that holds it or choose another port"
    )]
    PortTaken {
        /// The busy port.
        port: u16,
    },

    /// Running as root, and neither account that PostgreSQL could run under exists.
    #[error(
        "PostgreSQL refuses to run as root and /etc/passwd has neither `postgres` nor `nobody`: \
         run as another user"
    )]
    NoUnprivilegedAccount,

    /// Another user made the folder in a place where every user may write.
    #[error("{} belongs to another user or is not a folder: remove it", path.display())]
    ForeignFolder {
        /// The folder that was to hold the instances.
        path: PathBuf,
    },

    /// The program could not be started at all.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program's name.
        program: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },

    /// A server ended before it answered, or a program failed.
    #[error("{program} ended with {status}; the end of its log:\n{log_tail}")]
    Ended {
        /// The program's name.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log_tail: String,
    },

    /// The program runs but did not do its work in time.
    #[error(
        "{program} was not ready within {} s; the end of its log:\n{log_tail}",
        deadline.as_secs()
    )]
    NotReady {
        /// The program's name.
        program: &'static str,
        /// The time that it had.
        deadline: Duration,
        /// The last lines of its log.
        log_tail: String,
    },

    /// A file or folder of the instance could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The verb: `create`, `write`, ….
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },

    /// No loopback port, for another reason than that it is in use.
    #[error("cannot open port {port} on 127.0.0.1: {source}")]
    Port {
        /// The port asked for, 0 for any free one.
        port: u16,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// Names the file in an I/O error: `fs::write(&path, …).map_err(on(&path, "write"))`.
pub(crate) fn on(path: &std::path::Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}
