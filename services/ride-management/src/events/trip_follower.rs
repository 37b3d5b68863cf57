//! Follows the trips of drivers, pickups and drop-offs, and moves rides on. A message is
//! acknowledged after its effect is committed, so each takes effect at least once, and since
//! repeating it changes nothing, that is exactly once. What can never take effect is put aside with
//! the reason; it does not hold up the others.

use std::time::Duration;

use async_nats::jetstream::{
    AckKind, Context, Message as Delivery,
    consumer::{AckPolicy, PullConsumer, pull},
};
use futures::StreamExt;
use platform::{
    background::WorkLoop,
    nats::{self, ConsumerTelemetry, NatsError, Processed},
};
use prost::Message;
use surge_proto::{
    convert::{Malformed, id, market_time},
    subjects::{DEAD, TRIPS, dead_letter},
    v1,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, warn};
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    ride::{Change, Outcome},
};

/// Name of the durable consumer: all replicas of the service share it, and each message goes to one
/// of them.
const DURABLE: &str = "ride-management";

/// Messages that one step takes at most.
const BATCH: usize = 64;

/// Messages that may be under way to all replicas together: a few steps' worth.
const MAX_UNACKNOWLEDGED: i64 = 256;

/// When a message that was not acknowledged is delivered again, for example after a crash.
const ACK_WAIT: Duration = Duration::from_secs(10);

/// How long a step waits for messages; this is also how long the follower takes to stop on a good
/// day.
const POLL: Duration = Duration::from_millis(500);

/// When to stop waiting for the server's word that the batch is over: a server that died says
/// nothing.
const SILENCE: Duration = Duration::from_secs(2);

/// How long to wait after a failure, and before a message that met one is delivered again.
const RETRY: Duration = Duration::from_millis(500);

/// Why following stopped for now. No message is lost.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A stream is missing and cannot be made.
    #[error(transparent)]
    Stream(#[from] NatsError),
    /// JetStream is away or did not do what it was asked.
    #[error("trips cannot be followed: {0}")]
    Nats(#[from] async_nats::Error),
    /// JetStream fell silent in the middle of a batch.
    #[error("JetStream did not answer within {SILENCE:?}")]
    Silent(#[from] tokio::time::error::Elapsed),
    /// A ride could not be moved on.
    #[error("a trip waits: {0}")]
    Ride(#[from] Error),
}

/// Moves rides on as their trips go on.
#[derive(Debug)]
pub struct TripFollower {
    app: App,
    jetstream: Context,
    stream_replicas: usize,
    consumer: Option<PullConsumer>,
}

/// A message that can never take effect, and why.
#[derive(Debug, thiserror::Error)]
enum Dead {
    #[error("not a TripProgress: {0}")]
    Undecodable(#[from] prost::DecodeError),
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("there is no ride {0}")]
    NoSuchRide(Uuid),
    #[error("the state of ride {0}, or its driver, does not allow it")]
    Refused(Uuid),
}

impl TripFollower {
    /// A follower that moves the rides of `app`, on streams that are kept on so many nodes of NATS.
    pub const fn new(app: App, jetstream: Context, stream_replicas: usize) -> Self {
        Self {
            app,
            jetstream,
            stream_replicas,
            consumer: None,
        }
    }

    /// Takes in the messages of the next half second, at most 64; returns how many those were.
    ///
    /// # Errors
    /// See [`FollowError`]. Messages that were not taken in will come again.
    pub async fn step(&mut self) -> Result<usize, FollowError> {
        let consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => self.subscribe().await?,
        };
        let batch = consumer.batch().max_messages(BATCH).expires(POLL);
        let mut deliveries = batch.messages().await.map_err(async_nats::Error::from)?;
        let mut taken_in = 0;
        let mut failure = None;
        while let Some(delivery) = timeout(SILENCE, deliveries.next()).await? {
            let delivery = delivery?;
            // After one failure the rest of the batch would fail the same way, slowly: give it back
            // at once.
            match &failure {
                None => failure = self.take_in(&delivery).await.err(),
                Some(_) => delivery.ack_with(AckKind::Nak(Some(RETRY))).await?,
            }
            taken_in += 1;
        }
        self.consumer = Some(consumer);
        failure.map_or(Ok(taken_in), Err)
    }

    /// Goes on until `shutdown`. A step that has begun is finished, so that no message waits for
    /// its second delivery.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new("the follower of trips", &shutdown);
        let mut period = Duration::ZERO;
        while work.next_step(period).await {
            let outcome = self.step().await;
            work.record(&outcome);
            period = if outcome.is_ok() {
                Duration::ZERO
            } else {
                RETRY
            };
        }
    }

    async fn subscribe(&self) -> Result<PullConsumer, FollowError> {
        for stream in [TRIPS, DEAD] {
            let (name, subjects, replicas) = (stream.name, stream.subjects, self.stream_replicas);
            nats::ensure_stream(&self.jetstream, name, subjects, replicas).await?;
        }
        let config = pull::Config {
            durable_name: Some(DURABLE.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: MAX_UNACKNOWLEDGED,
            ..pull::Config::default()
        };
        let trips = self.jetstream.get_stream_no_info(TRIPS.name).await;
        let trips = trips.map_err(async_nats::Error::from)?;
        let consumer = trips.get_or_create_consumer(DURABLE, config).await;
        Ok(consumer.map_err(async_nats::Error::from)?)
    }

    async fn take_in(&self, delivery: &Delivery) -> Result<(), FollowError> {
        let telemetry = ConsumerTelemetry::new(TRIPS.name, TRIPS.subjects);
        telemetry.received(delivery);
        let span = telemetry.process_span(delivery);
        let started = Instant::now();
        let taken_in = self.settle(delivery).instrument(span.clone()).await;
        let what = *taken_in.as_ref().unwrap_or(&Processed::Failed);
        if what == Processed::Failed {
            span.record("otel.status_code", "ERROR");
        }
        telemetry.processed(what, started.elapsed(), &span);
        taken_in.map(|_| ())
    }

    /// Lets the message take effect and acknowledges it.
    async fn settle(&self, delivery: &Delivery) -> Result<Processed, FollowError> {
        let what = match self.progress(&delivery.payload).await {
            Ok(None) => Processed::Done,
            Ok(Some(dead)) => {
                self.put_aside(delivery, &dead).await?;
                Processed::DeadLettered
            }
            Err(error) => {
                delivery.ack_with(AckKind::Nak(Some(RETRY))).await?;
                return Err(error.into());
            }
        };
        delivery.ack().await?;
        Ok(what)
    }

    /// Moves a ride on, or says why that can never work.
    async fn progress(&self, payload: &[u8]) -> Result<Option<Dead>, Error> {
        let (ride_id, change) = match parse(payload) {
            Ok(parsed) => parsed,
            Err(dead) => return Ok(Some(dead)),
        };
        match self.app.progress_ride(ride_id, change).await {
            Ok(Outcome::Moved | Outcome::Unmoved) => Ok(None),
            Ok(Outcome::Refused) => Ok(Some(Dead::Refused(ride_id))),
            Err(Error::NoSuchRide(_)) => Ok(Some(Dead::NoSuchRide(ride_id))),
            Err(error) => Err(error),
        }
    }

    /// Keeps the message, with the reason beside it, for a person to look at.
    async fn put_aside(&self, delivery: &Delivery, dead: &Dead) -> Result<(), FollowError> {
        warn!(error.message = %dead, "put aside a message of {}: {dead}", TRIPS.name);
        let subject = dead_letter(TRIPS);
        let buried = nats::dead_letter(
            &self.jetstream,
            DEAD.name,
            DEAD.subjects,
            self.stream_replicas,
            subject,
            delivery,
            dead,
        );
        Ok(buried.await?)
    }
}

fn parse(payload: &[u8]) -> Result<(Uuid, Change), Dead> {
    let progress = v1::TripProgress::decode(payload)?;
    let ride_id = id("ride_id", &progress.ride_id)?;
    let driver_id = id("driver_id", &progress.driver_id)?;
    let at = market_time("at", progress.at)?;
    let change = match progress.stage() {
        v1::TripStage::PickedUp => Change::PickUp { driver_id, at },
        v1::TripStage::DroppedOff => Change::DropOff { driver_id, at },
        v1::TripStage::Unspecified => {
            return Err(Malformed::new("stage", "is none that is known").into());
        }
    };
    Ok((ride_id, change))
}

#[cfg(test)]
mod tests {
    use marketplace::time::MarketTime;
    use surge_proto::convert::timestamp;

    use super::*;

    fn progress() -> v1::TripProgress {
        v1::TripProgress {
            ride_id: Uuid::now_v7().to_string(),
            driver_id: Uuid::now_v7().to_string(),
            stage: v1::TripStage::PickedUp as i32,
            at: Some(timestamp(MarketTime::from_millis(0))),
        }
    }

    #[test]
    fn a_message_is_read_whole_or_not_at_all() {
        let good = progress();
        assert!(parse(&good.encode_to_vec()).is_ok());
        let bad = [
            v1::TripProgress {
                ride_id: "1".to_owned(),
                ..good.clone()
            },
            v1::TripProgress {
                driver_id: String::new(),
                ..good.clone()
            },
            v1::TripProgress {
                stage: 7,
                ..good.clone()
            },
            v1::TripProgress { at: None, ..good },
        ];
        for message in bad {
            assert!(parse(&message.encode_to_vec()).is_err(), "{message:?}");
        }
        assert!(matches!(parse(b"\xff\xff"), Err(Dead::Undecodable(_))));
    }
}
