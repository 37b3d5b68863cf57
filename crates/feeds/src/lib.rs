//! How state leaves a service, and how a replica follows the others.
//!
//! | module | what it teaches |
//! |---|---|
//! | [`outbox`] | an event is committed with its change, and published afterwards |
//! | [`snapshot_publisher`] | levels on a stream, and the watermark that completes them |
//! | [`lease`] | one of several replicas does the work; if it hangs, another takes over |
//! | [`change_log`] | a replica reads what other replicas have written, and misses nothing |
//! | [`trace_links`] | from a message back to the requests that caused it |
//!
//! Nothing here knows of rides: a service says what its events and its levels are.

pub mod change_log;
pub mod lease;
pub mod outbox;
pub mod snapshot_publisher;
pub mod trace_links;

use std::future::IntoFuture;

use async_nats::jetstream::{Context, context::PublishError, message::PublishMessage};
use futures::future::try_join_all;

/// Publishes all messages, each on its subject, before it waits for the first acknowledgement.
/// Returns the number of the last one in its stream, 0 without messages.
async fn publish_all(
    jetstream: &Context,
    messages: Vec<(String, PublishMessage)>,
) -> Result<u64, PublishError> {
    let mut acknowledgements = Vec::with_capacity(messages.len());
    for (subject, message) in messages {
        let sent = jetstream.send_publish(subject, message).await?;
        acknowledgements.push(sent.into_future());
    }
    let acknowledged = try_join_all(acknowledgements).await?;
    Ok(acknowledged.last().map_or(0, |last| last.sequence))
}
