//! The environment of our containers, parsed by the options of the services.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::objects::{Overlay, Workload, at, list, text_at};
use crate::programs::{flag_of, program};

/// Variables that the SDK of OpenTelemetry and the log filter read.
const TELEMETRY: [&str; 4] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "RUST_LOG",
];

/// A value for secrets; the files hold none for production.
const SECRET: &str = "a-secret-of-a-test";

pub(crate) fn are_known(overlay: &Overlay) {
    let mut taken = BTreeSet::new();
    for workload in overlay.workloads() {
        for container in workload.containers() {
            let image = text_at(container, "/image");
            let name = image
                .rsplit('/')
                .next()
                .and_then(|name| name.split(':').next());
            if name == Some("surge") {
                taken.extend(are_taken(overlay, &workload, container));
            }
        }
    }
    // Some program must know each shared variable.
    let shared = overlay.keys_of("ConfigMap", "surge").unwrap();
    for variable in shared
        .iter()
        .filter(|variable| !TELEMETRY.contains(&variable.as_str()))
    {
        assert!(
            taken.contains(variable),
            "{}: no program knows {variable}",
            overlay.name
        );
    }
}

/// Checks that every process verifies PostgreSQL, with a root certificate from a volume of its own.
pub(crate) fn postgres_is_verified(overlay: &Overlay) {
    for workload in overlay.workloads() {
        for container in workload.containers() {
            let Some(url) = own(container).remove("DATABASE_URL") else {
                continue;
            };
            let (_, root) = url.split_once("?sslmode=verify-full&sslrootcert=").unwrap();
            let mut mounts = list(container, "/volumeMounts").iter();
            assert!(
                mounts.any(|mount| root.starts_with(text_at(mount, "/mountPath"))),
                "{url}"
            );
        }
    }
}

/// The variables that the program of a container knows. It must know its own and accept all values.
fn are_taken(overlay: &Overlay, workload: &Workload<'_>, container: &Value) -> BTreeSet<String> {
    let words: Vec<&str> = list(container, "/args")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let (program, more) = program(&words);
    let what = format!("{}: {words:?}", overlay.name);
    let mut taken = BTreeSet::new();
    let mut line = vec![workload.name().to_owned()];
    line.extend(more.iter().map(|&word| word.to_owned()));
    let own = own(container);
    let shared = list(container, "/envFrom").iter().flat_map(|source| {
        let name = text_at(source, "/configMapRef/name");
        overlay.data_of("ConfigMap", name).unwrap_or_default()
    });
    let shared: BTreeMap<String, String> = shared.collect();
    for (variable, value) in shared.iter().chain(&own) {
        let is_part = own
            .values()
            .any(|other| other.contains(&format!("$({variable})")));
        if is_part || TELEMETRY.contains(&variable.as_str()) {
            continue;
        }
        let value = own.iter().fold(value.clone(), |value, (part, filling)| {
            value.replace(&format!("$({part})"), filling)
        });
        assert!(!value.contains("$("), "{what}: {variable}={value}");
        leads_to_a_service(overlay, &value);
        match flag_of(&program, variable) {
            Some(flag) => {
                line.push(format!("--{flag}={value}"));
                taken.insert(variable.clone());
            }
            None => assert!(
                shared.contains_key(variable),
                "{what} does not know {variable}"
            ),
        }
    }
    if let Err(refusal) = program.try_get_matches_from(line) {
        panic!("{what}: {refusal}");
    }
    addresses_are_ports(container, &own);
    taken
}

/// Checks that the ports of a pod, which probes and services use, are those of the process.
fn addresses_are_ports(container: &Value, own: &BTreeMap<String, String>) {
    for (variable, port) in [("HTTP_ADDR", "http"), ("GRPC_ADDR", "grpc")] {
        let listens = own
            .get(variable)
            .and_then(|address| address.rsplit_once(':'));
        let listens = listens.map(|(_, number)| number.parse::<u64>().unwrap());
        let ports = list(container, "/ports").iter();
        let mut declared = ports
            .filter(|known| known["name"] == port)
            .filter_map(|known| known["containerPort"].as_u64());
        assert_eq!(declared.next(), listens, "{variable}");
    }
}

fn own(container: &Value) -> BTreeMap<String, String> {
    let variables = list(container, "/env").iter();
    let pairs = variables.map(|variable| {
        let value = variable
            .get("value")
            .and_then(Value::as_str)
            .unwrap_or(SECRET);
        (text_at(variable, "/name").to_owned(), value.to_owned())
    });
    pairs.collect()
}

/// Checks that a URL leads to a service with that port; one for gRPC must have all addresses.
fn leads_to_a_service(overlay: &Overlay, value: &str) {
    let Some((scheme, rest)) = value.split_once("://") else {
        return;
    };
    let host = rest.split('/').next().unwrap();
    let host = host.rsplit('@').next().unwrap();
    let (name, port) = host.split_once(':').unwrap();
    // In another namespace, or outside: there the overlay puts an address of its own.
    let outside = name == "postgres" && overlay.data_of("ConfigMap", name).is_some();
    if name.contains('.') || outside {
        return;
    }
    let services = overlay.of_kind("Service");
    let service = services
        .iter()
        .find(|service| at(service, "/metadata/name") == name);
    let service = service.unwrap_or_else(|| panic!("{value}: no service {name}"));
    let port: u64 = port.parse().unwrap();
    let has_port = list(service, "/spec/ports")
        .iter()
        .any(|known| known["port"] == port);
    assert!(has_port, "{value}");
    if scheme == "http" {
        assert_eq!(
            at(service, "/spec/clusterIP"),
            "None",
            "{value}: one address is one replica"
        );
    }
}
