//! Follows the trips of drivers, pickups, drop-offs and rides given back, and moves rides on. The
//! follower acknowledges a message after its effect is committed, so each takes effect at least
//! once; and because every change of a ride is idempotent, that is exactly once. A message that can
//! never take effect becomes a dead letter with the reason, and does not hold up the others.
//!
//! ```text
//!   JetStream ── message ──▶ decode ──▶ apply to the ride ──▶ COMMIT ──▶ acknowledge
//!                              │             │                  │
//!                              │ malformed   │ refused          │ PostgreSQL is away
//!                              ▼             ▼                  ▼
//!                              dead letter, acknowledge         deliver again in half a second
//! ```

use std::time::Duration;

use async_nats::jetstream::{
    AckKind, Context, Message,
    consumer::{AckPolicy, PullConsumer, pull},
};
use futures::StreamExt;
use platform::{
    background::WorkLoop,
    metrics::report_end,
    nats::{self, ConsumerTelemetry, NatsError, Processed},
};
use prost::Message as _;
use surge_proto::{
    convert::{Malformed, id, market_time},
    subjects::{DEAD, TRIPS, dead_letter},
    v1,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, warn};
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    ride::{ChangeOutcome, RideChange},
};

/// The durable consumer. All replicas of the service share it, and each message goes to one of
/// them.
const DURABLE: &str = "ride-management";

/// Most messages of one step.
const BATCH: usize = 64;

/// Most messages that all replicas together have not acknowledged: a few steps' worth.
const MAX_UNACKNOWLEDGED: i64 = 256;

/// How long JetStream waits for an acknowledgement, for example after a crash, before it delivers a
/// message again.
const ACK_WAIT: Duration = Duration::from_secs(10);

/// How long a step waits for messages, and so the time that the follower usually takes to stop.
const POLL: Duration = Duration::from_millis(500);

/// How long a step waits for the server to end the batch: a server that died does not.
const BATCH_DEADLINE: Duration = Duration::from_secs(2);

/// The pause after a failed step, and before a message that failed is delivered again.
const RETRY: Duration = Duration::from_millis(500);

/// Why a step failed. No message is lost.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A stream is missing and cannot be made.
    #[error(transparent)]
    Stream(#[from] NatsError),
    /// JetStream is away or refused.
    #[error("trips cannot be followed: {0}")]
    Nats(#[from] async_nats::Error),
    /// JetStream did not end the batch.
    #[error("JetStream did not answer within {BATCH_DEADLINE:?}")]
    TimedOut(#[from] tokio::time::error::Elapsed),
    /// A ride could not be moved on.
    #[error("a trip waits: {0}")]
    Ride(#[from] Error),
}

/// Why a message can never take effect.
#[derive(Debug, thiserror::Error)]
enum Undeliverable {
    #[error("not a TripProgress: {0}")]
    Undecodable(#[from] prost::DecodeError),
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("there is no ride {0}")]
    NoSuchRide(Uuid),
    #[error("the state of ride {0}, or its driver, does not allow it")]
    Refused(Uuid),
}

/// Moves rides on as their trips go on.
#[derive(Debug)]
pub struct TripFollower {
    app: App,
    jetstream: Context,
    stream_replicas: usize,
    consumer: Option<PullConsumer>,
}

impl TripFollower {
    /// A follower that moves the rides of `app`, on streams that are kept on this number of NATS
    /// nodes.
    pub const fn new(app: App, jetstream: Context, stream_replicas: usize) -> Self {
        Self {
            app,
            jetstream,
            stream_replicas,
            consumer: None,
        }
    }

    /// Processes the messages of the next half second, at most 64; returns their number.
    ///
    /// # Errors
    /// See [`FollowError`]. JetStream delivers the messages that failed again.
    pub async fn step(&mut self) -> Result<usize, FollowError> {
        let consumer = match self.consumer.take() {
            Some(consumer) => consumer,
            None => self.subscribe().await?,
        };
        let batch = consumer.batch().max_messages(BATCH).expires(POLL);
        let mut messages = batch.messages().await.map_err(async_nats::Error::from)?;
        let mut processed = 0;
        let mut failure = None;
        while let Some(message) = timeout(BATCH_DEADLINE, messages.next()).await? {
            let message = message?;
            // After one failure the rest of the batch would fail the same way, slowly: the follower
            // gives it back at once.
            match &failure {
                None => failure = self.process(&message).await.err(),
                Some(_) => message.ack_with(AckKind::Nak(Some(RETRY))).await?,
            }
            processed += 1;
        }
        self.consumer = Some(consumer);
        failure.map_or(Ok(processed), Err)
    }

    /// Steps until `shutdown`. A step that has begun is finished, so that no message of its batch
    /// has to be delivered again.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new("the follower of trips", &shutdown);
        let mut period = Duration::ZERO;
        while work.next_step(period).await {
            let outcome = self.step().await;
            work.record(&outcome);
            period = outcome.map_or(RETRY, |_| Duration::ZERO);
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

    async fn process(&self, message: &Message) -> Result<(), FollowError> {
        let telemetry = ConsumerTelemetry::new(TRIPS.name, TRIPS.subjects);
        telemetry.received(message);
        let span = telemetry.process_span(message);
        let ended = |outcome: Option<&Result<Processed, _>>, took| {
            let processed = outcome.and_then(|outcome| outcome.as_ref().ok());
            let processed = *processed.unwrap_or(&Processed::Failed);
            if processed == Processed::Failed {
                span.record("otel.status_code", "ERROR");
            }
            telemetry.processed(processed, took, &span);
        };
        let applied = self.apply(message).instrument(span.clone());
        report_end(applied, ended).await.map(|_| ())
    }

    /// Applies the message to its ride, and acknowledges it.
    async fn apply(&self, message: &Message) -> Result<Processed, FollowError> {
        let processed = match self.progress(&message.payload).await {
            Ok(Ok(())) => Processed::Done,
            Ok(Err(reason)) => {
                self.dead_letter(message, &reason).await?;
                Processed::DeadLettered
            }
            Err(error) => {
                message.ack_with(AckKind::Nak(Some(RETRY))).await?;
                return Err(error.into());
            }
        };
        message.ack().await?;
        Ok(processed)
    }

    /// Moves a ride on, unless that can never work.
    async fn progress(&self, payload: &[u8]) -> Result<Result<(), Undeliverable>, Error> {
        let (ride_id, change) = match parse(payload) {
            Ok(parsed) => parsed,
            Err(reason) => return Ok(Err(reason)),
        };
        match self.app.follow_trip(ride_id, change).await {
            Ok(changed) if changed.outcome == ChangeOutcome::Refused => {
                Ok(Err(Undeliverable::Refused(ride_id)))
            }
            Ok(_) => Ok(Ok(())),
            Err(Error::NoSuchRide(_)) => Ok(Err(Undeliverable::NoSuchRide(ride_id))),
            Err(error) => Err(error),
        }
    }

    /// Keeps the message, with the reason beside it, for a person to look at.
    async fn dead_letter(
        &self,
        message: &Message,
        reason: &Undeliverable,
    ) -> Result<(), FollowError> {
        warn!(error.message = %reason, "a message of {} is a dead letter: {reason}", TRIPS.name);
        let kept = nats::dead_letter(
            &self.jetstream,
            DEAD.name,
            DEAD.subjects,
            self.stream_replicas,
            dead_letter(TRIPS),
            message,
            reason,
        );
        Ok(kept.await?)
    }
}

fn parse(payload: &[u8]) -> Result<(Uuid, RideChange), Undeliverable> {
    let progress = v1::TripProgress::decode(payload)?;
    let ride_id = id("ride_id", &progress.ride_id)?;
    let driver_id = id("driver_id", &progress.driver_id)?;
    let at = market_time("at", progress.at)?;
    let change = match progress.stage() {
        v1::TripStage::PickedUp => RideChange::PickUp { driver_id, at },
        v1::TripStage::DroppedOff => RideChange::DropOff { driver_id, at },
        v1::TripStage::GivenBack => RideChange::GiveBack { driver_id },
        v1::TripStage::Unspecified => {
            return Err(Malformed::new("stage", "is not a known stage").into());
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
    fn message_is_read_whole_or_refused() {
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
        assert!(matches!(
            parse(b"\xff\xff"),
            Err(Undeliverable::Undecodable(_))
        ));
    }
}
