//! The real servers: started, used, killed, restarted and stopped, until nothing of them is left.

use std::{
    error::Error as StdError,
    fs, io,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use private_servers::{Error, Nats, NatsSettings, Password, Postgres, PostgresSettings};
use rustix::process::{Pid, test_kill_process};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

type Outcome = Result<(), Box<dyn StdError>>;

#[tokio::test]
async fn committed_row_survives_kill_of_postgres() -> Outcome {
    let base = reachable_base()?;
    let mut postgres = Postgres::start(postgres_in(base.path())).await?;
    let mut admin = PgConnection::connect(&postgres.admin_url()).await?;
    sqlx::raw_sql("CREATE TABLE note (text TEXT); INSERT INTO note VALUES ('kept')")
        .execute(&mut admin)
        .await?;
    let port = postgres.port();

    postgres.kill().await;
    assert!(postgres.pid().is_none() && admin.ping().await.is_err());
    postgres.restart().await?;

    assert_eq!(postgres.port(), port);
    let mut admin = PgConnection::connect(&postgres.admin_url()).await?;
    let text: String = sqlx::query_scalar("SELECT text FROM note")
        .fetch_one(&mut admin)
        .await?;
    assert_eq!(text, "kept");
    Ok(())
}

#[tokio::test]
async fn postgres_is_durable_private_and_utf8() -> Outcome {
    let base = reachable_base()?;
    let postgres = Postgres::start(postgres_in(base.path())).await?;
    let mut admin = PgConnection::connect(&postgres.admin_url()).await?;
    for (setting, value) in [
        ("fsync", "on"),
        ("listen_addresses", "127.0.0.1"),
        ("server_encoding", "UTF8"),
    ] {
        let shown: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(setting)
            .fetch_one(&mut admin)
            .await?;
        assert_eq!(shown, value, "{setting}");
    }
    let wrong = postgres.url("admin", &Password::generate(), "postgres");
    assert!(
        PgConnection::connect(&wrong).await.is_err(),
        "the server accepts a wrong password"
    );
    Ok(())
}

#[tokio::test]
async fn stopped_servers_leave_nothing_behind() -> Outcome {
    let base = reachable_base()?;
    let postgres = Postgres::start(postgres_in(base.path())).await?;
    let nats = Nats::start(nats_in(base.path())).await?;
    let (server, broker) = (
        postgres.pid().expect("it runs"),
        nats.pid().expect("it runs"),
    );
    let mut admin = PgConnection::connect(&postgres.admin_url()).await?;
    let session = session_pid(&mut admin).await?;

    postgres.stop().await?;
    drop(nats); // dropping must do the same

    for (process, pid) in [
        ("postgres", server),
        ("its session", session),
        ("nats", broker),
    ] {
        assert!(is_gone(pid), "{process} is left");
    }
    assert_eq!(fs::read_dir(base.path())?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn data_moves_to_a_reachable_base() -> Outcome {
    let base = base_with_mode(0o700)?;
    let postgres = Postgres::start(postgres_in(base.path())).await?;
    let mut admin = PgConnection::connect(&postgres.admin_url()).await?;
    let data: String = sqlx::query_scalar("SHOW data_directory")
        .fetch_one(&mut admin)
        .await?;
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(
        !Path::new(&data).starts_with(base.path().canonicalize()?),
        is_root,
        "{data}"
    );

    postgres.stop().await?;
    assert!(!Path::new(&data).exists());
    Ok(())
}

#[tokio::test]
async fn acknowledged_message_survives_kill_of_nats() -> Outcome {
    let base = reachable_base()?;
    let mut nats = Nats::start(nats_in(base.path())).await?;
    let stream = async_nats::jetstream::stream::Config {
        name: "NOTES".to_owned(),
        subjects: vec!["notes.>".to_owned()],
        ..Default::default()
    };
    let jetstream = async_nats::jetstream::new(login(&nats).await?);
    jetstream.create_stream(stream).await?;
    jetstream.publish("notes.one", "kept".into()).await?.await?;

    nats.kill().await;
    nats.restart().await?;

    let jetstream = async_nats::jetstream::new(login(&nats).await?);
    let message = jetstream
        .get_stream("NOTES")
        .await?
        .get_last_raw_message_by_subject("notes.one")
        .await?;
    assert_eq!(message.payload, "kept");
    Ok(())
}

#[tokio::test]
async fn nats_requires_its_password() -> Outcome {
    let base = reachable_base()?;
    let nats = Nats::start(nats_in(base.path())).await?;
    let without_login = format!("nats://127.0.0.1:{}", nats.port());
    assert!(async_nats::connect(without_login).await.is_err());
    Ok(())
}

#[tokio::test]
async fn restart_keeps_port_and_log() -> Outcome {
    let base = reachable_base()?;
    let log_file = base.path().join("logs/nats.log");
    let settings = NatsSettings {
        log_file: Some(log_file.clone()),
        ..nats_in(base.path())
    };
    let mut nats = Nats::start(settings).await?;
    let (port, first) = (nats.port(), nats.pid());

    nats.restart().await?;

    assert_eq!(nats.port(), port);
    assert_ne!(nats.pid(), first);
    assert_eq!(
        fs::read_to_string(&log_file)?
            .matches("Server is ready")
            .count(),
        2
    );
    assert_eq!(fs::metadata(&log_file)?.permissions().mode() & 0o777, 0o600);
    Ok(())
}

#[tokio::test]
async fn busy_port_is_named_without_leftovers() -> Outcome {
    let base = reachable_base()?;
    let holder = TcpListener::bind("127.0.0.1:0")?;
    let busy = Some(holder.local_addr()?.port());

    let postgres = Postgres::start(PostgresSettings {
        port: busy,
        ..postgres_in(base.path())
    })
    .await;
    let nats = Nats::start(NatsSettings {
        port: busy,
        ..nats_in(base.path())
    })
    .await;

    for outcome in [postgres.map(drop), nats.map(drop)] {
        assert!(
            matches!(outcome, Err(Error::PortTaken { port }) if Some(port) == busy),
            "{outcome:?}"
        );
    }
    assert_eq!(fs::read_dir(base.path())?.count(), 0);
    Ok(())
}

#[tokio::test]
async fn failed_start_shows_the_log() -> Outcome {
    let base = reachable_base()?;
    let mut nats = Nats::start(nats_in(base.path())).await?;
    nats.kill().await;
    let store = folder_named(base.path(), "jetstream").ok_or("no store")?;
    fs::remove_dir_all(&store)?;
    fs::write(&store, "not a folder")?;

    let error = nats
        .restart()
        .await
        .expect_err("there is no store to open")
        .to_string();
    assert!(
        error.contains("nats-server ended") && error.contains("JetStream"),
        "{error}"
    );
    Ok(())
}

/// async-nats does not read the user and password of a URL.
async fn login(nats: &Nats) -> Result<async_nats::Client, Box<dyn StdError>> {
    let address: async_nats::ServerAddr = nats.url().parse()?;
    let (user, password) = (
        address.username().unwrap_or_default(),
        address.password().unwrap_or_default(),
    );
    let options =
        async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    Ok(options.connect(address).await?)
}

fn postgres_in(base: &Path) -> PostgresSettings {
    PostgresSettings {
        base_dir: base.to_owned(),
        ..PostgresSettings::default()
    }
}

fn nats_in(base: &Path) -> NatsSettings {
    NatsSettings {
        base_dir: base.to_owned(),
        ..NatsSettings::default()
    }
}

/// A base that any account can pass through, as a project folder usually is.
fn reachable_base() -> io::Result<TempDir> {
    base_with_mode(0o755)
}

fn base_with_mode(mode: u32) -> io::Result<TempDir> {
    let base = tempfile::tempdir()?;
    fs::set_permissions(base.path(), fs::Permissions::from_mode(mode))?;
    Ok(base)
}

fn folder_named(base: &Path, name: &str) -> Option<PathBuf> {
    let instances = fs::read_dir(base.join("instances")).ok()?;
    instances
        .flatten()
        .map(|instance| instance.path().join(name))
        .find(|path| path.exists())
}

async fn session_pid(connection: &mut PgConnection) -> Result<u32, Box<dyn StdError>> {
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(connection)
        .await?;
    Ok(u32::try_from(pid)?)
}

/// The server reaps its session, which may take a moment.
fn is_gone(pid: u32) -> bool {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a pid of the system");
    let deadline = Instant::now() + Duration::from_secs(5);
    while test_kill_process(pid).is_ok() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
