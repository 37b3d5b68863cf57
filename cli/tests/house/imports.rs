//! Who may import whom: crates, and the modules inside a crate.

use std::collections::{BTreeMap, BTreeSet};

use crate::modules::{Module, Workspace, field};
use crate::source::sources;

/// Every crate and the crates of ours that it may import, without those that only its tests import.
const MAY_IMPORT: [(&str, &[&str]); 18] = [
    ("marketplace", &[]),
    ("strict-serde", &[]),
    ("platform", &["strict-serde"]),
    ("private-servers", &[]),
    ("protoc", &[]),
    ("trace-view", &[]),
    ("dashboards", &["surge-proto"]),
    ("surge-proto", &["marketplace"]),
    ("feeds", &["platform"]),
    (
        "test-harness",
        &["marketplace", "platform", "private-servers"],
    ),
    (
        "bare-servers",
        &["marketplace", "private-servers", "surge-proto"],
    ),
    (
        "driver-management",
        &["feeds", "marketplace", "platform", "surge-proto"],
    ),
    (
        "ride-management",
        &["feeds", "marketplace", "platform", "surge-proto"],
    ),
    (
        "price-optimization",
        &["feeds", "marketplace", "platform", "surge-proto"],
    ),
    ("city", &["marketplace", "strict-serde", "surge-proto"]),
    ("engine", &["marketplace", "surge-proto"]),
    (
        "compare",
        &[
            "bare-servers",
            "city",
            "engine",
            "marketplace",
            "private-servers",
            "strict-serde",
            "surge-proto",
        ],
    ),
    (
        "surge",
        &[
            "bare-servers",
            "city",
            "compare",
            "driver-management",
            "engine",
            "feeds",
            "marketplace",
            "platform",
            "price-optimization",
            "private-servers",
            "ride-management",
            "strict-serde",
            "surge-proto",
            "trace-view",
        ],
    ),
];

#[test]
fn crates_import_only_allowed_crates() {
    let manifests = sources(&["Cargo.toml"]);
    let packages: Vec<(&str, BTreeSet<&str>)> = manifests
        .iter()
        .filter(|manifest| manifest.path != "Cargo.toml")
        .map(|manifest| {
            (
                field(&manifest.text, "name").expect("a name"),
                dependencies(&manifest.text),
            )
        })
        .collect();
    let ours: BTreeSet<&str> = packages.iter().map(|(name, _)| *name).collect();
    let allowed = BTreeMap::from(MAY_IMPORT);
    let mut wrong = Vec::new();
    for (name, imported) in &packages {
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!(
                "{name}: say in MAY_IMPORT what this crate may import"
            ));
            continue;
        };
        for other in imported
            .intersection(&ours)
            .filter(|other| !allowed.contains(other))
        {
            wrong.push(format!("{name} imports {other}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect()
}

/// The children of a module, each with everything below it, import each other in one direction
/// only. A child may import its parent's own items, and the parent its children: those two are read
/// together.
#[test]
fn modules_import_without_circles() {
    let workspace = Workspace::read();
    let mut circles = Vec::new();
    for (number, target) in workspace.targets.iter().enumerate() {
        for parent in target.modules.keys() {
            let edges = edges_below(&workspace, number, parent);
            let root = &target.modules[parent].file;
            for circle in circles_of(&edges) {
                circles.push(format!("{root}: {}", steps_of(&circle, &edges)));
            }
        }
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// From one child of a module to another: the files that make the import.
type Edges = BTreeMap<(String, String), Vec<String>>;

fn edges_below(workspace: &Workspace, number: usize, parent: &[String]) -> Edges {
    let below = |path: &[String]| {
        (path.len() > parent.len() && path.starts_with(parent)).then(|| path[parent.len()].clone())
    };
    let mut edges = Edges::new();
    for (path, Module { file, .. }) in &workspace.targets[number].modules {
        let Some(from) = below(path) else { continue };
        for (target, imported) in workspace.imports(&(number, path.clone())) {
            match below(&imported) {
                Some(to) if target == number && to != from => {
                    edges
                        .entry((from.clone(), to))
                        .or_default()
                        .push(file.clone());
                }
                _ => {}
            }
        }
    }
    edges
}

/// The groups of children that reach each other.
fn circles_of(edges: &Edges) -> Vec<Vec<String>> {
    let nodes: BTreeSet<&String> = edges.keys().map(|(from, _)| from).collect();
    let reach: BTreeMap<&String, BTreeSet<&String>> = nodes
        .iter()
        .map(|node| (*node, reachable(node, edges)))
        .collect();
    let mut seen = BTreeSet::new();
    let mut circles = Vec::new();
    for node in &nodes {
        let circle: Vec<String> = reach[node]
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|back| back.contains(*node)))
            .map(|other| (*other).clone())
            .collect();
        if !circle.is_empty() && seen.insert(circle.clone()) {
            circles.push(circle);
        }
    }
    circles
}

fn reachable<'a>(node: &String, edges: &'a Edges) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![node];
    while let Some(from) = todo.pop() {
        for (_, to) in edges.keys().filter(|(start, _)| start == from) {
            if found.insert(to) {
                todo.push(to);
            }
        }
    }
    found
}

fn steps_of(circle: &[String], edges: &Edges) -> String {
    let steps = edges
        .iter()
        .filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
    let steps = steps.map(|((from, to), files)| format!("{from} -> {to} ({})", files.join(", ")));
    steps.collect::<Vec<_>>().join("; ")
}

#[test]
fn circle_of_two_is_found() {
    let edge = |from: &str, to: &str| ((from.to_owned(), to.to_owned()), Vec::new());
    let edges = Edges::from([
        edge("a", "b"),
        edge("b", "c"),
        edge("c", "b"),
        edge("c", "d"),
    ]);
    assert_eq!(circles_of(&edges), [["b", "c"]]);
}
