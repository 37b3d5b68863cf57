//! docker-compose.yml, checked without Docker: the services accept their settings, every named file
//! and address exists, and ports, memory and rights are as documented.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use city::TargetArgs;
use clap::{Args as _, Command};
use platform::nats::STREAM_BYTES_LIMIT;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use surge_proto::subjects::STREAMS;

use crate::{
    programs::{flag_of, program},
    support::project,
};

/// The limit of all containers together. Another test measures that the light profile takes less
/// than 500 MB.
const MEMORY_BYTES: u64 = 1_500_000_000;

/// Their images have no program for a health check, or they end by themselves.
const WITHOUT_HEALTHCHECK: [&str; 4] = ["batch", "collector", "loadtest", "market-clock"];

/// Variables that the SDK of OpenTelemetry reads.
const TELEMETRY: [&str; 4] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_BSP_SCHEDULE_DELAY",
];

#[test]
fn services_accept_their_settings() {
    for name in [
        "driver-management",
        "ride-management",
        "price-optimization",
        "batch",
    ] {
        let service = compose().service(name);
        let words: Vec<&str> = service.command.iter().map(String::as_str).collect();
        let (program, _) = program(&words);
        let mut line = vec![name.to_owned()];
        for (variable, value) in service.settings() {
            if TELEMETRY.contains(&variable.as_str()) {
                continue;
            }
            let flag = flag_of(&program, &variable)
                .unwrap_or_else(|| panic!("{name} does not know {variable}"));
            // The file exists only in the containers.
            if !value.starts_with('@') {
                line.push(format!("--{flag}={value}"));
            }
        }
        if let Err(refusal) = program.try_get_matches_from(line) {
            panic!("{name}: {refusal}");
        }
    }
}

#[test]
fn load_generator_gets_all_addresses() {
    let known = TargetArgs::augment_args(Command::new("compare"));
    let given: BTreeSet<String> = compose()
        .service("loadtest")
        .settings()
        .into_keys()
        .collect();
    let needed: BTreeSet<String> = known
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
        .collect();
    assert_eq!(given, needed);
    // The command `compare` has the same options.
    let compare = compare::Args::augment_args(Command::new("compare"));
    assert!(
        given
            .iter()
            .all(|variable| flag_of(&compare, variable).is_some())
    );
}

#[test]
fn addresses_lead_to_listening_services() {
    let compose = compose();
    let published: Vec<String> = compose
        .services
        .values()
        .flat_map(|service| &service.ports)
        .filter_map(|port| Some(filled(port, &environment()).split(':').nth(1)?.to_owned()))
        .collect();
    for (name, service) in &compose.services {
        for (variable, value) in service.settings() {
            let Some((_, address)) = value.split_once("://") else {
                continue;
            };
            let address = address.rsplit('@').next().unwrap_or_default();
            let address = address.split('/').next().unwrap_or_default();
            let (host, port) = address.split_once(':').expect("a host and a port");
            let listens = match host {
                "127.0.0.1" => published.clone(), // for people, outside
                host => compose.listening(host),
            };
            assert!(
                listens.contains(&port.to_owned()),
                "{name}: {variable} leads to {address}, which listens on {listens:?}"
            );
        }
    }
}

#[test]
fn every_variable_is_set_and_used() {
    let used = names_in(&text("docker-compose.yml"));
    let given: BTreeSet<String> = environment().into_keys().collect();
    let unused: Vec<_> = given.difference(&used).collect();
    assert!(
        unused.is_empty(),
        "no program reads these variables of .env: {unused:?}"
    );
    let missing: Vec<_> = used.difference(&given).collect();
    assert_eq!(
        missing,
        ["SURGE_VERSION"],
        "docker-compose.yml has its default"
    );
}

#[test]
fn ports_are_on_loopback_and_move_together() {
    let compose = compose();
    let mut taken = BTreeSet::new();
    for (name, service) in &compose.services {
        for port in &service.ports {
            let (host, own) = port.rsplit_once(':').expect("published:own");
            let offset = host.strip_prefix("127.0.0.1:${SURGE_PORT_PREFIX:-7}");
            let offset = offset.unwrap_or_else(|| panic!("{name} publishes {port}"));
            assert!(taken.insert(offset.to_owned()), "7{offset} twice");
            // REST and gRPC are where `./surge up` has them.
            if own.starts_with('7') {
                assert_eq!(format!("7{offset}"), own, "{name}");
            }
        }
    }
    let known = text("docs/compose.md");
    for offset in taken {
        assert!(
            known.contains(&format!("7{offset}")),
            "7{offset} is not documented"
        );
    }
}

#[test]
fn named_files_exist() {
    let reports = "./report";
    for (name, service) in &compose().services {
        for volume in &service.volumes {
            let source = volume.split(':').next().unwrap_or_default();
            let is_file = source.starts_with('.') && source != reports;
            let there = project().join(source).exists();
            assert!(
                !is_file || there,
                "{name} mounts {source}, which is not there"
            );
        }
    }
}

#[test]
fn memory_limits_stay_within_promise() {
    let compose = compose();
    let services = compose.services.values();
    // The clock ends before the others start; the city and the load generator are guests.
    let stays = services.filter(|service| service.restart.as_deref() != Some("no"));
    let total: u64 = stays.map(Service::memory_bytes).sum();
    assert!(total < MEMORY_BYTES, "{total} bytes");
}

#[test]
fn jetstream_has_room_for_every_stream() {
    for path in [
        "docker/nats.conf",
        "k8s/base/nats.conf",
        "k8s/overlays/production/nats.conf",
    ] {
        let settings = text(path);
        let (_, room) = settings.split_once("max_file_store:").expect(path);
        let (gigabytes, _) = room.trim_start().split_once("GB").expect(path);
        let room = gigabytes.parse::<i64>().expect(path) * 1_000_000_000;
        let claimed = STREAMS.len() as i64 * STREAM_BYTES_LIMIT;
        assert!(claimed < room, "{path}: {claimed} bytes claimed of {room}");
    }
}

#[test]
fn containers_have_only_needed_rights() {
    for (name, service) in &compose().services {
        assert!(service.read_only, "{name} may write to its image");
        assert_eq!(service.cap_drop, ["ALL"], "{name}");
        assert_eq!(service.security_opt, ["no-new-privileges:true"], "{name}");
        let needs = if name == "postgres" { 5 } else { 0 };
        assert_eq!(service.cap_add.len(), needs, "{name}");
        assert!(service.logging["options"]["max-size"].is_string(), "{name}");
    }
}

#[test]
fn images_are_pinned_and_health_checked() {
    for (name, service) in &compose().services {
        let (_, tag) = service.image.rsplit_once(':').expect("a tag");
        let is_ours = service.build.is_some();
        let is_pinned = tag.contains('.');
        assert!(is_ours || is_pinned, "{name}: {}", service.image);
        let is_asked = service.healthcheck.is_some();
        assert_eq!(
            is_asked,
            !WITHOUT_HEALTHCHECK.contains(&name.as_str()),
            "{name}"
        );
    }
}

#[test]
fn spans_reach_jaeger() {
    let compose = compose();
    for name in ["observability/jaeger.yml", "observability/collector.yml"] {
        let pipelines: Pipelines = yaml(name);
        pipelines.check(name);
        assert_eq!(
            pipelines.receivers["otlp"]["protocols"]["grpc"]["endpoint"],
            "0.0.0.0:4317"
        );
    }
    let collector: Pipelines = yaml("observability/collector.yml");
    assert_eq!(collector.exporters["otlp"]["endpoint"], "jaeger:4317");
    // Each has the host name to which the services send spans.
    for (service, network) in [("jaeger", "direct"), ("collector", "default")] {
        let networks = &compose.services[service].networks;
        assert_eq!(networks[network]["aliases"][0], "otlp", "{service}");
    }
}

#[test]
fn prometheus_scrapes_existing_ports() {
    let compose = compose();
    let config: Value = yaml("observability/prometheus/prometheus.yml");
    let jobs = config["scrape_configs"].as_array().expect("jobs");
    let targets = jobs
        .iter()
        .map(|job| &job["static_configs"][0]["targets"][0]);
    for target in targets.filter_map(Value::as_str) {
        let (host, port) = target.split_once(':').expect("a host and a port");
        // Prometheus also scrapes itself.
        let listens = match host {
            "localhost" => compose.listening("prometheus"),
            host => compose.listening(host),
        };
        assert!(listens.contains(&port.to_owned()), "{target}: {listens:?}");
    }
}

/// The parts of docker-compose.yml that these tests check.
#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Service {
    image: String,
    build: Option<String>,
    command: Vec<String>,
    environment: BTreeMap<String, Option<String>>,
    ports: Vec<String>,
    volumes: Vec<String>,
    networks: Value,
    mem_limit: String,
    restart: Option<String>,
    read_only: bool,
    cap_drop: Vec<String>,
    cap_add: Vec<String>,
    security_opt: Vec<String>,
    logging: Value,
    healthcheck: Option<Value>,
}

/// A configuration of a collector; Jaeger is one too.
#[derive(Deserialize)]
struct Pipelines {
    receivers: BTreeMap<String, Value>,
    processors: BTreeMap<String, Value>,
    exporters: BTreeMap<String, Value>,
    extensions: BTreeMap<String, Value>,
    service: Value,
}

impl Compose {
    fn service(&self, name: &str) -> Service {
        self.services[name].clone()
    }

    /// The ports on which a container listens and which this project sets or uses.
    fn listening(&self, host: &str) -> Vec<String> {
        let fixed: &[&str] = match host {
            "postgres" => &["5432"],
            "nats" => &["4222", "8222"],
            // Another test checks which container has this name.
            "otlp" => &["4317"],
            "jaeger" | "collector" => &["4317", "4318", "8888"],
            "prometheus" => &["9090"],
            _ => &[],
        };
        let Some(service) = self.services.get(host) else {
            return fixed.iter().map(ToString::to_string).collect();
        };
        let own = ["HTTP_ADDR", "GRPC_ADDR", "CITY_ADDR"]
            .into_iter()
            .filter_map(|variable| {
                let address = service.environment.get(variable)?.as_ref()?;
                Some(address.rsplit(':').next()?.to_owned())
            });
        own.chain(fixed.iter().map(ToString::to_string)).collect()
    }
}

impl Service {
    /// The environment of the container, with the variables filled in from .env.
    fn settings(&self) -> BTreeMap<String, String> {
        let given = environment();
        let fill = |(name, value): (&String, &Option<String>)| {
            let value = match value {
                Some(value) => filled(value, &given),
                None => given.get(name).cloned().unwrap_or_default(),
            };
            (name.clone(), value)
        };
        self.environment.iter().map(fill).collect()
    }

    fn memory_bytes(&self) -> u64 {
        let mebibytes = self.mem_limit.strip_suffix('m');
        let mebibytes = mebibytes.and_then(|number| number.parse::<u64>().ok());
        mebibytes.expect("a limit in mebibytes, such as 48m") << 20
    }
}

impl Pipelines {
    /// Every name in a pipeline must be defined, and every definition must be used.
    fn check(&self, file: &str) {
        let named = |list: &Value| -> BTreeSet<String> {
            let names = list.as_array().into_iter().flatten();
            names
                .filter_map(|name| Some(name.as_str()?.to_owned()))
                .collect()
        };
        let defined =
            |map: &BTreeMap<String, Value>| -> BTreeSet<String> { map.keys().cloned().collect() };
        let traces = &self.service["pipelines"]["traces"];
        assert_eq!(
            named(&traces["receivers"]),
            defined(&self.receivers),
            "{file}"
        );
        assert_eq!(
            named(&traces["processors"]),
            defined(&self.processors),
            "{file}"
        );
        assert_eq!(
            named(&traces["exporters"]),
            defined(&self.exporters),
            "{file}"
        );
        assert_eq!(
            named(&self.service["extensions"]),
            defined(&self.extensions),
            "{file}"
        );
    }
}

fn compose() -> Compose {
    yaml("docker-compose.yml")
}

fn yaml<T: DeserializeOwned>(path: &str) -> T {
    serde_saphyr::from_str(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn text(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The variables of .env.
fn environment() -> BTreeMap<String, String> {
    let text = text(".env");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The value with each `${NAME:…}` replaced by the variable of .env.
fn filled(value: &str, given: &BTreeMap<String, String>) -> String {
    let mut parts = value.split("${");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (variable, rest) = part.split_once('}').expect("it is closed");
        let name = variable.split(':').next().unwrap_or_default();
        filled += given
            .get(name)
            .unwrap_or_else(|| panic!(".env lacks {name}"));
        filled += rest;
    }
    filled
}

/// The variables that Compose replaces: those in `${NAME:…}`, and those without a value in an
/// environment.
fn names_in(compose: &str) -> BTreeSet<String> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|letter| letter.is_ascii_uppercase() || letter == '_')
    };
    let replaced = compose.split("${").skip(1).filter_map(|rest| {
        let end = rest.find([':', '}'])?;
        Some(&rest[..end])
    });
    let passed_on = compose
        .lines()
        .filter_map(|line| line.trim().strip_suffix(':'))
        .filter(|name| is_name(name));
    replaced.chain(passed_on).map(str::to_owned).collect()
}
