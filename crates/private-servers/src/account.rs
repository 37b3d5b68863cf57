//! The unprivileged account that servers run under when we are root.
//!
//! PostgreSQL refuses to run as root, and containers and CI often are root. Changing user needs no
//! helper program: the standard library sets the ids between fork and exec. A plain user needs none
//! of this.

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use crate::{Error, error::on};

/// Accounts in order of preference; `postgres` comes with the Debian package.
const NAMES: [&str; 2] = ["postgres", "nobody"];

/// A user id and its main group, as `/etc/passwd` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The account for servers if we are root; otherwise `None`, and servers run under ours.
    pub(crate) fn for_servers() -> Result<Option<Self>, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = Path::new("/etc/passwd");
        let users = fs::read_to_string(passwd).map_err(on(passwd, "read"))?;
        let account = NAMES.iter().find_map(|name| Self::parse(&users, name));
        account.map(Some).ok_or(Error::NoUnprivilegedAccount)
    }

    /// Makes the command run under this account and without supplementary groups.
    pub(crate) fn run(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    pub(crate) fn own(self, path: &Path) -> Result<(), Error> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .map_err(on(path, "change the owner of"))
    }

    /// Whether this account may pass through the folder and all folders above it.
    pub(crate) fn can_reach(self, folder: &Path) -> bool {
        folder
            .ancestors()
            .all(|step| fs::metadata(step).is_ok_and(|found| self.can_search(&found)))
    }

    fn can_search(self, folder: &fs::Metadata) -> bool {
        let search_bit = match (folder.uid() == self.uid, folder.gid() == self.gid) {
            (true, _) => 0o100,
            (_, true) => 0o010,
            _ => 0o001,
        };
        folder.mode() & search_bit != 0
    }

    fn parse(passwd: &str, name: &str) -> Option<Self> {
        let mut fields = passwd
            .lines()
            .map(|line| line.split(':'))
            .find_map(|mut fields| {
                (fields.next() == Some(name)).then_some(fields) // name:password:uid:gid:…
            })?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then_some(Self { uid, gid })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn reads_account_from_passwd_line() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(
            Account::parse(passwd, "postgres"),
            Some(Account { uid: 101, gid: 104 })
        );
        assert_eq!(Account::parse(passwd, "nobody"), None);
        assert_eq!(
            Account::parse(passwd, "root"),
            None,
            "servers never run as root"
        );
    }

    #[test]
    fn private_folder_is_out_of_reach() {
        let folder = tempfile::tempdir().unwrap();
        let stranger = Account {
            uid: 4_000_000,
            gid: 4_000_000,
        };
        set_mode(folder.path(), 0o700);
        assert!(!stranger.can_reach(folder.path()));
        set_mode(folder.path(), 0o711);
        let above = folder.path().parent().unwrap();
        assert_eq!(stranger.can_reach(folder.path()), stranger.can_reach(above));
    }

    fn set_mode(folder: &Path, mode: u32) {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).expect("it is our folder");
    }
}
