//! NATS JetStream: the connection, streams and buckets, and messages that carry their schema and
//! their trace.
//!
//! ```text
//!  publisher ── Surge-Schema, traceparent ──▶ stream, 7 days ──▶ consumer ──▶ done
//!                                                                  │ can never take effect
//!                                                                  ▼
//!                               dead letter: Surge-Dead-Reason, Surge-Dead-Subject
//! ```
//!
//! The client connects in the background and connects again by itself, so a process starts, and
//! works, while NATS is away. Servers older than 2.10 ignore settings that they do not know; so a
//! stream is compared with what was asked for.

use std::{
    error::Error as _,
    fs, io,
    path::{Path, PathBuf},
    sync::{OnceLock, atomic::Ordering},
    time::Duration,
};

pub use async_nats::jetstream::{Context as JetStream, message::PublishMessage};
use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr,
    connection::State as Connection,
    header::HeaderMap,
    jetstream::{
        self, Context, Message,
        kv::Store,
        stream::{Config, DiscardPolicy, Info, RetentionPolicy, State, StorageType},
    },
};
use bytes::Bytes;
use clap::Args;
use prometheus_client::registry::Registry;
use tracing::{Span, field::Empty, info, info_span, warn};

use crate::{
    metrics::{clients, on_scrape},
    propagation,
};

/// How long NATS may take to answer anything.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a stream keeps its messages.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Most bytes of disk that a stream may take; the oldest messages go first. The server reserves
/// them, and refuses a stream when fewer are free.
pub const STREAM_BYTES_LIMIT: i64 = 512 * 1024 * 1024;

/// Why NATS did not do what a process asked of it.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The URL cannot be used.
    #[error("NATS_URL cannot be used: {0}")]
    Url(String),
    /// A file of NATS_CA, NATS_CERT or NATS_KEY cannot be used.
    #[error("{0} of NATS_CA, NATS_CERT or NATS_KEY cannot be used: {1}")]
    Certificate(String, String),
    /// The server refuses the login, or it or this client has not the certificate it must have.
    #[error("the connection to NATS is refused (NATS_URL, NATS_CA, NATS_CERT): {0}")]
    Connection(String),
    /// The server refused a request.
    #[error("NATS refused {what}: {why}")]
    Refused {
        /// The request.
        what: String,
        /// Its answer.
        why: String,
    },
    /// The server made the stream, but ignored a setting.
    #[error("stream {stream} is not as asked for ({setting}); is nats-server older than 2.9?")]
    Different {
        /// The stream.
        stream: String,
        /// The setting that differs.
        setting: &'static str,
    },
}

impl NatsError {
    fn refused(what: impl ToString, why: impl ToString) -> Self {
        Self::Refused {
            what: what.to_string(),
            why: why.to_string(),
        }
    }
}

/// TLS to NATS. A URL that begins with `tls://` asks for it, as do these settings.
#[derive(Args, Clone, Debug, Default)]
pub struct NatsTls {
    /// File with the root certificates (PEM) that NATS is checked with; none for those of the
    /// system.
    #[arg(long, env = "NATS_CA", value_name = "PATH")]
    pub nats_ca: Option<PathBuf>,

    /// File with the certificate (PEM) that the client shows to NATS.
    #[arg(long, env = "NATS_CERT", value_name = "PATH", requires = "nats_key")]
    pub nats_cert: Option<PathBuf>,

    /// File with the key (PEM) of that certificate.
    #[arg(long, env = "NATS_KEY", value_name = "PATH", requires = "nats_cert")]
    pub nats_key: Option<PathBuf>,
}

impl NatsTls {
    fn add_to(&self, options: ConnectOptions) -> ConnectOptions {
        let mut options = options.require_tls(self.nats_ca.is_some() || self.nats_cert.is_some());
        if let Some(roots) = &self.nats_ca {
            options = options.add_root_certificates(roots.clone());
        }
        if let Some((certificate, key)) = self.nats_cert.as_ref().zip(self.nats_key.as_ref()) {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        options
    }
}

/// The client would look for them at each attempt, in vain and in silence.
fn holds_pem(path: &Path) -> Result<(), NatsError> {
    let wrong = |why: String| NatsError::Certificate(path.display().to_string(), why);
    match fs::read_to_string(path) {
        Ok(text) if text.contains("-----BEGIN ") => Ok(()),
        Ok(_) => Err(wrong(
            "it holds no certificate or key in the form PEM".to_owned(),
        )),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Connects in the background, also when the server is not there yet, and again whenever the
/// connection is lost. `urls` holds the URLs of all nodes of a cluster, with commas between; the
/// client uses one of them at a time.
///
/// # Errors
/// When a URL cannot be used, or a server that is there refuses the client or is not to be trusted.
pub async fn connect(urls: &str, name: &str, tls: &NatsTls) -> Result<Client, NatsError> {
    let unusable = |error: std::io::Error| NatsError::Url(error.to_string());
    let nodes = urls.split(',').map(|url| url.trim().parse());
    let nodes: Vec<ServerAddr> = nodes.collect::<Result<_, _>>().map_err(unusable)?;
    // `split` gives at least one.
    let first = &nodes[0];
    SERVER.get_or_init(|| (first.host().to_owned(), first.port()));
    let options = || {
        tls.add_to(login(first))
            .name(name)
            .connection_timeout(REQUEST_TIMEOUT)
    };
    let files = [&tls.nats_ca, &tls.nats_cert, &tls.nats_key];
    files
        .into_iter()
        .flatten()
        .try_for_each(|path| holds_pem(path))?;
    // A client that connects in the background never says why it does not succeed.
    if let Err(error) = options().connect(nodes.clone()).await
        && is_refused(&error)
    {
        return Err(NatsError::Connection(error.to_string()));
    }
    options()
        .retry_on_initial_connect()
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(Duration::from_secs(5))
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(50 * (attempts as u64).clamp(1, 20))
        })
        .event_callback(|event| async move { log(&event) })
        .connect(nodes)
        .await
        .map_err(|error| NatsError::Url(error.to_string()))
}

/// The NATS server of this process, as its spans name it: of a cluster the first node. A process
/// has one, so the first connection decides.
static SERVER: OnceLock<(String, u16)> = OnceLock::new();

/// The host of the NATS server of this process, as spans name it.
pub fn server_address() -> Option<&'static str> {
    SERVER.get().map(|(address, _)| address.as_str())
}

/// The port of the NATS server of this process, signed as whole numbers in a span are.
pub fn server_port() -> Option<i64> {
    SERVER.get().map(|(_, port)| i64::from(*port))
}

/// Whether a person has to change something before the connection can succeed.
fn is_refused(error: &ConnectError) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<io::Error>());
    match error.kind() {
        ConnectErrorKind::Tls
        | ConnectErrorKind::Authentication
        | ConnectErrorKind::AuthorizationViolation => true,
        // The other end has no TLS, or a certificate is not to be trusted.
        _ => cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData),
    }
}

/// The client does not read the user and the password of a URL by itself. All nodes of a cluster
/// share them.
fn login(server: &ServerAddr) -> ConnectOptions {
    match (server.username(), server.password()) {
        (Some(user), Some(password)) => {
            ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
        }
        _ => ConnectOptions::new(),
    }
}

fn log(event: &Event) {
    match event {
        Event::Connected => info!("connected to NATS"),
        Event::Disconnected => warn!("NATS is away; reconnecting"),
        Event::ServerError(error) => warn!(error.message = %error, "NATS reports: {error}"),
        _ => {}
    }
}

/// JetStream on `client`, with bounded waits.
pub fn jetstream(client: Client) -> Context {
    let mut context = jetstream::new(client);
    context.set_timeout(REQUEST_TIMEOUT);
    context
}

/// Parses the number of nodes that keep each stream: 1, or 3 or 5 of a cluster of at least as many.
/// A stream survives the loss of fewer than half of its nodes.
///
/// # Errors
/// When it is another number.
pub fn stream_replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(replicas @ (1 | 3 | 5)) => Ok(replicas),
        _ => Err("must be 1, 3 or 5".to_owned()),
    }
}

/// Makes sure that the stream `name` takes `subjects` and keeps them by limits, on disk, on
/// `replicas` nodes. Moves a stream that is on another number of nodes. Returns what it holds.
///
/// # Errors
/// When NATS is away, a cluster has no leader or too few nodes at this moment, or the server
/// ignored a setting. The caller may try again.
pub async fn ensure_stream(
    context: &Context,
    name: &str,
    subjects: &str,
    replicas: usize,
) -> Result<State, NatsError> {
    let asked = Config {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_age: MAX_AGE,
        max_bytes: STREAM_BYTES_LIMIT,
        // No limit, in the form in which the server returns it.
        max_messages_per_subject: -1,
        duplicate_window: Duration::from_secs(120),
        num_replicas: replicas,
        ..Config::default()
    };
    ensure(context, asked, format!("stream {name}")).await
}

async fn ensure(context: &Context, asked: Config, what: String) -> Result<State, NatsError> {
    let stream = context.get_or_create_stream(asked.clone()).await;
    let stream = stream.map_err(|error| NatsError::refused(&what, error))?;
    let Info { config, state, .. } = stream.cached_info();
    same(&asked, config)?;
    if config.num_replicas != asked.num_replicas {
        let moved = context.update_stream(asked).await;
        moved.map_err(|error| NatsError::refused(&what, error))?;
    }
    Ok(state.clone())
}

fn same(asked: &Config, got: &Config) -> Result<(), NatsError> {
    let setting = if asked.subjects != got.subjects {
        "subjects"
    } else if asked.retention != got.retention {
        "retention"
    } else if asked.storage != got.storage {
        "storage"
    } else if asked.max_messages_per_subject != got.max_messages_per_subject {
        "max_msgs_per_subject"
    } else {
        return Ok(());
    };
    Err(NatsError::Different {
        stream: asked.name.clone(),
        setting,
    })
}

/// Opens the key-value bucket `name`, and makes it as a stream if it is not there: the client's own
/// call fails on nats-server 2.9, which does not send the account figures that the client expects.
///
/// # Errors
/// When NATS is away or refuses.
pub async fn ensure_bucket(
    context: &Context,
    name: &str,
    replicas: usize,
) -> Result<Store, NatsError> {
    let asked = Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 16,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        max_bytes: 1024 * 1024,
        num_replicas: replicas,
        ..Config::default()
    };
    ensure(context, asked, format!("bucket {name}")).await?;
    context
        .get_key_value(name)
        .await
        .map_err(|error| NatsError::refused(format!("bucket {name}"), error))
}

/// A message that names its schema (`Surge-Schema`) and its trace.
pub fn message(schema: &str, payload: Vec<u8>) -> PublishMessage {
    let mut headers = HeaderMap::new();
    headers.insert("Surge-Schema", schema);
    propagation::inject_nats(&mut headers);
    PublishMessage::build()
        .headers(headers)
        .payload(Bytes::from(payload))
}

/// Header of a dead letter with the reason why its message could not take effect.
pub const DEAD_REASON: &str = "Surge-Dead-Reason";

/// Keeps a message that can never take effect as a dead letter, with the reason, on `subject` of
/// the stream `dead`. Returns once JetStream has acknowledged it.
///
/// # Errors
/// When NATS is away or refuses.
pub async fn dead_letter(
    context: &Context,
    dead: &str,
    dead_subjects: &str,
    replicas: usize,
    subject: String,
    message: &async_nats::Message,
    reason: impl ToString,
) -> Result<(), NatsError> {
    ensure_stream(context, dead, dead_subjects, replicas).await?;
    // Not the message's own headers: JetStream would drop the letter as a duplicate of the message
    // with the same id.
    let mut headers = HeaderMap::new();
    // A header holds one line.
    let reason = reason.to_string().replace(['\r', '\n'], " ");
    headers.insert(DEAD_REASON, reason.as_str());
    headers.insert("Surge-Dead-Subject", message.subject.as_str());
    let letter = PublishMessage::build()
        .headers(headers)
        .payload(message.payload.clone());
    let refused = |error: &dyn std::fmt::Display| NatsError::refused("a dead letter", error);
    let sent = context.send_publish(subject, letter).await;
    sent.map_err(|error| refused(&error))?
        .await
        .map_err(|error| refused(&error))?;
    Ok(())
}

/// Registers whether `client` is connected, and how often it has connected.
pub fn register(registry: &mut Registry, client: Client) {
    on_scrape(registry, move |scrape| {
        let connected = i64::from(health_check(&client).is_ok());
        let help = "Whether there is a connection to NATS";
        scrape.gauge("surge_nats_connected", help, connected);
        let connects = client.statistics().connects.load(Ordering::Relaxed);
        let help = "How often a connection to NATS was made";
        scrape.counter("surge_nats_connects", help, connects);
    });
}

/// The metrics and spans of a consumer of one stream.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerTelemetry {
    stream: &'static str,
    /// The common part of the stream's subjects, such as `surge.v1.trips`.
    destination: &'static str,
}

/// The trace context that a message carries.
pub fn producer_of(message: &Message) -> Option<&str> {
    propagation::left_in_message(message.headers.as_ref()?)
}

/// The outcome of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// It took effect.
    Done,
    /// It could not take effect now; JetStream will deliver it again.
    Failed,
    /// It can never take effect, and became a dead letter.
    DeadLettered,
}

impl ConsumerTelemetry {
    /// The telemetry of a consumer of `stream`, which takes `subjects`.
    pub fn new(stream: &'static str, subjects: &'static str) -> Self {
        Self {
            stream,
            destination: subjects.trim_end_matches(".>"),
        }
    }

    /// The common part of the stream's subjects, such as `surge.v1.trips`.
    pub const fn destination(&self) -> &'static str {
        self.destination
    }

    /// The span under which a message is processed: a trace of its own, linked to the publisher's
    /// trace.
    pub fn process_span(&self, message: &Message) -> Span {
        let info = message.info().ok();
        propagation::take_up(producer_of(message), || {
            info_span!(
                "process",
                otel.name = format!("process {}", self.destination),
                otel.kind = "consumer",
                otel.status_code = Empty,
                messaging.system = "nats",
                messaging.operation.name = "process",
                messaging.operation.type = "process",
                messaging.destination.name = message.subject.as_str(),
                messaging.consumer.group.name = info.as_ref().map(|info| info.consumer),
                messaging.message.body.size = message.payload.len() as i64,
                server.address = server_address(),
                server.port = server_port(),
            )
        })
    }

    /// Counts a message that was received.
    pub fn received(&self, message: &Message) {
        if let Ok(info) = message.info() {
            clients::received(self.stream, self.destination, &info);
        }
    }

    /// Counts the outcome of a message, after `took` and under `span`.
    pub fn processed(&self, what: Processed, took: Duration, span: &Span) {
        let error_type = match what {
            Processed::Done => "",
            Processed::Failed => "failed",
            Processed::DeadLettered => "dead",
        };
        clients::processed(self.destination, error_type, took, span);
        if what == Processed::DeadLettered {
            clients::dead_lettered(self.stream);
        }
    }
}

/// Checks the health of the connection.
///
/// # Errors
/// When there is no connection.
pub fn health_check(client: &Client) -> Result<(), String> {
    match client.connection_state() {
        Connection::Connected => Ok(()),
        state => Err(format!("connection is {state}")),
    }
}
