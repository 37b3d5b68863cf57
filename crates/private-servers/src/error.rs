//! What can go wrong between "start a server" and "it answers", each with a way out for the person
//! reading it.
//!
//! One type for both servers: whoever starts a stack treats a failed PostgreSQL and a failed
//! nats-server alike.

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
        "PostgreSQL refuses to run as root and /etc/passwd has neither `postgres` nor `nobody`: run as another user"
    )]
    NoUnprivilegedAccount,

    /// A folder that others may write to was prepared by someone else.
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
        /// What the operating system said.
        source: io::Error,
    },

    /// The program ended where it should have gone on, or failed where it should have succeeded.
    #[error("{program} ended with {status}; its last words:\n{log_tail}")]
    Ended {
        /// The program's name.
        program: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log_tail: String,
    },

    /// The program runs but did not do its work in time.
    #[error("{program} was not ready within {} s; its last words:\n{log_tail}", deadline.as_secs())]
    NotReady {
        /// The program's name.
        program: &'static str,
        /// How long it was waited for.
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
        /// What the operating system said.
        source: io::Error,
    },

    /// No loopback port could be had for another reason than being in use.
    #[error("cannot open port {port} on 127.0.0.1: {source}")]
    Port {
        /// The port asked for, 0 for any free one.
        port: u16,
        /// What the operating system said.
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
