//! Writes a file so that a reader finds the old content or the new, never half of it.

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::Context as _;

/// Replaces the file, making its folder if missing; whoever the umask lets may read it.
pub(crate) fn replace(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    write(path, content, 0o666)
}

/// Replaces the file, which only its owner may read.
pub(crate) fn replace_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    write(path, content, 0o600)
}

fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    try_write(path, content, mode).with_context(|| format!("cannot write {}", path.display()))
}

fn try_write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(mode)) // less what the umask takes
        .tempfile_in(folder)?;
    file.write_all(content)?;
    file.persist(path)?;
    Ok(())
}
