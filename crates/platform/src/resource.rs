//! Who this process is, in the words of the semantic conventions: the resource of its traces, and the labels of
//! `target_info`. What `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say comes before what is found out here.

use std::{env, process, sync::LazyLock};

use opentelemetry::{Key, KeyValue, Value};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
};
use rustix::system::uname;
use uuid::Uuid;

use crate::process::Identity;

/// Tells this run of a process from every other one.
static INSTANCE: LazyLock<String> = LazyLock::new(|| Uuid::now_v7().to_string());

/// Everything that is known.
pub(crate) fn resource(identity: Identity) -> Resource {
    let resource = Resource::builder_empty()
        .with_attributes(found_out(identity))
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name),
        _ => resource,
    }
    .build()
}

/// What tells the processes of a deployment apart, with names that Prometheus allows. Not all that is known: a label that
/// is nobody's question only makes the answer longer.
pub(crate) fn target_labels(identity: Identity) -> Vec<(String, String)> {
    let resource = resource(identity);
    let is_told = |key: &Key| {
        let key = key.as_str();
        key.starts_with("service.") || key.starts_with("deployment.") || key.starts_with("k8s.")
    };
    let told = resource.iter().filter(|(key, _)| is_told(key));
    let label = |(key, value): (&Key, &Value)| (label_name(key.as_str()), value.to_string());
    let mut labels: Vec<_> = told.map(label).collect();
    labels.sort_unstable();
    labels
}

fn label_name(key: &str) -> String {
    key.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_")
}

fn found_out(identity: Identity) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("service.name", identity.name),
        KeyValue::new("service.namespace", "surge"),
        KeyValue::new("service.version", identity.version),
        KeyValue::new("service.instance.id", INSTANCE.as_str()),
        KeyValue::new("process.pid", i64::from(process::id())),
        KeyValue::new("process.runtime.name", "rust"),
        KeyValue::new("os.type", env::consts::OS),
        KeyValue::new("host.arch", architecture()),
    ];
    if let Ok(host) = uname().nodename().to_str() {
        attributes.push(KeyValue::new("host.name", host.to_owned()));
    }
    let executable = env::current_exe().ok();
    if let Some(name) = executable.as_deref().and_then(|path| path.file_name()) {
        let name = name.to_string_lossy().into_owned();
        attributes.push(KeyValue::new("process.executable.name", name));
    }
    attributes
}

/// The conventions have names of their own for the two that everybody has.
const fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        env::consts::ARCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        name: "price-optimization",
        version: "1.2.3",
    };

    #[test]
    fn a_process_says_who_it_is_and_stays_the_same_one() {
        let told = |key: &'static str| resource(IDENTITY).get(&Key::new(key)).unwrap();
        assert_eq!(told("service.name").as_str(), IDENTITY.name);
        assert_eq!(told("service.version").as_str(), IDENTITY.version);
        assert_eq!(told("service.namespace").as_str(), "surge");
        assert_eq!(told("service.instance.id"), told("service.instance.id"));
        assert_eq!(told("telemetry.sdk.language").as_str(), "rust");
        assert_eq!(told("process.pid"), Value::I64(process::id().into()));
    }

    #[test]
    fn labels_are_those_that_tell_processes_apart() {
        let labels = target_labels(IDENTITY);
        let names: Vec<&str> = labels.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "service_instance_id",
                "service_name",
                "service_namespace",
                "service_version"
            ]
        );
    }
}
