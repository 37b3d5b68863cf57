//! The connections that the network policies allow: one policy must allow it out, another one in.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    LOCAL, OURS,
    objects::{Overlay, Workload, at, list},
};

/// From, to, and the port there.
type Arrow = (&'static str, &'static str, u64);

/// The picture in docs/architecture.md shows them.
const ARROWS: [Arrow; 7] = [
    ("price-optimization", "driver-management", 7201),
    ("price-optimization", "ride-management", 7202),
    ("ride-management", "driver-management", 7201),
    ("driver-management", "nats", 4222),
    ("ride-management", "nats", 4222),
    ("price-optimization", "nats", 4222),
    // The servers of a cluster.
    ("nats", "nats", 6222),
];

const POSTGRES: u64 = 5432;

pub(crate) fn are_those_of_the_architecture(overlay: &Overlay) {
    let policies = overlay.of_kind("NetworkPolicy");
    let nothing = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let is_there = policies.iter().any(|policy| policy["spec"] == nothing);
    assert!(is_there, "a policy refuses everything else");

    let mut expected: BTreeSet<_> = ARROWS
        .map(|(from, to, port)| (from.to_owned(), to.to_owned(), port))
        .into();
    if overlay.name == LOCAL {
        expected.extend(OURS.map(|from| (from.to_owned(), "postgres".to_owned(), POSTGRES)));
    }
    assert_eq!(arrows(overlay, &policies), expected, "{}", overlay.name);

    for workload in overlay.workloads() {
        let reaches = |port: u64| {
            rules(&policies, &workload, "egress").any(|rule| {
                let outside = list(rule, "/to").iter().any(|peer| {
                    peer.get("podSelector").is_none() || peer.get("namespaceSelector").is_some()
                });
                outside
                    && list(rule, "/ports")
                        .iter()
                        .any(|known| known["port"] == port)
            })
        };
        let name = workload.name();
        assert!(reaches(53), "{name} can resolve names");
        let leaves_for_postgres = overlay.name != LOCAL && OURS.contains(&name);
        assert_eq!(reaches(POSTGRES), leaves_for_postgres, "{name}");
    }
}

fn arrows(overlay: &Overlay, policies: &[&Value]) -> BTreeSet<(String, String, u64)> {
    let workloads = overlay.workloads();
    let mut arrows = BTreeSet::new();
    for from in &workloads {
        for to in &workloads {
            let out = ports(rules(policies, from, "egress"), "to", to);
            let into = ports(rules(policies, to, "ingress"), "from", from);
            let into: BTreeSet<u64> = into.iter().filter_map(|port| to.port(port)).collect();
            let out = out.iter().filter_map(|port| to.port(port));
            arrows.extend(
                out.filter(|port| into.contains(port))
                    .map(|port| (from.name().to_owned(), to.name().to_owned(), port)),
            );
        }
    }
    arrows
}

/// The rules of one direction for a workload.
fn rules<'a>(
    policies: &[&'a Value],
    workload: &Workload<'_>,
    way: &'static str,
) -> impl Iterator<Item = &'a Value> {
    let about_it = policies
        .iter()
        .filter(|policy| fits(at(policy, "/spec/podSelector"), workload));
    let rules: Vec<&Value> = about_it
        .flat_map(|policy| list(policy, &format!("/spec/{way}")))
        .collect();
    rules.into_iter()
}

fn ports<'a>(
    rules: impl Iterator<Item = &'a Value>,
    field: &str,
    other: &Workload<'_>,
) -> Vec<&'a Value> {
    let names_it = |peer: &Value| {
        let here = peer.get("namespaceSelector").is_none();
        here && peer
            .get("podSelector")
            .is_some_and(|selector| fits(selector, other))
    };
    let pointer = format!("/{field}");
    let rules = rules.filter(|rule| list(rule, &pointer).iter().any(names_it));
    rules
        .flat_map(|rule| list(rule, "/ports"))
        .map(|port| at(port, "/port"))
        .collect()
}

/// The selection of Kubernetes: all of `matchLabels` and all of `matchExpressions`; ours use only
/// `In`.
fn fits(selector: &Value, workload: &Workload<'_>) -> bool {
    let labels = selector
        .get("matchLabels")
        .is_none_or(|labels| workload.is_selected_by(labels));
    let expressions = list(selector, "/matchExpressions")
        .iter()
        .all(|expression| {
            assert_eq!(expression["operator"], "In");
            let label = workload.labels().get(expression["key"].as_str().unwrap());
            label.is_some_and(|label| list(expression, "/values").contains(label))
        });
    labels && expressions
}
