//! What this process sees of the servers that it calls: PostgreSQL, NATS and other services. A client span and its
//! duration are one observation, made in one place; and as the span goes to the one subscriber of the process, so does the
//! duration go to the one set of histograms here. Everything else has its registry handed down.

use std::{borrow::Cow, sync::LazyLock, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tracing::Span;

use super::latency::{LatencyFamily, latency_family};

static CLIENTS: LazyLock<Clients> = LazyLock::new(|| Clients {
    calls: latency_family(),
    queries: latency_family(),
    publishing: latency_family(),
    processing: latency_family(),
    sent: Family::default(),
    consumed: Family::default(),
    redelivered: Family::default(),
    dead_lettered: Family::default(),
    pending: Family::default(),
    hops: latency_family(),
});

/// The client side of a process.
#[derive(Debug)]
struct Clients {
    calls: LatencyFamily<CallLabels>,
    queries: LatencyFamily<QueryLabels>,
    publishing: LatencyFamily<PublishLabels>,
    processing: LatencyFamily<MessageLabels>,
    sent: Family<MessageLabels, Counter>,
    consumed: Family<ConsumedLabels, Counter>,
    redelivered: Family<StreamLabel, Counter>,
    dead_lettered: Family<StreamLabel, Counter>,
    pending: Family<StreamLabel, Gauge>,
    hops: LatencyFamily<StreamLabel>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc_system_name: &'static str,
    rpc_method: &'static str,
    rpc_response_status_code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    db_system_name: &'static str,
    db_operation_name: &'static str,
    db_query_summary: &'static str,
    error_type: Cow<'static, str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PublishLabels {
    messaging_system: &'static str,
    messaging_operation_name: &'static str,
    messaging_destination_name: &'static str,
    error_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    messaging_system: &'static str,
    messaging_destination_name: &'static str,
    error_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConsumedLabels {
    messaging_system: &'static str,
    messaging_destination_name: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabel {
    stream: &'static str,
}

const NATS: &str = "nats";

/// Registers all of it.
pub(super) fn register(registry: &mut Registry) {
    register_durations(registry);
    let help = "Messages given to JetStream";
    registry.register("messaging_client_sent_messages", help, CLIENTS.sent.clone());
    let help = "Messages received from JetStream";
    registry.register(
        "messaging_client_consumed_messages",
        help,
        CLIENTS.consumed.clone(),
    );
    let help = "Messages that came again, because their first delivery was not acknowledged";
    registry.register(
        "surge_messages_redelivered",
        help,
        CLIENTS.redelivered.clone(),
    );
    let help = "Messages put aside, because they can never take effect";
    registry.register(
        "surge_messages_dead_lettered",
        help,
        CLIENTS.dead_lettered.clone(),
    );
    let help = "Messages that the stream still had for this consumer after the newest one";
    registry.register(
        "surge_consumer_pending_messages",
        help,
        CLIENTS.pending.clone(),
    );
}

fn register_durations(registry: &mut Registry) {
    let name = "rpc_client_call_duration";
    let help = "Time until a gRPC call to another service was answered";
    registry.register_with_unit(name, help, Unit::Seconds, CLIENTS.calls.clone());
    let name = "db_client_operation_duration";
    let help = "Time until PostgreSQL had done what it was asked";
    registry.register_with_unit(name, help, Unit::Seconds, CLIENTS.queries.clone());
    let name = "messaging_client_operation_duration";
    let help = "Time until JetStream had acknowledged a batch of messages";
    registry.register_with_unit(name, help, Unit::Seconds, CLIENTS.publishing.clone());
    let name = "surge_message_hop";
    let help = "Time from when the broker had a message until it was received";
    registry.register_with_unit(name, help, Unit::Seconds, CLIENTS.hops.clone());
    let name = "messaging_process_duration";
    let help = "Time to take in a message";
    registry.register_with_unit(name, help, Unit::Seconds, CLIENTS.processing.clone());
}

/// A gRPC call was answered.
pub(crate) fn called(method: &'static str, status: &'static str, took: Duration, span: &Span) {
    let labels = CallLabels {
        rpc_system_name: "grpc",
        rpc_method: method,
        rpc_response_status_code: status,
    };
    CLIENTS.calls.get_or_create(&labels).observe(took, span);
}

/// PostgreSQL did something, or failed; `summary` begins with the operation.
pub(crate) fn queried(
    summary: &'static str,
    error_type: Option<Cow<'static, str>>,
    took: Duration,
    span: &Span,
) {
    let labels = QueryLabels {
        db_system_name: "postgresql",
        db_operation_name: summary.split(' ').next().unwrap_or(summary),
        db_query_summary: summary,
        error_type: error_type.unwrap_or_default(),
    };
    CLIENTS.queries.get_or_create(&labels).observe(took, span);
}

/// JetStream acknowledged a batch of messages, or did not.
pub fn published(
    destination: &'static str,
    messages: usize,
    acknowledged: bool,
    took: Duration,
    span: &Span,
) {
    let error_type = if acknowledged { "" } else { "unacknowledged" };
    let sent = MessageLabels {
        messaging_system: NATS,
        messaging_destination_name: destination,
        error_type,
    };
    CLIENTS.sent.get_or_create(&sent).inc_by(messages as u64);
    let publishing = PublishLabels {
        messaging_system: NATS,
        messaging_operation_name: "publish",
        messaging_destination_name: destination,
        error_type,
    };
    CLIENTS
        .publishing
        .get_or_create(&publishing)
        .observe(took, span);
}

/// A message came from a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) stream: &'static str,
    pub(crate) destination: &'static str,
    /// The how manieth delivery of it this is.
    pub(crate) deliveries: i64,
    /// How many messages are still to come.
    pub(crate) pending: u64,
    /// Time since the broker has it.
    pub(crate) hop: Duration,
}

/// A message came.
pub(crate) fn received(message: Received) {
    let consumed = ConsumedLabels {
        messaging_system: NATS,
        messaging_destination_name: message.destination,
    };
    CLIENTS.consumed.get_or_create(&consumed).inc();
    let stream = StreamLabel {
        stream: message.stream,
    };
    // Both counters exist from the first message on: one that appears with its first event hides that event from a rate.
    let redelivered = CLIENTS.redelivered.get_or_create_owned(&stream);
    if message.deliveries > 1 {
        redelivered.inc();
    }
    drop(CLIENTS.dead_lettered.get_or_create_owned(&stream));
    let pending = i64::try_from(message.pending).unwrap_or(i64::MAX);
    CLIENTS.pending.get_or_create(&stream).set(pending);
    let hops = CLIENTS.hops.get_or_create(&stream);
    hops.observe(message.hop, &Span::none());
}

/// A message was taken in, or failed, or is dead.
pub(crate) fn processed(
    destination: &'static str,
    error_type: &'static str,
    took: Duration,
    span: &Span,
) {
    let labels = MessageLabels {
        messaging_system: NATS,
        messaging_destination_name: destination,
        error_type,
    };
    CLIENTS
        .processing
        .get_or_create(&labels)
        .observe(took, span);
}

/// A message of `stream` was put aside.
pub(crate) fn buried(stream: &'static str) {
    CLIENTS
        .dead_lettered
        .get_or_create(&StreamLabel { stream })
        .inc();
}
