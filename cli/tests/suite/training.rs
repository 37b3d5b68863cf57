//! The bundled demand profile equals the one that training makes from the bundled pickups.

use std::fs;

use crate::support::{beside_others, project, surge, text};

#[test]
fn bundled_profile_equals_trained_profile() -> anyhow::Result<()> {
    let folder = beside_others()?;
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
fn wrong_option_names_the_allowed_values() -> anyhow::Result<()> {
    let folder = beside_others()?;
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
