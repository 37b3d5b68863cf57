//! The alert rules under Prometheus' own tool: which alert fires when, and which does not.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn rules_pass_their_tests() {
    let tests = files("observability/prometheus/tests");
    assert!(tests.len() >= 2, "{tests:?}");
    promtool(&["test", "rules"], &tests);
}

#[test]
fn rules_pass_the_lints_of_promtool() {
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
    let output_text = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output_text)
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
