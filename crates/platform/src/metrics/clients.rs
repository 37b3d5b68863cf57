//! What this process observes of the servers that it calls: PostgreSQL, NATS and other services.
//!
//! A client span and its duration are one observation, made in one place. The span goes to the one
//! subscriber of the process, so the duration goes to the one set of histograms in this file; all
//! other metrics have their registry passed to them. The label names are those of the semantic
//! conventions.

use std::{
    borrow::Cow,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use async_nats::jetstream::message::Info;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tracing::Span;

use super::latency::{LatencyFamily, latency_family};

/// A set of labels, each a name and a value.
type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

/// The client side of a process.
#[derive(Debug)]
struct Clients {
    calls: LatencyFamily<Labels<3>>,
    queries: LatencyFamily<Labels<4>>,
    publishing: LatencyFamily<Labels<4>>,
    processing: LatencyFamily<Labels<3>>,
    hops: LatencyFamily<Labels<1>>,
    sent: Family<Labels<3>, Counter>,
    consumed: Family<Labels<2>, Counter>,
    redelivered: Family<Labels<1>, Counter>,
    dead_lettered: Family<Labels<1>, Counter>,
    pending: Family<Labels<1>, Gauge>,
}

static CLIENTS: LazyLock<Clients> = LazyLock::new(|| Clients {
    calls: latency_family(),
    queries: latency_family(),
    publishing: latency_family(),
    processing: latency_family(),
    hops: latency_family(),
    sent: Family::default(),
    consumed: Family::default(),
    redelivered: Family::default(),
    dead_lettered: Family::default(),
    pending: Family::default(),
});

/// Registers the metrics of the client side.
pub(crate) fn register(registry: &mut Registry) {
    let clients = &*CLIENTS;
    let help = "Time until a gRPC call to another service was answered";
    register_durations(registry, "rpc_client_call_duration", help, &clients.calls);
    let help = "Time until PostgreSQL had done what it was asked";
    register_durations(
        registry,
        "db_client_operation_duration",
        help,
        &clients.queries,
    );
    let help = "Time until JetStream had acknowledged a batch of messages";
    register_durations(
        registry,
        "messaging_client_operation_duration",
        help,
        &clients.publishing,
    );
    let help = "Time to take in a message";
    register_durations(
        registry,
        "messaging_process_duration",
        help,
        &clients.processing,
    );
    let help = "Time from when the broker had a message until it was received";
    register_durations(registry, "surge_message_hop", help, &clients.hops);
    let help = "Messages given to JetStream";
    registry.register("messaging_client_sent_messages", help, clients.sent.clone());
    let (name, help) = (
        "messaging_client_consumed_messages",
        "Messages received from JetStream",
    );
    registry.register(name, help, clients.consumed.clone());
    let help = "Messages that came again, because their first delivery was not acknowledged";
    registry.register(
        "surge_messages_redelivered",
        help,
        clients.redelivered.clone(),
    );
    let help = "Messages that became dead letters: they can never take effect";
    registry.register(
        "surge_messages_dead_lettered",
        help,
        clients.dead_lettered.clone(),
    );
    let help = "Messages that the stream still had for this consumer after the newest one";
    registry.register(
        "surge_consumer_pending_messages",
        help,
        clients.pending.clone(),
    );
}

fn register_durations<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    family: &LatencyFamily<Labels<N>>,
) {
    registry.register_with_unit(name, help, Unit::Seconds, family.clone());
}

/// Counts a gRPC call that was answered.
pub(crate) fn called(method: &'static str, status: &'static str, took: Duration, span: &Span) {
    let labels = [
        ("rpc_system_name", "grpc".into()),
        ("rpc_method", method.into()),
        ("rpc_response_status_code", status.into()),
    ];
    CLIENTS.calls.get_or_create(&labels).observe(took, span);
}

/// Counts an operation of PostgreSQL. Its `summary` begins with the name of the operation.
pub(crate) fn queried(
    summary: &'static str,
    error_type: Option<Cow<'static, str>>,
    took: Duration,
    span: &Span,
) {
    let operation = summary.split(' ').next().unwrap_or(summary);
    let labels = [
        ("db_system_name", "postgresql".into()),
        ("db_operation_name", operation.into()),
        ("db_query_summary", summary.into()),
        ("error_type", error_type.unwrap_or_default()),
    ];
    CLIENTS.queries.get_or_create(&labels).observe(took, span);
}

/// Counts a batch of messages that JetStream acknowledged, or did not.
pub fn published(
    destination: &'static str,
    messages: usize,
    acknowledged: bool,
    took: Duration,
    span: &Span,
) {
    let error_type = if acknowledged { "" } else { "unacknowledged" };
    let sent = CLIENTS
        .sent
        .get_or_create_owned(&message_labels(destination, error_type));
    sent.inc_by(messages as u64);
    let labels = [
        ("messaging_system", "nats".into()),
        ("messaging_operation_name", "publish".into()),
        ("messaging_destination_name", destination.into()),
        ("error_type", error_type.into()),
    ];
    CLIENTS
        .publishing
        .get_or_create(&labels)
        .observe(took, span);
}

/// Counts a message that a consumer received from a stream.
pub(crate) fn received(stream: &'static str, destination: &'static str, message: &Info<'_>) {
    let [system, destination, _] = message_labels(destination, "");
    CLIENTS.consumed.get_or_create(&[system, destination]).inc();
    let stream = [("stream", stream.into())];
    // Both counters exist from the first message on: a counter that appears with its first event
    // hides it from a rate.
    let redelivered = CLIENTS.redelivered.get_or_create_owned(&stream);
    if message.delivered > 1 {
        redelivered.inc();
    }
    drop(CLIENTS.dead_lettered.get_or_create_owned(&stream));
    let pending = i64::try_from(message.pending).unwrap_or(i64::MAX);
    CLIENTS.pending.get_or_create(&stream).set(pending);
    let hops = CLIENTS.hops.get_or_create(&stream);
    // The broker and this process have different clocks: a hop below zero counts as zero.
    let hop = SystemTime::now().duration_since(message.published.into());
    hops.observe(hop.unwrap_or_default(), &Span::none());
}

/// Counts a message that was processed, with success or without.
pub(crate) fn processed(
    destination: &'static str,
    error_type: &'static str,
    took: Duration,
    span: &Span,
) {
    let labels = message_labels(destination, error_type);
    CLIENTS
        .processing
        .get_or_create(&labels)
        .observe(took, span);
}

/// Counts a message of `stream` that became a dead letter.
pub(crate) fn dead_lettered(stream: &'static str) {
    let labels = [("stream", stream.into())];
    CLIENTS.dead_lettered.get_or_create(&labels).inc();
}

fn message_labels(destination: &'static str, error_type: &'static str) -> Labels<3> {
    [
        ("messaging_system", "nats".into()),
        ("messaging_destination_name", destination.into()),
        ("error_type", error_type.into()),
    ]
}
