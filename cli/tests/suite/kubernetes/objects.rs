//! The objects of an overlay, from its files or built by kubectl, and the references between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use serde_json::{Value, json};

use crate::support::project;

/// All objects of an overlay.
pub(crate) struct Overlay {
    pub(crate) name: &'static str,
    /// Whether kubectl built it, with patches, or its files were read.
    pub(crate) is_built: bool,
    objects: Vec<Value>,
}

/// An object that runs pods.
#[derive(Clone, Copy)]
pub(crate) struct Workload<'a> {
    pub(crate) object: &'a Value,
}

impl Overlay {
    pub(crate) fn from_files(name: &'static str) -> Self {
        let mut objects = Vec::new();
        read(&folder(name), &mut objects);
        Self {
            name,
            is_built: false,
            objects,
        }
    }

    pub(crate) fn built(name: &'static str) -> Self {
        let kubectl = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
        let output = Command::new(kubectl)
            .arg("kustomize")
            .arg(folder(name))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let objects = documents(&String::from_utf8(output.stdout).unwrap());
        Self {
            name,
            is_built: true,
            objects,
        }
    }

    pub(crate) fn of_kind(&self, kind: &str) -> Vec<&Value> {
        let objects = self.objects.iter();
        objects.filter(|object| object["kind"] == kind).collect()
    }

    pub(crate) fn workloads(&self) -> Vec<Workload<'_>> {
        let kinds = ["Deployment", "StatefulSet", "Job", "CronJob"];
        let of_kinds = kinds.iter().flat_map(|kind| self.of_kind(kind));
        of_kinds.map(|object| Workload { object }).collect()
    }

    pub(crate) fn selected_by(&self, labels: &Value) -> Vec<Workload<'_>> {
        let mut workloads = self.workloads();
        workloads.retain(|workload| workload.is_selected_by(labels));
        workloads
    }

    /// The ConfigMaps and Secrets that pods name, with the key if they name one.
    pub(crate) fn references(&self) -> Vec<(&'static str, String, Option<String>)> {
        let mut references = Vec::new();
        for workload in self.workloads() {
            collect_references(workload.pod_spec(), &mut references);
        }
        references
    }

    /// Secrets and keys that pods name.
    pub(crate) fn secrets(&self) -> BTreeSet<(String, String)> {
        let references = self.references().into_iter();
        let secrets = references.filter(|(kind, ..)| *kind == "Secret");
        secrets
            .filter_map(|(_, name, key)| Some((name, key?)))
            .collect()
    }

    pub(crate) fn keys_of(&self, kind: &str, name: &str) -> Option<BTreeSet<String>> {
        Some(self.data_of(kind, name)?.into_keys().collect())
    }

    /// The data of an object; `name` may lack the hash that kubectl appends.
    pub(crate) fn data_of(&self, kind: &str, name: &str) -> Option<BTreeMap<String, String>> {
        let is_it = |object: &&&Value| {
            let full = text_at(object, "/metadata/name");
            full == name
                || full
                    .rsplit_once('-')
                    .is_some_and(|(short, hash)| short == name && hash.len() == 10)
        };
        let objects = self.of_kind(kind);
        let found: Vec<_> = objects.iter().filter(is_it).collect();
        if found.is_empty() {
            return None;
        }
        let data = found.iter().filter_map(|object| object["data"].as_object());
        let pairs = data
            .flatten()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()));
        Some(pairs.collect())
    }
}

impl<'a> Workload<'a> {
    pub(crate) fn name(&self) -> &'a str {
        text_at(self.object, "/metadata/name")
    }

    /// Whether it runs until somebody ends it.
    pub(crate) fn stays(&self) -> bool {
        matches!(
            self.object["kind"].as_str(),
            Some("Deployment" | "StatefulSet")
        )
    }

    fn template(&self) -> &'a Value {
        match self.object.pointer("/spec/jobTemplate/spec/template") {
            Some(template) => template,
            None => at(self.object, "/spec/template"),
        }
    }

    pub(crate) fn pod_spec(&self) -> &'a Value {
        at(self.template(), "/spec")
    }

    pub(crate) fn labels(&self) -> &'a Value {
        at(self.template(), "/metadata/labels")
    }

    pub(crate) fn containers(&self) -> &'a [Value] {
        list(self.pod_spec(), "/containers")
    }

    pub(crate) fn is_selected_by(&self, labels: &Value) -> bool {
        let wanted = labels.as_object().expect("labels");
        wanted
            .iter()
            .all(|(label, value)| self.labels().get(label) == Some(value))
    }

    /// The number of a port, from its number or name.
    pub(crate) fn port(&self, port: &Value) -> Option<u64> {
        let ports = self
            .containers()
            .iter()
            .filter_map(|container| container["ports"].as_array());
        let ports = ports.flatten();
        let mut fitting =
            ports.filter(|known| known["name"] == *port || known["containerPort"] == *port);
        fitting.next()?["containerPort"].as_u64()
    }

    pub(crate) fn has_port(&self, port: &Value) -> bool {
        self.port(port).is_some()
    }

    pub(crate) fn probe_ports(&self) -> Vec<Value> {
        let ports = self
            .probes()
            .flat_map(|probe| [probe.pointer("/httpGet/port"), probe.pointer("/grpc/port")]);
        ports.flatten().cloned().collect()
    }

    pub(crate) fn probe_paths(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.probes()
            .filter_map(|probe| probe.pointer("/httpGet/path")?.as_str())
    }

    fn probes(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let probes = ["startupProbe", "livenessProbe", "readinessProbe"];
        let of_each = move |container: &'a Value| probes.map(|probe| &container[probe]);
        self.containers().iter().flat_map(of_each)
    }
}

fn folder(overlay: &str) -> std::path::PathBuf {
    project().join("k8s/overlays").join(overlay)
}

/// The objects of a kustomization and of its bases, without patches.
fn read(folder: &Path, objects: &mut Vec<Value>) {
    let kustomization: Value = documents(&text(&folder.join("kustomization.yaml"))).remove(0);
    for resource in list(&kustomization, "/resources") {
        let path = folder.join(resource.as_str().unwrap());
        match path.is_dir() {
            true => read(&path, objects),
            false => objects.append(&mut documents(&text(&path))),
        }
    }
    for (generator, kind) in [
        ("configMapGenerator", "ConfigMap"),
        ("secretGenerator", "Secret"),
    ] {
        for made in list(&kustomization, &format!("/{generator}")) {
            let data = data(folder, made);
            if made["behavior"] == "merge" {
                let mut known = objects.iter_mut().filter(|object| object["kind"] == kind);
                let base = known.find(|object| object["metadata"]["name"] == made["name"]);
                let base = base.unwrap()["data"].as_object_mut().unwrap();
                base.extend(data.into_iter().map(|(key, text)| (key, text.into())));
            } else {
                let metadata = json!({"name": made["name"]});
                objects.push(json!({"kind": kind, "metadata": metadata, "data": data}));
            }
        }
    }
}

fn data(folder: &Path, generator: &Value) -> BTreeMap<String, String> {
    let strings = |field: &str| {
        let list = generator[field].as_array().cloned().unwrap_or_default();
        list.into_iter()
            .map(|value| value.as_str().unwrap().to_owned())
    };
    let files = strings("files").map(|file| (file.clone(), text(&folder.join(file))));
    let lines = strings("envs").flat_map(|file| {
        let text = text(&folder.join(file));
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    let pairs = strings("literals").chain(lines.filter(|line| !line.starts_with('#')));
    let pairs = pairs.filter_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    });
    files.chain(pairs).collect()
}

fn collect_references(node: &Value, found: &mut Vec<(&'static str, String, Option<String>)>) {
    match node {
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        Value::Object(fields) => {
            for (field, value) in fields {
                let kind = match field.as_str() {
                    "configMapRef" | "configMapKeyRef" | "configMap" => "ConfigMap",
                    "secretRef" | "secretKeyRef" | "secret" => "Secret",
                    _ => {
                        collect_references(value, found);
                        continue;
                    }
                };
                let name = value.get("name").or_else(|| value.get("secretName"));
                let name = name.and_then(Value::as_str).unwrap().to_owned();
                let items = value["items"].as_array().into_iter().flatten();
                let keys = items.map(|item| &item["key"]).chain(value.get("key"));
                found.push((kind, name.clone(), None));
                found.extend(keys.map(|key| (kind, name.clone(), key.as_str().map(str::to_owned))));
            }
        }
        _ => {}
    }
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value
        .pointer(pointer)
        .unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}

pub(crate) fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer)
        .as_str()
        .unwrap_or_else(|| panic!("{pointer} is no text in {value:#}"))
}

/// The list at a pointer; empty if there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}
