//! The suite in containers, by docker-compose.yml: from the build to the removal of the last
//! volume. It needs Docker, so it runs only with `./surge test --compose`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    process::{Command, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use city::Target;
use serde::Deserialize;
use surge_proto::DataflowMode;

use crate::{
    api::{MODES, PublicApi, downtown, grand_central},
    stack_support::{SURGE, project},
    support::{Outcome, eventually},
};

/// A project of its own, so that the test does not meet another suite on this machine.
const PROJECT: &str = "surge-test";
const PORT_PREFIX: &str = "6";

const FIRST_QUOTE_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(10);
const LIGHT_LIMIT_BYTES: f64 = 500e6;
const FULL_LIMIT_BYTES: f64 = 1.5e9;

#[tokio::test]
#[ignore = "needs Docker: ./surge test --compose"]
async fn suite_runs_in_containers() -> Outcome {
    let compose = Compose;
    compose.run(&["down", "--volumes", "--remove-orphans"])?; // what a killed run left
    compose.build()?;

    let started = Instant::now();
    compose.run(&["up", "--detach", "--wait"])?;
    let api = PublicApi::of(target());
    for mode in MODES {
        quotes_from_live_data(&api, mode).await?;
    }
    let first_quotes = started.elapsed();
    print(format_args!("each mode quotes after {first_quotes:.1?}"));
    ensure!(first_quotes < FIRST_QUOTE_LIMIT);
    a_quote_is_found_in_jaeger(&api).await?;
    the_mode_can_be_switched(&api).await?;

    the_comparison_runs_inside(&compose)?;
    the_comparison_runs_from_outside()?;
    a_ride_outlives_its_service(&compose, &api).await?;

    compose.run(&["--profile", "full", "up", "--detach", "--wait"])?;
    prometheus_reaches_the_services(&api).await?;
    a_quote_is_found_in_jaeger(&api).await?;
    let full = memory_bytes()?;
    print_memory("full", &full);
    ensure!(total(&full) < FULL_LIMIT_BYTES);
    compose.end()
}

/// Waits for a quote that is not degraded: the first batch run may be later than the first request.
async fn quotes_from_live_data(api: &PublicApi, mode: DataflowMode) -> Outcome {
    eventually("a quote is made from live data", async || {
        let quote = api.quote(downtown(), mode).await?;
        ensure!(quote.dataflow == mode && !quote.degraded, "{quote:?}");
        Ok(())
    })
    .await
}

/// All quotes are traced (.env), and a trace is in Jaeger a moment later.
async fn a_quote_is_found_in_jaeger(api: &PublicApi) -> Outcome {
    let answer = api.ask_quote(downtown(), DataflowMode::Request).await?;
    let trace_id = answer.headers.get("trace-id");
    let trace_id = trace_id.context("the answer has no trace-id")?.to_str()?;
    let url = format!("{}/api/traces/{trace_id}", published("186"));
    eventually("the trace has all three services", async || {
        let found: Traces = api.fetch(&url).await?;
        let trace = found.data.first().context("no such trace yet")?;
        ensure!(trace.processes.len() == 3, "only {:?}", trace.processes);
        Ok(())
    })
    .await
}

async fn the_mode_can_be_switched(api: &PublicApi) -> Outcome {
    let switched = api.switch(DataflowMode::Events).await?;
    ensure!(switched.mode == DataflowMode::Events, "{switched:?}");
    let quote = api.quote(downtown(), None).await?;
    ensure!(quote.dataflow == DataflowMode::Events, "{quote:?}");
    Ok(())
}

/// The comparison is the heaviest load of the suite, so memory is measured during it.
fn the_comparison_runs_inside(compose: &Compose) -> Outcome {
    fs::create_dir_all(project().join("report"))?; // otherwise Docker makes it, owned by root
    let watch = MemoryWatch::start();
    let report = "report/compare-compose";
    let (json, html) = (format!("{report}.json"), format!("{report}.html"));
    let compared = compose.run(&[
        "run", "--rm", "--no-TTY", "loadtest", "compare", "--quick", "--json", &json, "--html",
        &html,
    ])?;
    print(String::from_utf8_lossy(&compared.stdout));
    let most = watch.end()?;
    print_memory("light, at most", &most);
    ensure!(total(&most) < LIGHT_LIMIT_BYTES);
    let figures: Figures = serde_json::from_slice(&fs::read(project().join(json))?)?;
    ensure!(figures.valid, "the comparison is void");
    Ok(())
}

fn the_comparison_runs_from_outside() -> Outcome {
    let figures = tempfile::tempdir()?;
    let path = |name| figures.path().join(name);
    let mut compare = Command::new(SURGE);
    compare
        .args([
            "compare",
            "--quick",
            "--rate=60",
            "--rounds=0",
            "--market-seeds=0",
        ])
        .args(["--target", &published("103")])
        .arg("--json")
        .arg(path("compare.json"))
        .arg("--html")
        .arg(path("compare.html"));
    done(compare.current_dir(project()))?;
    Ok(())
}

/// The service is killed with SIGKILL.
async fn a_ride_outlives_its_service(compose: &Compose, api: &PublicApi) -> Outcome {
    api.goes_online(grand_central()).await?;
    let quote = api.quote(downtown(), DataflowMode::Request).await?;
    let ride = api.insists_on_ride(&quote, downtown()).await?;
    compose.run(&["kill", "--signal=KILL", "ride-management"])?;
    ensure!(
        api.ride(ride.ride_id).await.is_err(),
        "the killed service answers"
    );
    compose.run(&["up", "--detach", "--wait", "ride-management"])?;
    let kept = eventually("the service answers again", async || {
        api.ride(ride.ride_id).await
    })
    .await?;
    let promise = |ride: &crate::api::Ride| (ride.rider_id, ride.quote_id, ride.fare_cents);
    ensure!(promise(&kept) == promise(&ride), "{kept:?}");
    quotes_from_live_data(api, DataflowMode::Request).await
}

async fn prometheus_reaches_the_services(api: &PublicApi) -> Outcome {
    let url = format!("{}/api/v1/query?query=up", published("190"));
    eventually("every process of ours is scraped", async || {
        let answer: Scraped = api.fetch(&url).await?;
        let up = answer.data.result.iter();
        let up: BTreeMap<_, _> = up
            .map(|one| (one.metric.job.as_str(), one.value.1.as_str()))
            .collect();
        for job in [
            "driver-management",
            "ride-management",
            "price-optimization",
            "price-optimization-batch",
        ] {
            ensure!(up.get(job) == Some(&"1"), "{job} is not: {up:?}");
        }
        Ok(())
    })
    .await
}

/// The containers, networks and volumes of this test; dropping it removes them.
struct Compose;

impl Compose {
    /// Builds the image, which takes minutes the first time; the terminal shows the progress.
    fn build(&self) -> Outcome {
        let ended = self.command(&["build"])?.status()?;
        ensure!(ended.success(), "docker compose build ended with {ended}");
        Ok(())
    }

    /// `docker compose …`, which must succeed.
    fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        done(&mut self.command(arguments)?)
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let folder = fs::metadata(project())?;
        let mut command = Command::new("docker");
        command
            .args(["compose", "--project-name", PROJECT])
            .args(arguments)
            .current_dir(project())
            .env("SURGE_PORT_PREFIX", PORT_PREFIX)
            .env("SURGE_UID", folder.uid().to_string())
            .env("SURGE_GID", folder.gid().to_string())
            .env_remove("COMPOSE_PROFILES");
        Ok(command)
    }

    /// Ends everything, as quickly as processes that handle SIGTERM.
    fn end(self) -> Outcome {
        let began = Instant::now();
        self.run(&["--profile", "full", "stop"])?;
        let took = began.elapsed();
        print(format_args!("all containers stop within {took:.1?}"));
        ensure!(took < END_LIMIT);
        self.run(&["--profile", "full", "down", "--volumes"])?;
        let left = docker(&["ps", "--all", "--quiet", "--filter", OURS])?;
        ensure!(left.is_empty(), "containers are left: {left}");
        let left = docker(&["volume", "ls", "--quiet", "--filter", OURS])?;
        ensure!(left.is_empty(), "volumes are left: {left}");
        Ok(())
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["--profile", "full", "down", "--volumes"]) {
            print(format_args!("{error:#}"));
        }
    }
}

const OURS: &str = "label=com.docker.compose.project=surge-test";

fn docker(arguments: &[&str]) -> anyhow::Result<String> {
    let output = done(Command::new("docker").args(arguments))?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a command to its end; the error of a failed one holds its output.
fn done(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        let printed = [&output.stdout[..], &output.stderr[..]].concat();
        bail!(
            "{command:?} ended with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&printed)
        );
    }
    Ok(output)
}

/// Measures the highest memory of each container.
struct MemoryWatch {
    stop: Sender<()>,
    watching: JoinHandle<anyhow::Result<BTreeMap<String, f64>>>,
}

impl MemoryWatch {
    fn start() -> Self {
        let (stop, stopped) = channel();
        Self {
            stop,
            watching: thread::spawn(move || most_memory(&stopped)),
        }
    }

    fn end(self) -> anyhow::Result<BTreeMap<String, f64>> {
        drop(self.stop);
        self.watching.join().expect("the watch does not panic")
    }
}

fn most_memory(stopped: &Receiver<()>) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut most: BTreeMap<String, f64> = BTreeMap::new();
    while stopped.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout) {
        for (name, bytes) in memory_bytes()? {
            let known = most.entry(name).or_default();
            *known = known.max(bytes);
        }
    }
    Ok(most)
}

/// The present memory of each container of the suite, without the load generator.
fn memory_bytes() -> anyhow::Result<BTreeMap<String, f64>> {
    let ids = docker(&["ps", "--quiet", "--filter", OURS])?;
    let mut arguments = vec![
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}} {{.MemUsage}}",
    ];
    arguments.extend(ids.lines());
    let shown = docker(&arguments)?;
    let lines = shown.lines().filter(|line| !line.contains("loadtest"));
    lines
        .map(|line| used(line).with_context(|| line.to_owned()))
        .collect()
}

/// `surge-test-nats-1 12.3MiB / 48MiB`: the name and the bytes in use.
fn used(line: &str) -> Option<(String, f64)> {
    let (name, usage) = line.split_once(' ')?;
    let usage = usage.split(" / ").next()?;
    let unit_at = usage.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = usage.split_at(unit_at);
    let unit_bytes = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some((name.to_owned(), number.parse::<f64>().ok()? * unit_bytes))
}

fn total(memory: &BTreeMap<String, f64>) -> f64 {
    memory.values().sum()
}

fn print_memory(when: &str, memory: &BTreeMap<String, f64>) {
    for (name, bytes) in memory {
        print(format_args!("  {name} {:.0} MB", bytes / 1e6));
    }
    print(format_args!(
        "memory, {when}: {:.0} MB",
        total(memory) / 1e6
    ));
}

/// Prints the progress of this long test.
#[expect(clippy::print_stderr, reason = "it is run by hand, with --nocapture")]
fn print(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

fn published(offset: &str) -> String {
    format!("http://127.0.0.1:{PORT_PREFIX}{offset}")
}

fn target() -> Target {
    Target {
        driver: published("101"),
        ride: published("102"),
        price: published("103"),
    }
}

/// An answer of Jaeger.
#[derive(Deserialize)]
struct Traces {
    data: Vec<Trace>,
}

#[derive(Deserialize)]
struct Trace {
    processes: BTreeMap<String, serde_json::Value>,
}

/// An answer of Prometheus.
#[derive(Deserialize)]
struct Scraped {
    data: Samples,
}

#[derive(Deserialize)]
struct Samples {
    result: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    metric: Labels,
    value: (f64, String),
}

#[derive(Deserialize)]
struct Labels {
    job: String,
}

/// The part of compare.json that says whether the run is valid.
#[derive(Deserialize)]
struct Figures {
    valid: bool,
}

#[test]
fn reads_memory_as_docker_prints_it() {
    let line = "surge-test-nats-1 12.5MiB / 48MiB";
    let read = ("surge-test-nats-1".to_owned(), 12.5 * 1024.0 * 1024.0);
    assert_eq!(used(line), Some(read));
    assert_eq!(used("surge-test-nats-1 much"), None);
}
