//! The bundled demand profile is what training makes from the bundled pickups, to the byte.

use std::fs;

use crate::support::{project, state_folder, surge, text};

#[test]
fn the_bundled_profile_is_what_training_prints() -> anyhow::Result<()> {
    let folder = state_folder()?;
    let trained = folder.path().join("profile.json");
    let out = trained
        .to_str()
        .expect("temporary folders have plain names");
    let arguments = [
        "train",
        "--pickups",
        "data/uber-pickups-2014-04.csv.gz",
        "--until",
        "2014-04-04T17:00",
        "--out",
        out,
    ];
    let output = surge(folder.path(), &arguments).output()?;
    assert!(output.status.success(), "{}", text(&output));
    let bundled = project().join(surge::DEMAND_PROFILE);
    assert!(
        fs::read(&trained)? == fs::read(&bundled)?,
        "{} is old: make it again with ./surge {}",
        bundled.display(),
        arguments[..5].join(" ")
    );
    Ok(())
}

#[test]
fn wrong_options_are_answered_with_what_is_allowed() -> anyhow::Result<()> {
    let folder = state_folder()?;
    for (arguments, expected) in [
        (
            &[
                "backtest",
                "--train",
                "a",
                "--test",
                "b",
                "--resolution",
                "16",
            ][..],
            "0..=15",
        ),
        (&["backtest", "--train", "a"], "--test"),
        (
            &["train", "--pickups", "a", "--until", "noon"],
            "2014-04-04T17:00",
        ),
        (
            &[
                "train",
                "--pickups",
                "no-such-file",
                "--until",
                "2014-04-04T17:00",
            ],
            "no-such-file",
        ),
    ] {
        let output = surge(folder.path(), arguments).output()?;
        assert!(!output.status.success());
        assert!(text(&output).contains(expected), "{}", text(&output));
    }
    Ok(())
}
