//! The command from outside: its output and its exit codes.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread,
};

use crate::support::{PATIENCE, beside_others, is_alive, surge, text, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use surge::{Part, RunningStack};

type Outcome = anyhow::Result<()>;

#[test]
fn commands_work_on_a_running_stack() -> Outcome {
    let folder = beside_others()?;
    let mut up = Up::start(folder.path())?;

    let status = surge(folder.path(), &["status"]).output()?;
    let shown = text(&status);
    assert!(status.status.success(), "{shown}");
    for part in Part::ALL {
        assert!(
            shown.contains(part.name()),
            "{part} is missing in:\n{shown}"
        );
    }
    assert!(shown.contains("dataflow: database (epoch 0"), "{shown}");

    let switched = text(&surge(folder.path(), &["mode", "events"]).output()?);
    assert!(switched.starts_with("events (epoch 1,"), "{switched}");
    let unknown = surge(folder.path(), &["mode", "kafka"]).output()?;
    assert!(!unknown.status.success());
    assert!(
        text(&unknown).contains("allowed: database, request, events"),
        "{}",
        text(&unknown)
    );

    let record = RunningStack::find(folder.path())?.expect("it runs");
    let price = format!("http://127.0.0.1:{}/", record.ports.http[2][0]);
    let ready = surge(folder.path(), &["ready", &price]).output()?;
    assert!(ready.status.success(), "{}", text(&ready));

    for arguments in [
        vec!["status"],
        vec!["mode"],
        vec!["journey"],
        vec!["journey", "--json"],
        vec!["costs", "--seconds", "1"],
    ] {
        assert_reports_unprinted(|| surge(folder.path(), &arguments));
    }

    let mut elsewhere = surge(folder.path(), &["mode", "events"]);
    let base = free_base().to_string();
    let elsewhere = elsewhere.env("SURGE_PORT_BASE", base).output()?;
    assert_eq!(elsewhere.status.code(), Some(1), "{}", text(&elsewhere));

    let doctor = surge(folder.path(), &["doctor"]).output()?;
    assert!(doctor.status.success(), "{}", text(&doctor));

    let second = up_command(folder.path()).output()?;
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second).contains("runs already"), "{}", text(&second));

    up.signal(Signal::INT);
    assert!(up.child.wait()?.success());
    assert!(!up.pids.iter().copied().any(is_alive));

    let gone = surge(folder.path(), &["ready", &price]).output()?;
    assert_eq!(gone.status.code(), Some(1));
    assert!(
        text(&gone).contains("readyz: cannot connect"),
        "{}",
        text(&gone)
    );
    Ok(())
}

#[test]
fn journey_shows_three_quotes_then_one() -> Outcome {
    let folder = beside_others()?;
    let mut up = Up::start(folder.path())?;

    let all = surge(folder.path(), &["journey"]).output()?;
    let shown = text(&all);
    assert!(all.status.success(), "{shown}");
    for word in [
        "database",
        "request",
        "events",
        "data age, ms",
        "observed",
        "New York",
    ] {
        assert!(shown.contains(word), "{word} is missing in:\n{shown}");
    }
    assert!(
        !shown.contains('\u{1b}'),
        "colours are for terminals:\n{shown}"
    );
    let ids: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.trim().strip_prefix("./surge journey "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let [database, _, events] = ids[..] else {
        panic!("three quotes are named in:\n{shown}");
    };

    let nowhere = "http://127.0.0.1:1";
    let price = RunningStack::find(folder.path())?.map(|record| record.price_url());
    let price = price.expect("it runs");
    for (id, words) in [
        (
            database,
            ["batch run ", "to pricing.zone_market", "sets the data age"],
        ),
        (
            events,
            [
                "surge.v1.supply.watermark",
                "of stream DEMAND",
                "sets the data age",
            ],
        ),
    ] {
        let arguments = ["journey", id, "--target", nowhere, "--target", &price];
        let one = surge(folder.path(), &arguments).output()?;
        let shown = text(&one);
        assert!(one.status.success(), "{shown}");
        for word in words.into_iter().chain(["rho", "fare", "/trace/"]) {
            assert!(shown.contains(word), "{word} is missing in:\n{shown}");
        }
    }

    let json = surge(folder.path(), &["journey", "--mode", "request", "--json"]).output()?;
    let journey: serde_json::Value = serde_json::from_slice(&json.stdout)?;
    assert_eq!(journey["dataflow"], "request");
    assert_eq!(journey["feeds"][0]["stops"][0]["stage"], "asked");

    let nobodys = ["journey", "019a0000-0000-7000-8000-000000000000"];
    let unknown = surge(folder.path(), &nobodys).output()?;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        text(&unknown).contains("last 10000 quotes"),
        "{}",
        text(&unknown)
    );
    let malformed = surge(folder.path(), &["journey", "yesterday's"]).output()?;
    assert_eq!(malformed.status.code(), Some(2), "{}", text(&malformed));

    up.signal(Signal::INT);
    assert!(up.child.wait()?.success());
    Ok(())
}

#[test]
fn killed_stack_leaves_no_process() -> Outcome {
    let folder = beside_others()?;
    let mut first = Up::start(folder.path())?;
    first.signal(Signal::KILL);
    first.child.wait()?;
    wait_until("all parts have ended", || {
        !first.pids.iter().copied().any(is_alive)
    });

    // Another process may have its pid now: here the pid of this test program.
    let record = folder.path().join("stack.json");
    let mut left: serde_json::Value = serde_json::from_slice(&fs::read(&record)?)?;
    left["pid"] = std::process::id().into();
    fs::write(&record, left.to_string())?;
    let status = surge(folder.path(), &["status"]).output()?;
    assert_eq!(status.status.code(), Some(1), "{}", text(&status));

    let mut next = Up::start(folder.path())?;
    next.signal(Signal::TERM);
    assert!(next.child.wait()?.success());
    assert!(
        !folder.path().join("instances").exists(),
        "the folders of the first stack are removed"
    );
    Ok(())
}

/// What people have in their shells for psql, the `nats` command and their own services.
const OF_OTHER_PROGRAMS: [(&str, &str); 10] = [
    ("PGSSLMODE", "verify-full"),
    ("PGSSLROOTCERT", "/nowhere/root.crt"),
    ("PGHOST", "nowhere"),
    ("PGOPTIONS", "-c default_transaction_read_only=on"),
    ("NATS_URL", "nats://nowhere:4222"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9"),
    ("OTEL_RESOURCE_ATTRIBUTES", "service.name=somebodys"),
    ("OTEL_SDK_DISABLED", "true"),
    ("OTEL_TRACES_EXPORTER", "none"),
    ("GOMAXPROCS", "many"),
];

#[tokio::test]
async fn variables_of_other_programs_stay_outside() -> Outcome {
    let folder = beside_others()?;
    let notes = folder.path().join("notes");
    let mut command = up_command(folder.path());
    for name in surge::PASSED_ON {
        command.env_remove(name);
    }
    command
        .envs(OF_OTHER_PROGRAMS)
        .env("PUBLISH_EVERY", "100ms")
        .env("BATCH_EVERY", "4m")
        .stderr(fs::File::create(&notes)?);
    let mut up = Up::run(command, folder.path())?;
    let notes = fs::read_to_string(&notes)?;
    let obeyed = "from your shell: BATCH_EVERY=4m PUBLISH_EVERY=100ms";
    assert!(notes.lines().any(|line| line == obeyed), "{notes}");

    for pid in &up.pids {
        // Linux alone shows the environment of a process so.
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap_or_default();
        for (name, value) in OF_OTHER_PROGRAMS {
            let foreign = format!("{name}={value}");
            assert!(!environment.contains(&foreign), "{pid} has {foreign}");
        }
    }

    let ports = RunningStack::find(folder.path())?.expect("it runs").ports;
    let services = format!("http://127.0.0.1:{}/api/services", ports.traces);
    let client = city::Client::new(PATIENCE);
    let collected = async {
        loop {
            let names = client.get(&services).await?.json::<serde_json::Value>()?;
            if names.to_string().contains("price-optimization") {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, collected).await??;
    up.signal(Signal::INT);
    assert!(up.child.wait()?.success());
    Ok(())
}

#[test]
fn busy_port_is_named_before_start() -> Outcome {
    let folder = beside_others()?;
    let holder = TcpListener::bind("127.0.0.1:0")?;
    let busy = holder.local_addr()?.port();
    let mut up = surge(folder.path(), &["up"]);
    let output = up.env("SURGE_PORT_BASE", (busy - 3).to_string()).output()?;
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains(&format!("port {busy} ")), "{shown}");
    assert!(shown.contains("SURGE_PORT_BASE="), "{shown}");
    assert!(!folder.path().join("instances").exists());
    Ok(())
}

#[test]
fn no_command_panics_on_full_disk() -> Outcome {
    let folder = beside_others()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let evening = "data/uber-pickups-2014-04-04-evening.csv.gz";
    let (out, html) = (at("profile.json"), at("compare.html"));
    let report = "loadtest/compare/tests/data/made-up.json";
    for arguments in [
        vec!["--help"],
        vec!["compare", "--help"],
        vec!["--version"],
        vec!["plan"],
        vec!["doctor"],
        vec![
            "train",
            "--pickups",
            evening,
            "--until",
            "2014-04-05T00:00",
            "--out",
            &out,
        ],
        vec![
            "backtest",
            "--train",
            evening,
            "--test",
            "data/uber-pickups-2014-05.csv.gz",
        ],
        vec!["compare", "--from", report, "--html", &html],
    ] {
        assert_reports_unprinted(|| surge(folder.path(), &arguments));
    }
    assert_reports_unprinted(|| up_command(folder.path()));
    Ok(())
}

/// Another stack may have the standard ports: nobody asks them by default.
#[test]
fn without_stack_commands_ask_nobody() -> Outcome {
    let folder = beside_others()?;
    let base = free_base().to_string();
    let commands = ["status", "mode", "journey", "compare", "city", "costs"];
    for arguments in commands.map(|name| vec![name]).into_iter().chain([
        vec!["mode", "events"],
        vec!["compare", "--driver-url", "http://127.0.0.1:1"],
    ]) {
        for base in [None, Some(&base)] {
            let mut command = surge(folder.path(), &arguments);
            base.map(|base| command.env("SURGE_PORT_BASE", base));
            let output = command.output()?;
            let shown = text(&output);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {shown}");
            assert_eq!(shown.lines().count(), 1, "{arguments:?}: {shown}");
            assert!(shown.contains("start one with ./surge up"), "{shown}");
            assert!(shown.trim_end().chars().count() <= 80, "{shown}");
        }
    }
    Ok(())
}

/// Nobody reads the result: a full disk is reported in one line, a closed pipe is not.
///
/// # Panics
/// If the command does anything else.
fn assert_reports_unprinted(command: impl Fn() -> Command) {
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let (reader, closed) = io::pipe().expect("a pipe");
    drop(reader);
    for (stdout, expected) in [
        (Stdio::from(full.expect("Linux has it")), "No space left"),
        (Stdio::from(closed), ""),
    ] {
        let child = command().stdout(stdout).stderr(Stdio::piped()).spawn();
        let output = child.and_then(Child::wait_with_output);
        let output = output.expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        let complaints = errors.lines().filter(|line| line.contains("cannot print"));
        let complaints: Vec<_> = complaints.collect();
        assert_eq!(output.status.code(), Some(1), "{:?}: {errors}", command());
        assert!(!errors.contains("panicked"), "{:?}: {errors}", command());
        assert_eq!(
            complaints.len(),
            usize::from(!expected.is_empty()),
            "{errors}"
        );
        assert!(errors.contains(expected), "{:?}: {errors}", command());
    }
}

/// A `surge up` in the background, with the pids of its parts.
struct Up {
    child: Child,
    pids: Vec<u32>,
}

impl Up {
    /// Starts it and waits until it prints that it runs.
    fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::run(up_command(folder), folder)
    }

    /// The same with a command that differs.
    fn run(mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().expect("it is piped");
        let (announce, announced) = mpsc::channel();
        // Reads to the end, so that later output of the command does not fail.
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            for _announcement in lines.filter(|line| line.contains("Ctrl-C ends it")) {
                announce.send(()).ok();
            }
        });
        let runs = announced.recv_timeout(PATIENCE).is_ok();
        let record = RunningStack::find(folder)?;
        let parts = record.map_or_else(Vec::new, |record| record.parts);
        let pids = parts.into_iter().filter_map(|(_, pid)| pid).collect();
        let up = Self { child, pids };
        anyhow::ensure!(
            runs && up.pids.len() == Part::ALL.len(),
            "surge up did not start within {PATIENCE:?}"
        );
        Ok(up)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is our own child");
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::TERM);
            self.child.wait().expect("it is our own child");
        }
    }
}

/// `surge up` on other ports than the documented ones, which may be in use on this machine.
fn up_command(folder: &Path) -> Command {
    let mut command = surge(folder, &["up"]);
    command.env("SURGE_PORT_BASE", free_base().to_string());
    command
}

/// A base whose ports are free now, another one for each test of this process.
fn free_base() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let is_free = |base: &u16| {
        [1, 2, 3, 22, 32, 86, 101, 102, 103, 117]
            .iter()
            .all(|offset| TcpListener::bind(("127.0.0.1", base + offset)).is_ok())
    };
    let first = 20_000 + (std::process::id() % 50) as u16 * 200;
    (0..50)
        .map(|_| first + 200 * NEXT.fetch_add(1, Ordering::Relaxed))
        .find(is_free)
        .expect("some ports are free")
}
