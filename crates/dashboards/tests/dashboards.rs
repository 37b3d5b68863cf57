//! The committed dashboards equal their sources, and the sources follow our rules.

use std::{collections::BTreeSet, fs, path::Path};

use dashboards::{Board, committed, render, sources};

#[test]
fn committed_dashboards_equal_their_sources() {
    let made = sources().unwrap().into_iter();
    let made = made.map(|(stem, board)| (stem, render(&board).unwrap()));
    let stale: Vec<String> = {
        let (made, committed) = (made.collect::<Vec<_>>(), committed().unwrap());
        assert_eq!(made.len(), committed.len(), "run: cargo run -p dashboards");
        let differs = made
            .into_iter()
            .filter(|(stem, json)| committed.get(stem) != Some(json));
        differs.map(|(stem, _)| stem).collect()
    };
    assert!(
        stale.is_empty(),
        "{stale:?} differ from panels/; run: cargo run -p dashboards"
    );
}

#[test]
fn dashboards_differ_in_address_and_title() {
    let boards: Vec<Board> = sources().unwrap().into_values().collect();
    let distinct = |of: fn(&Board) -> &String| boards.iter().map(of).collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(|board| &board.uid), boards.len());
    assert_eq!(distinct(|board| &board.title), boards.len());
}

#[test]
fn every_panel_has_unit_and_explanation() {
    for board in sources().unwrap().into_values() {
        for panel in board.rows.iter().flat_map(|row| &row.panels) {
            let at = format!("{} / {}", board.title, panel.title);
            assert!(
                panel.about.len() > 40,
                "{at}: about is too short to teach anything"
            );
            let bare = panel.unit.is_empty() && panel.words.is_empty();
            assert!(!bare, "{at}: a figure without unit or words");
            assert!(!panel.queries.is_empty(), "{at}: no query");
        }
    }
}

#[test]
fn every_alert_has_page_test_and_dashboard() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let rules = read("observability/prometheus/rules/alerts.yml");
    let values = |key: &'static str| {
        let lines = rules
            .lines()
            .map(|line| line.trim().trim_start_matches("- "));
        lines
            .filter_map(move |line| line.strip_prefix(key))
            .map(str::trim)
    };
    let (page, tests) = (read("docs/observability.md"), {
        read("observability/prometheus/tests/alerts.yml")
            + &read("observability/prometheus/tests/objectives.yml")
    });
    for alert in values("alert:") {
        assert!(
            page.contains(&format!("\n### {alert}\n")),
            "docs/observability.md lacks {alert}"
        );
        let test = format!("alertname: {alert}\n");
        assert!(
            tests.contains(&test),
            "no test under observability/prometheus has {alert} fire"
        );
    }
    let uids: BTreeSet<String> = sources()
        .unwrap()
        .into_values()
        .map(|board| board.uid)
        .collect();
    for uid in values("dashboard:") {
        assert!(
            uids.contains(uid),
            "an alert points to the dashboard {uid}, which is not there"
        );
    }
    assert_eq!(values("alert:").count(), values("dashboard:").count());
}
