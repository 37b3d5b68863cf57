//! The environment of child processes: what the operating system needs, and nothing of other
//! programs. The shell of a person who works with PostgreSQL, NATS or OpenTelemetry has variables
//! of theirs, which would send our processes elsewhere.

use std::{env, ffi::OsString, process::Command};

/// Where programs, homes, libraries and temporary files are, and which language people read.
const OF_THE_SYSTEM: [&str; 8] = [
    "DYLD_LIBRARY_PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "TMPDIR",
    "USER",
];

/// Gives the command the variables of the system and, of ours, those with these names: no others.
pub fn with_known_environment(command: &mut Command, ours: &[&'static str]) {
    command
        .env_clear()
        .envs(present(&OF_THE_SYSTEM))
        .envs(present(ours));
}

/// Those of the variables that this process has.
pub fn present(names: &[&'static str]) -> impl Iterator<Item = (&'static str, OsString)> {
    names
        .iter()
        .filter_map(|name| Some((*name, env::var_os(name)?)))
}
