//! The folder of each private instance.
//!
//! Its name, `postgres-<pid>-<start time>-<id>`, records the process that owns it. So one step
//! makes the folder and names its owner, and a sweep never finds a folder without an owner. The
//! folder itself belongs to us; the account of the server gets only the folders and files that it
//! needs.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use uuid::Uuid;

use crate::{
    Error, account::Account, environment::with_known_environment, error::on, process::POLL,
    process::ProcessIdentity,
};

/// The place of root's instances if the unprivileged account cannot reach the project, for example
/// in a private home.
const REACHABLE_BY_ALL: &str = "/var/tmp";

/// We can write; others can pass through to their own files, but not list the folder.
const PASSABLE: u32 = 0o711;

/// Holds the identity of the server process, for a sweep by a later process.
const SERVER_RECORD: &str = "server";

/// A left-over server has nothing to save: the sweep removes its folder next.
const STALE_SERVER_GRACE: Duration = Duration::from_secs(5);

/// Processes of a killed server may write for a moment after their parent has ended.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);

/// How often another process may remove the shared parent folder before we use it.
const CREATE_ATTEMPTS: usize = 8;

/// The folder of one instance; removed when dropped.
#[derive(Debug)]
pub(crate) struct InstanceDir {
    path: PathBuf,
    account: Option<Account>,
}

impl InstanceDir {
    /// Makes an empty folder for an instance of this kind (`postgres`, `nats`) under
    /// `base/instances`, or under `/var/tmp` when we are root and the account that servers run
    /// under cannot reach the base.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::NoUnprivilegedAccount`], [`Error::ForeignFolder`].
    pub(crate) fn create(base: &Path, kind: &str) -> Result<Self, Error> {
        let account = Account::for_servers()?;
        let owner = ProcessIdentity::of(std::process::id()).ok_or_else(|| {
            on(Path::new("/proc"), "find this process in")(io::ErrorKind::NotFound.into())
        })?;
        let name = format!("{kind}-{owner}-{}", Uuid::now_v7().simple());
        let mut attempts = 1..=CREATE_ATTEMPTS;
        loop {
            let path = parent_folder(base, account)?.join(&name);
            match DirBuilder::new().mode(PASSABLE).create(&path) {
                Ok(()) => return Ok(Self { path, account }),
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && attempts.next().is_some() => {}
                Err(error) => return Err(on(&path, "create")(error)),
            }
        }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder. Dropping does the same and can only log an error.
    ///
    /// # Errors
    /// [`Error::File`] when something in it cannot be removed within 2 s.
    pub(crate) fn remove(self) -> Result<(), Error> {
        remove_folder(&self.path)
    }

    /// Makes a folder that only the server can use (0700).
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(on(&path, "create"))?;
        self.give_away(path)
    }

    /// Writes a new file that only the server can read (0600).
    pub(crate) fn file(&self, name: &str, content: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        file.and_then(|mut file| file.write_all(content.as_bytes()))
            .map_err(on(&path, "write"))?;
        self.give_away(path)
    }

    /// Makes the command run here, under the right account, with English messages and UTC dates.
    pub(crate) fn prepare(&self, command: &mut Command) {
        with_known_environment(command, &[]);
        command
            .current_dir(&self.path)
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        if let Some(account) = self.account {
            account.run(command);
        }
    }

    pub(crate) fn record_server(&self, server: &ProcessIdentity) -> Result<(), Error> {
        let path = self.path.join(SERVER_RECORD);
        fs::write(&path, server.to_string()).map_err(on(&path, "write"))
    }

    fn give_away(&self, path: PathBuf) -> Result<PathBuf, Error> {
        if let Some(account) = self.account {
            account.own(&path)?;
        }
        Ok(path)
    }
}

impl Drop for InstanceDir {
    fn drop(&mut self) {
        if let Err(error) = remove_folder(&self.path) {
            tracing::warn!("an instance folder is left behind: {error}");
        }
    }
}

/// Ends the servers and removes the folders of instances under this base whose owner has ended.
/// Returns their number.
///
/// # Errors
/// [`Error::File`] when a folder cannot be read or removed; [`Error::NoUnprivilegedAccount`].
pub fn sweep_stale(base: &Path) -> Result<usize, Error> {
    let mut swept = 0;
    for parent in [instances_under(base), fallback_for(base)] {
        for folder in folders_in(&parent)? {
            swept += usize::from(sweep_if_stale(&folder)?);
        }
    }
    Ok(swept)
}

fn sweep_if_stale(folder: &Path) -> Result<bool, Error> {
    let Some(owner) = owner_of(folder) else {
        return Ok(false);
    };
    if owner.is_alive() {
        return Ok(false);
    }
    let record = fs::read_to_string(folder.join(SERVER_RECORD)).unwrap_or_default();
    if let Some(server) = ProcessIdentity::parse(&record) {
        server.end(Signal::INT, STALE_SERVER_GRACE);
    }
    remove_folder(folder)?;
    tracing::info!("removed {}, whose owner has ended", folder.display());
    Ok(true)
}

/// Reads `kind-<pid>-<start time>-<id>`. A folder with another name is not ours.
fn owner_of(folder: &Path) -> Option<ProcessIdentity> {
    let (_kind, owner_and_id) = folder.file_name()?.to_str()?.split_once('-')?;
    let (owner, _id) = owner_and_id.rsplit_once('-')?;
    ProcessIdentity::parse(owner)
}

fn folders_in(parent: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(on(parent, "read"))?,
    };
    let own = |path: &PathBuf| is_own_folder(path).unwrap_or(false);
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(own)
        .collect())
}

fn parent_folder(base: &Path, account: Option<Account>) -> Result<PathBuf, Error> {
    let preferred = instances_under(base);
    fs::create_dir_all(&preferred).map_err(on(&preferred, "create"))?;
    let preferred = preferred.canonicalize().map_err(on(&preferred, "find"))?;
    match account {
        Some(account) if !account.can_reach(&preferred) => {
            remove_if_empty(&preferred);
            own_folder(fallback_for(base))
        }
        _ => Ok(preferred),
    }
}

fn instances_under(base: &Path) -> PathBuf {
    base.join("instances")
}

/// The same folder for the same base, so that a later process finds the folders of an earlier one.
fn fallback_for(base: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    base.canonicalize()
        .unwrap_or_else(|_| base.to_owned())
        .hash(&mut hasher);
    Path::new(REACHABLE_BY_ALL).join(format!("surge-{:016x}", hasher.finish()))
}

/// Every user may write to `/var/tmp`, so a folder with our name need not be ours.
fn own_folder(path: PathBuf) -> Result<PathBuf, Error> {
    match DirBuilder::new().mode(PASSABLE).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(on(&path, "create")(error))
        }
        _ if is_own_folder(&path).map_err(on(&path, "look at"))? => Ok(path),
        _ => Err(Error::ForeignFolder { path }),
    }
}

fn is_own_folder(path: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(path)?;
    Ok(found.is_dir() && found.uid() == rustix::process::geteuid().as_raw())
}

fn remove_folder(path: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + REMOVAL_LIMIT;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) if Instant::now() >= deadline => return Err(on(path, "remove")(error)),
            Err(_) => thread::sleep(POLL),
        }
    }
    path.parent().into_iter().for_each(remove_if_empty);
    Ok(())
}

/// Removes the shared parent of the last instance. It is no error if other instances are in it.
fn remove_if_empty(parent: &Path) {
    if let Err(error) = fs::remove_dir(parent) {
        tracing::trace!(%error, "{} stays", parent.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_instance_leaves_nothing() {
        let base = tempfile::tempdir().unwrap();
        let first = InstanceDir::create(base.path(), "postgres").unwrap();
        let second = InstanceDir::create(base.path(), "nats").unwrap();
        let (path, parent) = (
            first.path().to_owned(),
            first.path().parent().unwrap().to_owned(),
        );
        drop(first);
        assert!(!path.exists() && second.path().exists());
        second.remove().unwrap();
        assert!(!parent.exists());
    }

    #[test]
    fn sweep_removes_folders_of_ended_owners() {
        let base = tempfile::tempdir().unwrap();
        let living = InstanceDir::create(base.path(), "nats").unwrap();
        let parent = living.path().parent().unwrap();
        let pid = std::process::id();
        fs::create_dir(parent.join(format!("nats-{pid}-0-earlierprocessofthispid"))).unwrap();
        fs::create_dir(parent.join("notes")).unwrap();

        assert_eq!(sweep_stale(base.path()).unwrap(), 1);

        let left = fs::read_dir(parent).unwrap().count();
        assert_eq!(left, 2, "the living instance and the foreign folder");
        fs::remove_dir(parent.join("notes")).unwrap();
    }

    #[test]
    fn symbolic_link_is_not_our_folder() {
        let base = tempfile::tempdir().unwrap();
        let link = base.path().join("link");
        std::os::unix::fs::symlink(base.path(), &link).unwrap();
        assert!(matches!(own_folder(link), Err(Error::ForeignFolder { .. })));
    }
}
