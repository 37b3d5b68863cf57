//! Who a process is: the resource of its traces and the labels of its metric `target_info`, by the
//! names of OpenTelemetry's semantic conventions.
//!
//! The attributes that this file finds out come first; `OTEL_RESOURCE_ATTRIBUTES` and then
//! `OTEL_SERVICE_NAME` replace them. So a deployment can name its environment and its pods without
//! a change of the program.

use std::{env, process, sync::LazyLock};

use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
};
use rustix::system::uname;
use uuid::Uuid;

/// The name and the version of a program.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// `service.name` of its telemetry.
    pub name: &'static str,
    /// `service.version` of its telemetry.
    pub version: &'static str,
}

/// `service.instance.id`: no other run of any program has the same.
static INSTANCE: LazyLock<String> = LazyLock::new(|| Uuid::now_v7().to_string());

impl Identity {
    /// All attributes of this process.
    pub(crate) fn resource(self) -> Resource {
        let resource = Resource::builder_empty()
            .with_attributes(self.attributes())
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_detector(Box::new(EnvResourceDetector::new()));
        match env::var("OTEL_SERVICE_NAME") {
            Ok(name) if !name.is_empty() => resource.with_service_name(name),
            _ => resource,
        }
        .build()
    }

    /// The attributes that distinguish the processes of a deployment, with names that Prometheus
    /// allows. Prometheus returns all labels with each answer, so the others stay out.
    pub(crate) fn labels(self) -> Vec<(String, String)> {
        let resource = self.resource();
        let attributes = resource
            .iter()
            .map(|(key, value)| (key.as_str(), value.to_string()));
        let distinguishing = attributes.filter(|(key, _)| {
            let namespaces = ["service.", "deployment.", "k8s."];
            namespaces.iter().any(|prefix| key.starts_with(prefix))
        });
        let label = |key: &str| key.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
        let mut labels: Vec<_> = distinguishing
            .map(|(key, value)| (label(key), value))
            .collect();
        labels.sort_unstable();
        labels
    }

    fn attributes(self) -> Vec<KeyValue> {
        // The conventions have names of their own for the two usual architectures.
        let architecture = match env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let mut attributes = vec![
            KeyValue::new("service.name", self.name),
            KeyValue::new("service.namespace", "surge"),
            KeyValue::new("service.version", self.version),
            KeyValue::new("service.instance.id", INSTANCE.as_str()),
            KeyValue::new("process.pid", i64::from(process::id())),
            KeyValue::new("process.runtime.name", "rust"),
            KeyValue::new("os.type", env::consts::OS),
            KeyValue::new("host.arch", architecture),
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
}

#[cfg(test)]
mod tests {
    use opentelemetry::{Key, Value};

    use super::*;

    const IDENTITY: Identity = Identity {
        name: "price-optimization",
        version: "1.2.3",
    };

    #[test]
    fn attributes_name_process_and_stay_equal() {
        let attribute = |key: &'static str| IDENTITY.resource().get(&Key::new(key)).unwrap();
        assert_eq!(attribute("service.name").as_str(), IDENTITY.name);
        assert_eq!(attribute("service.version").as_str(), IDENTITY.version);
        assert_eq!(attribute("service.namespace").as_str(), "surge");
        let instance = "service.instance.id";
        assert_eq!(attribute(instance), attribute(instance));
        assert_eq!(attribute("telemetry.sdk.language").as_str(), "rust");
        assert_eq!(attribute("process.pid"), Value::I64(process::id().into()));
    }

    #[test]
    fn labels_are_distinguishing_attributes_only() {
        let labels = IDENTITY.labels();
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
