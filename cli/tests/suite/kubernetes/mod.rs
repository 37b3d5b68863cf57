//! k8s/, checked without a cluster: every named object exists, the services accept their settings,
//! pods have only the rights that they need, and the network policies allow the arrows of
//! docs/architecture.md and no others.
//!
//! The plain tests read the files, without patches. With `./surge test --k8s` kubectl builds the
//! overlays, and the same checks run on the result, after the schemas of Kubernetes.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod arrows;
mod objects;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use serde_json::Value;

use self::objects::{Overlay, at, list, text_at};
use crate::support::project;

const LOCAL: &str = "local";
const PRODUCTION: &str = "production";
const OVERLAYS: [&str; 2] = [LOCAL, PRODUCTION];

/// Our applications.
const OURS: [&str; 5] = [
    "driver-management",
    "ride-management",
    "price-optimization",
    "batch",
    "migrate",
];

#[test]
fn every_named_object_exists() {
    for overlay in OVERLAYS.map(Overlay::from_files) {
        names_lead_somewhere(&overlay);
    }
}

#[test]
fn services_know_every_setting() {
    for overlay in OVERLAYS.map(Overlay::from_files) {
        settings::are_known(&overlay);
    }
}

#[test]
fn pods_have_only_needed_rights() {
    for overlay in OVERLAYS.map(Overlay::from_files) {
        rights_are_few(&overlay);
    }
}

#[test]
fn network_allows_arrows_of_architecture() {
    for overlay in OVERLAYS.map(Overlay::from_files) {
        arrows::are_those_of_the_architecture(&overlay);
    }
}

#[test]
fn postgres_gets_all_roles() {
    let overlay = Overlay::from_files(LOCAL);
    let maps = overlay.of_kind("ConfigMap");
    let mut init = maps
        .iter()
        .filter(|map| map["metadata"]["name"] == "postgres-init");
    let roles = fs::read_to_string(project().join("services/roles.sql"));
    assert_eq!(init.next().unwrap()["data"]["roles.sql"], roles.unwrap());
}

#[test]
fn nats_server_accepts_its_configurations() {
    let nats = private_servers::find_nats().unwrap();
    for path in ["k8s/base/nats.conf", "k8s/overlays/production/nats.conf"] {
        let checked = Command::new(&nats.path)
            .args(["-t", "--config"])
            .arg(project().join(path))
            .env("POD_NAME", "nats-0")
            .env("NATS_PASSWORD", "one-of-a-test")
            .env("NATS_CLUSTER_PASSWORD", "another-of-a-test")
            .output()
            .unwrap();
        assert!(checked.status.success(), "{path}: {checked:?}");
    }
}

#[test]
fn production_secrets_are_documented() {
    let page = fs::read_to_string(project().join("docs/kubernetes.md")).unwrap();
    for (secret, key) in Overlay::from_files(PRODUCTION).secrets() {
        let created = format!("create secret generic {secret}");
        assert!(
            page.contains(&created),
            "docs/kubernetes.md makes no secret {secret}"
        );
        assert!(
            page.contains(&format!("--from-literal={key}=")),
            "{secret} without {key}"
        );
    }
}

/// All checks again, on the overlays as kubectl builds them.
#[test]
#[ignore = "needs kubectl; ./surge test --k8s runs it"]
fn built_overlays_pass_all_checks() {
    for overlay in OVERLAYS.map(Overlay::built) {
        names_lead_somewhere(&overlay);
        settings::are_known(&overlay);
        rights_are_few(&overlay);
        arrows::are_those_of_the_architecture(&overlay);
        images_are_pinned(&overlay);
    }
    settings::postgres_is_verified(&Overlay::built(PRODUCTION));
    production_survives_a_node(&Overlay::built(PRODUCTION));
}

fn names_lead_somewhere(overlay: &Overlay) {
    let what = overlay.name;
    for workload in overlay.workloads() {
        if let Some(selector) = workload.object.pointer("/spec/selector/matchLabels") {
            assert!(
                workload.is_selected_by(selector),
                "{what}: {} selects others",
                workload.name()
            );
        }
        let ours = workload.stays() && OURS.contains(&workload.name());
        for path in workload.probe_paths().filter(|_| ours) {
            assert!(["/livez", "/readyz"].contains(&path), "{what}: {path}");
        }
        for port in workload.probe_ports() {
            assert!(
                workload.has_port(&port),
                "{what}: {} has no port {port}",
                workload.name()
            );
        }
    }
    for service in overlay.of_kind("Service") {
        let name = text_at(service, "/metadata/name");
        let selector = at(service, "/spec/selector");
        let behind = overlay.selected_by(selector);
        assert!(!behind.is_empty(), "{what}: service {name} has no pods");
        for (port, workload) in list(service, "/spec/ports").iter().flat_map(|port| {
            behind
                .iter()
                .map(move |workload| (at(port, "/targetPort"), workload))
        }) {
            assert!(workload.has_port(port), "{what}: service {name} to {port}");
        }
    }
    for budget in overlay.of_kind("PodDisruptionBudget") {
        let behind = overlay.selected_by(at(budget, "/spec/selector/matchLabels"));
        assert_eq!(behind.len(), 1, "{what}: {budget}");
    }
    for scaler in overlay.of_kind("HorizontalPodAutoscaler") {
        scaled_is_there(overlay, scaler);
    }
    for (kind, name, key) in overlay.references() {
        let keys = overlay.keys_of(kind, &name);
        // An operator makes the secrets of production.
        let made_here = kind != "Secret" || overlay.name == LOCAL;
        assert_eq!(keys.is_some(), made_here, "{what}: {kind} {name}");
        if let (Some(keys), Some(key)) = (keys, key) {
            assert!(keys.contains(&key), "{what}: {kind} {name} has no {key}");
        }
    }
}

fn scaled_is_there(overlay: &Overlay, scaler: &Value) {
    let target = text_at(scaler, "/spec/scaleTargetRef/name");
    let workload = overlay.workloads().into_iter().find(|workload| {
        workload.name() == target
            && workload.object["kind"] == *at(scaler, "/spec/scaleTargetRef/kind")
    });
    let workload = workload.unwrap_or_else(|| panic!("{target} is not there to be scaled"));
    // The autoscaler's share of the processor refers to the request.
    let requested = workload
        .containers()
        .iter()
        .all(|container| container.pointer("/resources/requests/cpu").is_some());
    assert!(requested, "{target}");
    if overlay.is_built {
        assert_eq!(
            workload.object.pointer("/spec/replicas"),
            None,
            "the autoscaler decides"
        );
    }
    let asked: BTreeSet<&str> = list(scaler, "/spec/metrics")
        .iter()
        .filter_map(|metric| metric.pointer("/pods/metric/name")?.as_str())
        .collect();
    assert_eq!(
        asked,
        BTreeSet::from([adapted_metric().as_str()]),
        "prometheus-adapter-rules.yaml"
    );
}

/// The name that prometheus-adapter gives to its metric from the histogram.
fn adapted_metric() -> String {
    let path = project().join("k8s/overlays/production/prometheus-adapter-rules.yaml");
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let rule = &list(&rules, "/rules")[0];
    let series = text_at(rule, "/seriesQuery").split('{').next().unwrap();
    assert_eq!(text_at(rule, "/name/matches"), "^(.*)_bucket$");
    let name = series.strip_suffix("_bucket").unwrap();
    text_at(rule, "/name/as").replace("${1}", name)
}

fn rights_are_few(overlay: &Overlay) {
    for workload in overlay.workloads() {
        let name = format!("{}: {}", overlay.name, workload.name());
        let pod = workload.pod_spec();
        assert_eq!(at(pod, "/automountServiceAccountToken"), false, "{name}");
        assert_eq!(at(pod, "/securityContext/runAsNonRoot"), true, "{name}");
        assert_ne!(at(pod, "/securityContext/runAsUser"), 0, "{name}");
        assert_eq!(
            at(pod, "/securityContext/seccompProfile/type"),
            "RuntimeDefault",
            "{name}"
        );
        for container in workload.containers() {
            let security = at(container, "/securityContext");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
            for bound in ["requests/cpu", "requests/memory", "limits/memory"] {
                at(container, &format!("/resources/{bound}"));
            }
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                assert_eq!(
                    container.get(probe).is_some(),
                    workload.stays(),
                    "{name}: {probe}"
                );
            }
        }
    }
    let namespaces = overlay.of_kind("Namespace");
    let enforced = "/metadata/labels/pod-security.kubernetes.io~1enforce";
    assert_eq!(
        at(namespaces[0], enforced),
        "restricted",
        "{}",
        overlay.name
    );
}

fn images_are_pinned(overlay: &Overlay) {
    for workload in overlay.workloads() {
        for container in workload.containers() {
            let image = text_at(container, "/image");
            let tag = image.rsplit_once(':').map(|(_, tag)| tag);
            assert!(tag.is_some_and(|tag| tag != "latest"), "{image}");
        }
    }
}

/// Three replicas of each on different nodes; one of them may be away.
fn production_survives_a_node(production: &Overlay) {
    let replicas: BTreeMap<&str, Option<u64>> = production
        .workloads()
        .into_iter()
        .filter(|workload| workload.stays())
        .map(|workload| {
            let pod = workload.pod_spec();
            assert!(
                !list(pod, "/topologySpreadConstraints").is_empty(),
                "{}",
                workload.name()
            );
            let replicas = workload.object.pointer("/spec/replicas");
            (workload.name(), replicas.and_then(Value::as_u64))
        })
        .collect();
    let expected = BTreeMap::from([
        ("driver-management", Some(3)),
        ("nats", Some(3)),
        // The autoscaler decides.
        ("price-optimization", None),
        ("ride-management", Some(3)),
    ]);
    assert_eq!(replicas, expected);
    assert_eq!(
        production.of_kind("PodDisruptionBudget").len(),
        expected.len()
    );
    let settings = production.data_of("ConfigMap", "surge").unwrap();
    assert_eq!(settings["STREAM_REPLICAS"], "3");
}
