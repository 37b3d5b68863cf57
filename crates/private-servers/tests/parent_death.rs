//! A process killed by SIGKILL cannot clean up. Its servers end nevertheless, and the next process
//! removes their folders.
//!
//! The killed parent is this test program, started again to run only `the_parent`.

use std::{
    env,
    error::Error as StdError,
    fs, io,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use private_servers::{Nats, NatsSettings, Postgres, PostgresSettings, spawn_tied, sweep_stale};
use tokio::time::{Instant, sleep};

type Outcome = Result<(), Box<dyn StdError>>;

/// The base of the parent; set if this program is the parent.
const PARENT_BASE: &str = "PRIVATE_SERVERS_TEST_PARENT_BASE";

/// Long enough for a start on a busy machine; also how long a forgotten parent lives at most.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn servers_end_with_their_killed_parent() -> Outcome {
    let base = tempfile::tempdir()?;
    let mut parent = Parent(play_the_parent(base.path())?);
    let ports = announced_ports(base.path()).await?;
    assert!(ports.iter().all(|port| answers(*port)));
    assert_eq!(sweep_stale(base.path())?, 0, "the owner is alive");

    parent.0.kill()?; // SIGKILL
    parent.0.wait()?;

    if cfg!(target_os = "linux") {
        wait_until("the servers end by themselves", || {
            !ports.iter().any(|port| answers(*port))
        })
        .await?;
    }
    assert_eq!(sweep_stale(base.path())?, 2);
    assert!(!ports.iter().any(|port| answers(*port)));
    assert_eq!(sweep_stale(base.path())?, 0, "nothing is left to sweep");
    Ok(())
}

#[tokio::test]
async fn the_parent() -> Outcome {
    let Some(base) = env::var_os(PARENT_BASE).map(PathBuf::from) else {
        return Ok(());
    };
    let postgres = Postgres::start(PostgresSettings {
        base_dir: base.clone(),
        ..Default::default()
    })
    .await?;
    let nats = Nats::start(NatsSettings {
        base_dir: base.clone(),
        ..Default::default()
    })
    .await?;
    fs::write(
        base.join("announcing"),
        format!("{} {}", postgres.port(), nats.port()),
    )?;
    fs::rename(base.join("announcing"), announcement(&base))?;
    sleep(PATIENCE).await; // to be killed in
    Ok(())
}

/// Ends with the test, also when the test fails.
struct Parent(Child);

impl Drop for Parent {
    fn drop(&mut self) {
        self.0
            .kill()
            .and_then(|()| self.0.wait())
            .expect("it is our own child");
    }
}

fn play_the_parent(base: &Path) -> io::Result<Child> {
    let mut command = Command::new(env::current_exe()?);
    command
        .args(["--exact", "the_parent"])
        .env(PARENT_BASE, base)
        .stdout(Stdio::null());
    spawn_tied(command)
}

async fn announced_ports(base: &Path) -> Result<Vec<u16>, Box<dyn StdError>> {
    wait_until("the parent has started both servers", || {
        announcement(base).exists()
    })
    .await?;
    let ports = fs::read_to_string(announcement(base))?;
    Ok(ports.split(' ').map(str::parse).collect::<Result<_, _>>()?)
}

fn announcement(base: &Path) -> PathBuf {
    base.join("ports")
}

fn answers(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

async fn wait_until(what: &str, happens: impl Fn() -> bool) -> Outcome {
    let deadline = Instant::now() + PATIENCE;
    while !happens() {
        if Instant::now() >= deadline {
            return Err(format!("waited in vain until {what}").into());
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
