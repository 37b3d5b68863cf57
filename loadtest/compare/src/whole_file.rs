//! Writes a file so that a reader finds the old content or the new, never half of it.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Replaces the file, making its folder if missing; the umask decides who may read it.
///
/// # Errors
/// When the disk refuses it; the file at `path` then stays as it was.
pub fn replace(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    write(path, content, 0o666)
}

/// Replaces the file, which only its owner may read.
///
/// # Errors
/// As [`replace`].
pub fn replace_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    write(path, content, 0o600)
}

fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let written = if is_stream(path) {
        write_into(path, content)
    } else {
        write_whole(path, content, mode)
    };
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Whether there is a pipe, a terminal or another device: `/dev/stdout` is to be written into, not
/// to be replaced.
fn is_stream(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir())
}

fn write_into(path: &Path, content: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(content)
}

fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // A link stays a link: its target is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = folder_of(&path);
    fs::create_dir_all(&folder)?;
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode)) // less the bits of the umask
        .tempfile_in(folder)?;
    file.write_all(content)?;
    // A full disk may show only now, and a file that has its name already must not turn out empty
    // after a crash.
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report/compare.json");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn failure_names_file_and_keeps_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("kept"), "old").unwrap();
        let refused = replace(&path, b"new").unwrap_err();
        assert!(refused.to_string().contains("taken"), "{refused}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(path.join("kept")).unwrap(), "old");
    }

    #[test]
    fn target_of_link_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }

    #[test]
    fn private_file_is_readable_by_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        replace_private(&path, b"1").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    /// The kernel's own full disk.
    #[test]
    fn full_device_is_reported_as_full() {
        let full = Path::new("/dev/full");
        let refused = replace(full, b"new").unwrap_err();
        let cause = refused.downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.kind(), io::ErrorKind::StorageFull);
        assert!(!fs::metadata(full).unwrap().is_file());
    }
}
