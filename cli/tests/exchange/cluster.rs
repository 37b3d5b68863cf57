//! NATS as a cluster of three: it survives the loss of any node, and keeps every acknowledged
//! message.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use platform::nats::{self, NatsTls};
use private_servers::{NatsCluster, NodeSettings};
use surge::{Member, Part};
use surge_proto::{DataflowMode, subjects::RIDES};

use crate::{
    api::{downtown, grand_central},
    durability::{driven, published_exactly_once},
    stack_support::state_folder,
    support::{Exchange, Market, Outcome, eventually},
};

/// Messages that are sent before the first wait for an acknowledgement, as an outbox does.
const BATCH: u64 = 50;

/// How long publishing may pause while another node takes over.
const STANDSTILL: Duration = Duration::from_secs(20);

#[tokio::test]
async fn lost_node_loses_no_acknowledged_message() -> Outcome {
    let folder = state_folder()?;
    let nodes = vec![NodeSettings::default(); 3];
    let mut cluster = NatsCluster::start(folder.path().to_owned(), nodes).await?;
    let jetstream =
        nats::jetstream(nats::connect(&cluster.url(), "cluster.test", &NatsTls::default()).await?);
    eventually("the stream is made", async || {
        nats::ensure_stream(&jetstream, RIDES.name, RIDES.subjects, 3)
            .await
            .map_err(anyhow::Error::from)
    })
    .await?;
    let mut stream = jetstream.get_stream(RIDES.name).await?;

    for batch in 0..20 {
        publish(&jetstream, batch).await?;
    }
    let leader = stream.info().await?.cluster.as_ref();
    let leader = leader.and_then(|cluster| cluster.leader.clone());
    let leader = leader.context("the stream has no leader")?;
    let names = cluster.nodes().iter().map(private_servers::Nats::name);
    let index = names.into_iter().position(|name| name == leader);
    let index = index.context("the leader is none of our nodes")?;

    // Kills the leader while messages are in flight; the publisher repeats unacknowledged batches.
    let killed_at = Instant::now();
    let killing = cluster.node(index).kill();
    let publishing = async {
        for batch in 20..40 {
            eventually("the batch is acknowledged", async || {
                publish(&jetstream, batch).await
            })
            .await?;
        }
        anyhow::Ok(())
    };
    let ((), published) = tokio::join!(killing, publishing);
    published?;
    let took = killed_at.elapsed();
    ensure!(took < STANDSTILL, "publishing paused for {took:?}");

    let mut stream = jetstream.get_stream(RIDES.name).await?;
    let state = stream.info().await?.state.clone();
    let mut kept = BTreeSet::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await?;
        let number: u64 = std::str::from_utf8(&message.payload)?.parse()?;
        ensure!(kept.insert(number), "message {number} is there twice");
    }
    ensure!(
        kept == (0..40 * BATCH).collect(),
        "{} of {} acknowledged messages are there",
        kept.len(),
        40 * BATCH
    );
    cluster.stop().await?;
    Ok(())
}

/// Publishes the messages of a batch, each under an id of its own, and waits until all are
/// acknowledged.
async fn publish(jetstream: &nats::JetStream, batch: u64) -> Outcome {
    let mut acknowledgements = Vec::new();
    for number in batch * BATCH..(batch + 1) * BATCH {
        let message = nats::message("test", number.to_string().into_bytes());
        let message = message.message_id(format!("message-{number}"));
        let sent = jetstream
            .send_publish("surge.v1.rides.test", message)
            .await?;
        acknowledgements.push(sent.into_future());
    }
    try_join_all(acknowledgements).await?;
    Ok(())
}

#[tokio::test]
async fn exchange_continues_without_one_node() -> Outcome {
    let mut exchange = Exchange::open(Market {
        nats_nodes: 3,
        ..Market::REAL_TIME
    })
    .await?;
    for _ in 0..4 {
        exchange.api.goes_online(grand_central()).await?;
    }
    let mut rides = Vec::new();
    for lost in [None, Some(1)] {
        if let Some(number) = lost {
            let part = Part::Nats;
            exchange.stack.kill(Member { part, number }).await;
        }
        for _ in 0..2 {
            let quote = exchange
                .api
                .quote(downtown(), DataflowMode::Request)
                .await?;
            let ride = exchange.api.insists_on_ride(&quote, downtown()).await?;
            driven(&exchange.api, &ride).await?;
            rides.push(ride);
        }
    }
    published_exactly_once(&exchange, &rides).await?;
    // Levels arrive again, and the mode can be switched.
    eventually("the data of events is young", async || {
        let quote = exchange.api.quote(downtown(), DataflowMode::Events).await?;
        ensure!(
            quote.data_age_ms.is_some_and(|age| age < 2_000.0),
            "{quote:?}"
        );
        Ok(())
    })
    .await?;
    eventually("the mode is switched", async || {
        exchange.api.switch(DataflowMode::Request).await
    })
    .await?;
    exchange.close().await
}
