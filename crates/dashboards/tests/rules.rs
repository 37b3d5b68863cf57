//! The stories that Prometheus' own tool tells of the rules: which alert fires when, and which does
//! not quite.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn the_rules_pass_their_tests() {
    let stories = files("observability/prometheus/tests");
    assert!(stories.len() >= 2, "{stories:?}");
    promtool(&["test", "rules"], &stories);
}

#[test]
fn the_rules_have_nothing_that_promtool_objects_to() {
    promtool(
        &["check", "rules", "--lint-fatal"],
        &files("observability/prometheus/rules"),
    );
}

fn promtool(arguments: &[&str], files: &[PathBuf]) {
    let fetched = project().join("target/tools/promtool");
    let program = if fetched.is_file() {
        fetched
    } else {
        "promtool".into()
    };
    let run = Command::new(program).args(arguments).args(files).output();
    let output = run.unwrap_or_else(|error| match error.kind() {
        ErrorKind::NotFound => panic!("promtool is missing: ./surge test gets it"),
        _ => panic!("promtool: {error}"),
    });
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = project().join(folder).read_dir();
    let entries = entries.unwrap_or_else(|error| panic!("{folder}: {error}"));
    entries.flatten().map(|entry| entry.path()).collect()
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
