//! Finds installed servers, or says what to install.
//!
//! `$PATH` comes first, so that a person can choose. The other places follow because Debian keeps
//! PostgreSQL's server programs off the path. A program that is too old is skipped and named in the
//! message.

use std::{
    cmp::Reverse,
    env, fmt, fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::process::POLL;

const POSTGRES_FLOOR: Version = Version {
    major: 15,
    minor: 0,
    patch: 0,
};
const NATS_FLOOR: Version = Version {
    major: 2,
    minor: 9,
    patch: 0,
};

/// Folders that hold one folder of PostgreSQL per version: (parent, prefix of the name, programs
/// inside).
const VERSIONED_HOMES: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                   // PostgreSQL's own RPMs
    ("/opt/homebrew/opt", "postgresql@", "bin"), // Homebrew on Apple silicon
    ("/usr/local/opt", "postgresql@", "bin"),    // Homebrew on Intel
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
];

/// Folders of package managers that a short `$PATH`, as in cron or an IDE, leaves out.
const COMMON_HOMES: [&str; 5] = [
    "/usr/sbin",
    "/usr/local/bin",
    "/opt/homebrew/bin",
    "/usr/local/sbin",
    "/home/linuxbrew/.linuxbrew/bin",
];

/// Printing a version takes milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The two programs of a PostgreSQL installation that a private server needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresBinaries {
    /// Makes a cluster.
    pub initdb: PathBuf,
    /// Serves it.
    pub postgres: PathBuf,
    /// The answer of `postgres --version`.
    pub version: Version,
}

/// An installed nats-server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsBinary {
    /// The program.
    pub path: PathBuf,
    /// The answer of `nats-server --version`.
    pub version: Version,
}

/// A program's version: `15.14` is 15.14.0, `17beta1` is 17.0.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Changes with incompatible releases.
    pub major: u32,
    /// Changes with compatible releases.
    pub minor: u32,
    /// 0 for programs that number their releases with two parts.
    pub patch: u32,
}

/// No usable installation of a server was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {floor} or later is missing ({}): {remedy}", self.finding())]
pub struct Missing {
    /// `PostgreSQL` or `nats-server`.
    pub name: &'static str,
    /// The lowest version that works.
    pub floor: Version,
    /// The newest installation found, which is too old.
    pub too_old: Option<(PathBuf, Version)>,
    /// The command that installs it.
    pub remedy: &'static str,
}

/// Finds PostgreSQL 15 or later.
///
/// # Errors
/// [`Missing`], with how to get it.
pub fn find_postgres() -> Result<PostgresBinaries, Missing> {
    let homes = search_path()
        .chain(versioned_homes())
        .chain(pg_config_home());
    let found = homes
        .filter(|home| home.join("initdb").is_file())
        .filter_map(|home| {
            let postgres = home.join("postgres");
            let version = version_of(&postgres)?;
            Some(PostgresBinaries {
                initdb: home.join("initdb"),
                postgres,
                version,
            })
        });
    first_from(POSTGRES_FLOOR, found, |binaries| {
        (binaries.postgres.clone(), binaries.version)
    })
    .map_err(|too_old| Missing {
        name: "PostgreSQL",
        floor: POSTGRES_FLOOR,
        too_old,
        remedy: "apt-get install postgresql, or brew install postgresql@17",
    })
}

/// Finds nats-server 2.9 or later.
///
/// # Errors
/// [`Missing`], with how to get it.
pub fn find_nats() -> Result<NatsBinary, Missing> {
    let homes = search_path().chain(COMMON_HOMES.map(PathBuf::from));
    let found = homes.filter_map(|home| {
        let path = home.join("nats-server");
        version_of(&path).map(|version| NatsBinary { path, version })
    });
    first_from(NATS_FLOOR, found, |binary| {
        (binary.path.clone(), binary.version)
    })
    .map_err(|too_old| Missing {
        name: "nats-server",
        floor: NATS_FLOOR,
        too_old,
        remedy: "apt-get install nats-server, or brew install nats-server",
    })
}

impl Missing {
    fn finding(&self) -> String {
        match &self.too_old {
            Some((path, version)) => format!("{} is {version}", path.display()),
            None => "none is installed".to_owned(),
        }
    }
}

impl Version {
    /// Reads the first word of a program's answer that starts with a digit, or with `v` and a
    /// digit.
    fn in_answer(answer: &str) -> Option<Self> {
        let words = answer
            .split_whitespace()
            .map(|word| word.trim_start_matches('v'));
        let mut parts = words
            .into_iter()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?
            .split('.');
        let mut number = || parts.next().map(leading_number);
        Some(Self {
            major: number()?,
            minor: number().unwrap_or(0),
            patch: number().unwrap_or(0),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 {
            write!(f, ".{}", self.patch)
        } else {
            Ok(())
        }
    }
}

/// The first installation that is new enough, or else the newest of those that are not.
fn first_from<T>(
    floor: Version,
    found: impl Iterator<Item = T>,
    describe: impl Fn(&T) -> (PathBuf, Version),
) -> Result<T, Option<(PathBuf, Version)>> {
    let mut too_old: Option<(PathBuf, Version)> = None;
    for installation in found {
        let (path, version) = describe(&installation);
        if version >= floor {
            return Ok(installation);
        }
        if too_old.as_ref().is_none_or(|(_, newest)| version > *newest) {
            too_old = Some((path, version));
        }
    }
    Err(too_old)
}

fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .collect::<Vec<_>>()
        .into_iter()
}

fn versioned_homes() -> impl Iterator<Item = PathBuf> {
    VERSIONED_HOMES
        .into_iter()
        .flat_map(|(parent, prefix, programs)| {
            highest_first(Path::new(parent), prefix)
                .into_iter()
                .map(move |home| home.join(programs))
        })
}

fn highest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut homes: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            Some((
                leading_number(entry.file_name().to_str()?.strip_prefix(prefix)?),
                entry.path(),
            ))
        })
        .filter(|(version, _)| *version > 0)
        .collect();
    homes.sort_unstable_by_key(|(version, _)| Reverse(*version));
    homes.into_iter().map(|(_, home)| home).collect()
}

/// The folder that `pg_config` names. It comes last, because it costs a process.
fn pg_config_home() -> impl Iterator<Item = PathBuf> {
    std::iter::once_with(|| answer_of(Command::new("pg_config").arg("--bindir")))
        .flatten()
        .map(|answer| PathBuf::from(answer.trim()))
}

fn version_of(program: &Path) -> Option<Version> {
    let installed = program.is_file();
    installed
        .then(|| answer_of(Command::new(program).arg("--version")))
        .flatten()
        .as_deref()
        .and_then(Version::in_answer)
}

fn leading_number(text: &str) -> u32 {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text[..digits].parse().unwrap_or(0)
}

/// The output of a program that succeeds within the limit.
fn answer_of(command: &mut Command) -> Option<String> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let output = output_within(child, ANSWER_LIMIT).ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The output of a program; one line fits into the pipe, so that the program need not wait for us.
fn output_within(mut child: Child, limit: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + limit;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
        }
        thread::sleep(POLL);
    }
    child.wait_with_output()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32, patch: u32) -> Version {
        Version {
            major,
            minor,
            patch,
        }
    }

    #[test]
    fn reads_versions_from_output() {
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)";
        assert_eq!(Version::in_answer(debian), Some(version(15, 14, 0)));
        assert_eq!(
            Version::in_answer("postgres (PostgreSQL) 17beta1"),
            Some(version(17, 0, 0))
        );
        assert_eq!(
            Version::in_answer("nats-server: v2.9.10"),
            Some(version(2, 9, 10))
        );
        assert_eq!(Version::in_answer("no idea"), None);
    }

    #[test]
    fn old_installation_is_skipped_and_named() {
        let installed = [version(13, 4, 0), version(16, 0, 0)];
        let path = PathBuf::from("/somewhere/postgres");
        let describe = |version: &Version| (path.clone(), *version);
        assert_eq!(
            first_from(POSTGRES_FLOOR, installed.into_iter(), describe),
            Ok(version(16, 0, 0))
        );

        let too_old = first_from(version(99, 0, 0), installed.into_iter(), describe).unwrap_err();
        let missing = Missing {
            name: "PostgreSQL",
            floor: version(99, 0, 0),
            too_old,
            remedy: "install it",
        };
        let message =
            "PostgreSQL 99.0 or later is missing (/somewhere/postgres is 16.0): install it";
        assert_eq!(missing.to_string(), message);
    }

    #[test]
    fn highest_version_is_tried_first() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["9.6", "15", "13", "lib"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        let names: Vec<_> = highest_first(parent.path(), "")
            .iter()
            .map(|home| home.file_name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["15", "13", "9.6"]);
    }

    #[test]
    fn hanging_program_is_killed() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let output = output_within(child, Duration::from_millis(20)).unwrap();
        assert!(!output.status.success());
    }
}
