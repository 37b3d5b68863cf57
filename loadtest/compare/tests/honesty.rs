//! The load engine must not lie: real processes are stopped, killed and missing, and the figures
//! and the exit code say so. The server is the bare HTTP handler, the generator the command `ask`,
//! each a process of its own.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const LOADTEST: &str = env!("CARGO_BIN_EXE_loadtest");

/// For a debug build on a busy machine; nothing waits this long on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a process stands still.
const STANDSTILL: Duration = Duration::from_millis(500);

#[test]
fn stalled_server_shows_in_p99_and_max() {
    let server = Server::start();
    // Half a second of five is a tenth of all quotes.
    let generator = Generator::start(&server.url, &["--rate", "200", "--seconds", "5"]);
    stand_still(&server.process);
    let (code, result) = generator.end();
    let p99 = micros(&result, "p99");
    assert!(p99 > 400_000, "p99 of {p99} us hides the standstill");
    assert!(micros(&result, "max") >= p99);
    assert_eq!(
        result["quotes"], 1_000,
        "every quote was requested and answered: {result}"
    );
    // The service was slow, and the generator was not: on a quiet machine the figures stand.
    let reasons = result["void_reasons"].as_array().unwrap();
    let under_steal = reasons.iter().any(is_steal);
    assert!(under_steal || micros(&result, "p50") < 200_000, "{result}");
    let about_itself = reasons.iter().all(|it| is_lateness(it) || is_steal(it));
    assert!(about_itself, "{result}");
    assert_eq!(code == Some(0), result["valid"] == true);
}

#[test]
fn stalled_generator_voids_its_run() {
    let server = Server::start();
    let generator = Generator::start(&server.url, &["--rate", "200", "--seconds", "4"]);
    stand_still(&generator.process);
    let (code, result) = generator.end();
    assert_eq!(code, Some(1), "{result}");
    assert_eq!(result["valid"], false);
    assert!(
        result["void_reasons"]
            .as_array()
            .unwrap()
            .iter()
            .any(is_lateness),
        "{result}"
    );
    assert!(
        result["late_us"]["max"].as_u64().unwrap() > 400_000,
        "{result}"
    );
}

#[test]
fn dying_server_voids_the_run() {
    let mut server = Server::start();
    let generator = Generator::start(&server.url, &["--rate", "200", "--seconds", "3"]);
    server.process.kill().unwrap();
    let (code, result) = generator.end();
    assert_eq!(code, Some(1), "{result}");
    assert!(result["errors"].as_u64().unwrap() > 0, "{result}");
    let reasons = result["void_reasons"].to_string();
    assert!(reasons.contains("quotes failed"), "{reasons}");
    assert!(
        reasons.contains("refused") || reasons.contains("broke"),
        "{reasons}"
    );
}

#[test]
fn silent_server_counts_with_its_timeout() {
    let server = Server::start();
    let generator = Generator::start(&server.url, &["--rate", "100", "--seconds", "2"]);
    signal(&server.process, Signal::STOP);
    let (code, result) = generator.end();
    assert_eq!(code, Some(1), "{result}");
    assert!(micros(&result, "max") >= 1_990_000, "{result}");
    let (quotes, errors) = (
        result["quotes"].as_u64().unwrap(),
        result["errors"].as_u64().unwrap(),
    );
    assert_eq!(quotes + errors, 200, "none vanishes: {result}");
}

#[test]
fn interrupted_run_keeps_its_figures() {
    let server = Server::start();
    let generator = Generator::start(&server.url, &["--rate", "100", "--seconds", "600"]);
    signal(&generator.process, Signal::INT);
    let (code, result) = generator.end();
    assert_eq!(code, Some(130), "{result}");
    assert!(result["quotes"].as_u64().unwrap() > 0, "{result}");
    assert!(
        result["void_reasons"].to_string().contains("interrupted"),
        "{result}"
    );
}

#[test]
fn unreachable_address_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = ask(&url, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&url) && said.contains("refused"), "{said}");
}

/// Whether a reason for a void run is that the generator was late.
fn is_lateness(reason: &Value) -> bool {
    let reason = reason.as_str().unwrap();
    reason.contains("missed its schedule") || reason.contains("stood still")
}

/// Whether it is CPU steal, which is named before its effects.
fn is_steal(reason: &Value) -> bool {
    reason.as_str().unwrap().contains("hypervisor")
}

fn micros(result: &Value, percentile: &str) -> u64 {
    result["latency_us"][percentile].as_u64().unwrap()
}

/// The duration of the standstill is what is tested, so it is slept.
fn stand_still(process: &Child) {
    signal(process, Signal::STOP);
    std::thread::sleep(STANDSTILL);
    signal(process, Signal::CONT);
}

fn signal(process: &Child, signal: Signal) {
    kill_process(Pid::from_child(process), signal).unwrap();
}

/// A bare HTTP server; it ends with its standard input, that is with the test.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        let mut process = Command::new(LOADTEST)
            .args(["floor", "http"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let url = first_line(process.stdout.take().unwrap());
        Self { process, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By force, so that one that stands still ends as well.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A load on a server.
struct Generator {
    process: Child,
}

impl Generator {
    /// Starts it and waits until its first measured question has left.
    fn start(url: &str, options: &[&str]) -> Self {
        let mut process = ask(url, options).spawn().unwrap();
        let said = first_line(process.stderr.take().unwrap());
        assert!(said.starts_with("Asking"), "{said}");
        Self { process }
    }

    /// Waits for its end; gives the exit code and the result.
    fn end(mut self) -> (Option<i32>, Value) {
        let mut result = String::new();
        let mut output = self.process.stdout.take().unwrap();
        output.read_to_string(&mut result).unwrap();
        let code = self.process.wait().unwrap().code();
        (code, serde_json::from_str(&result).expect(&result))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn ask(url: &str, options: &[&str]) -> Command {
    let mut command = Command::new(LOADTEST);
    command
        .arg("ask")
        .arg(url)
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Reads on in the background, so that what is printed later does not fail.
fn first_line(output: impl Read + Send + 'static) -> String {
    let (result, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            result.send(line).ok();
        }
    });
    lines
        .recv_timeout(PATIENCE)
        .expect("it says something in time")
}
