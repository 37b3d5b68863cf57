//! The script `surge`, with a cargo that builds nothing.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output},
};

use crate::support::{project, text};

/// What the script needs beside the shell.
const TOOLS: [&str; 10] = [
    "sh", "dirname", "readlink", "sed", "tr", "id", "head", "cat", "pwd", "env",
];

/// The script, run in `folder` with the programs of `folder`/bin alone.
fn script(folder: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(project().join("surge").canonicalize()?);
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", folder.join("bin"));
    Ok(command.output()?)
}

fn tools(folder: &Path) -> anyhow::Result<()> {
    let bin = folder.join("bin");
    fs::create_dir(&bin)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    for tool in TOOLS {
        let mut found = std::env::split_paths(&path).map(|place| place.join(tool));
        if let Some(found) = found.find(|place| place.exists()) {
            symlink(found, bin.join(tool))?;
        }
    }
    Ok(())
}

fn executable(path: &Path, lines: &str) -> anyhow::Result<()> {
    fs::write(path, format!("#!/bin/sh\n{lines}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Cargo is asked where it builds, and what is typed is meant from where it is typed.
#[test]
fn script_runs_what_cargo_built() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let here = folder.path().canonicalize()?;
    tools(&here)?;
    let built = here.join("surge-of-cargo");
    executable(&built, r#"echo "runs $* in $(pwd -P) of $SURGE_PROJECT""#)?;
    let message = format!(
        r#"{{"reason":"compiler-artifact","executable":"{}","fresh":true}}"#,
        built.display()
    );
    executable(
        &here.join("bin/cargo"),
        &format!(
            r#"case $1 in metadata) echo '{{"target_directory":"/nowhere"}}' ;;
            *) echo '{{"executable":null,"fresh":true}}'; echo '{message}'
                echo Compiling tokio >&2; echo '   Finished it' >&2 ;; esac"#
        ),
    )?;
    let ran = script(&here, &["plan", "--drivers", "7"])?;
    let project = project().canonicalize()?;
    let expected = format!(
        "runs plan --drivers 7 in {} of {}\nCompiling tokio\n",
        here.display(),
        project.display()
    );
    assert_eq!(text(&ran), expected);

    executable(&here.join("bin/cargo"), "echo broken >&2; exit 101")?;
    let ran = script(&here, &["plan"])?;
    assert_eq!(ran.status.code(), Some(1), "{}", text(&ran));
    assert!(text(&ran).ends_with("broken\n"), "{}", text(&ran));
    Ok(())
}

#[test]
fn doctor_works_without_cargo() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    tools(folder.path())?;
    let doctor = script(folder.path(), &["doctor"])?;
    let shown = text(&doctor);
    assert_eq!(doctor.status.code(), Some(1), "{shown}");
    assert!(
        shown.contains("Rust         missing   get it from https://rustup.rs"),
        "{shown}"
    );
    assert!(shown.contains("NATS"), "{shown}");
    Ok(())
}
