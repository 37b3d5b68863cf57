//! The transactional outbox: an event reaches its stream if, and only if, the change that it
//! reports was committed.
//!
//! # How this works
//!
//! A service that commits a change and then publishes an event can die between the two, and the
//! event is lost; in the other order, it publishes a change that never happens. So the service
//! writes the event into a table, in the transaction of the change. A relay publishes it afterwards
//! and deletes it once JetStream has acknowledged it.
//!
//! ```text
//!   request               relay                        JetStream
//!      │ BEGIN              │                              │
//!      │ UPDATE ride        │                              │
//!      │ INSERT outbox      │                              │
//!      │ COMMIT ── wake ──▶ │ BEGIN, lock the outbox       │
//!      ▼                    │ SELECT the 256 oldest        │
//!                           │ publish ── Nats-Msg-Id ────▶ │ stores it, unless it has this id
//!                           │ ◀──────────── acknowledged ─ │
//!                           │ DELETE, COMMIT               │
//!                           ▼ (if it dies before, the next relay publishes again)
//! ```
//!
//! So an event is published at least once, and within two minutes no more than once, because its
//! row id is its `Nats-Msg-Id`. A subscriber that must not act twice is idempotent beyond that.
//!
//! Several replicas relay one outbox, one at a time, in the order of the event ids, which begin
//! with the time of the writer's clock. Clocks differ: of two events from different replicas that
//! wait together, the later one may go first. So an event says what happened and when, and a
//! subscriber can use it whatever came before.
//!
//! The service's migrations make the table: `outbox (id uuid, subject text, schema text, payload
//! bytea, traceparent text, created_at timestamptz)`.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_nats::jetstream::{Context, context::PublishError, message::PublishMessage};
use platform::{
    background::WorkLoop,
    metrics::{clients, report_end},
    nats, postgres, propagation,
};
use prometheus_client::{
    metrics::gauge::Gauge,
    registry::{Registry, Unit},
};
use sqlx::{PgConnection, PgPool};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Span;
use uuid::Uuid;

use crate::publish_all;

/// Most events that one step of the relay publishes: a few round trips' worth, and a transaction
/// that stays short.
const BATCH: i64 = 256;

/// How long one step of the relay may take: longer than JetStream and PostgreSQL need to fail by
/// themselves.
const STEP_DEADLINE: Duration = Duration::from_secs(5);

/// How often the relay looks without being woken: another replica may have left rows behind.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// How often the relay measures the backlog.
const UPDATE_METRICS_EVERY: Duration = Duration::from_secs(5);

/// An event for the outbox.
#[derive(Clone, Debug)]
pub struct OutboxEvent {
    /// The subject on which it will be published.
    pub subject: String,
    /// The name of its message type, such as `surge.v1.RideEvent`.
    pub schema: &'static str,
    /// The encoded message.
    pub payload: Vec<u8>,
}

/// Writes `event` within the transaction of `connection`, with the current trace context beside it.
///
/// # Errors
/// Those of the database.
pub async fn write(connection: &mut PgConnection, event: &OutboxEvent) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO outbox (id, subject, schema, payload, traceparent)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(Uuid::now_v7())
    .bind(&event.subject)
    .bind(event.schema)
    .bind(&event.payload)
    .bind(propagation::traceparent())
    .execute(connection)
    .await?;
    Ok(())
}

/// Publishes the events of an outbox, whichever replica wrote them. Cheap to clone: all clones
/// share one wake-up.
#[derive(Clone, Debug)]
pub struct Relay {
    pool: PgPool,
    jetstream: Context,
    /// What the subjects of the events have in common, such as `surge.v1.rides`.
    destination: &'static str,
    wake: Arc<Notify>,
    backlog: Backlog,
}

/// The events that wait, as the relay measured them last.
#[derive(Clone, Debug, Default)]
struct Backlog {
    events: Gauge,
    oldest_age_seconds: Gauge<f64, AtomicU64>,
}

platform::from_row! {
    struct OutboxRow {
        id: Uuid,
        subject: String,
        schema: String,
        payload: Vec<u8>,
        traceparent: Option<String>,
    }
}

/// Why a step of the relay failed. No event is lost: the rows stay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The database is away.
    #[error("the outbox cannot be read: {0}")]
    Database(#[from] sqlx::Error),
    /// JetStream is away, or has no stream for the subject.
    #[error("JetStream did not take an event: {0}")]
    Publish(#[from] PublishError),
}

impl Relay {
    /// A relay from the outbox of `pool`'s role to JetStream. The subjects of its events begin with
    /// `destination`.
    pub fn new(pool: PgPool, jetstream: Context, destination: &'static str) -> Self {
        Self {
            pool,
            jetstream,
            destination,
            wake: Arc::new(Notify::new()),
            backlog: Backlog::default(),
        }
    }

    /// Registers the gauges of the backlog.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Events that wait for JetStream";
        registry.register("surge_outbox_events", help, self.backlog.events.clone());
        let help = "Age of the oldest event that waits for JetStream, 0 if none does";
        let age = self.backlog.oldest_age_seconds.clone();
        registry.register_with_unit("surge_outbox_oldest_age", help, Unit::Seconds, age);
    }

    /// Wakes the relay: a transaction with events was committed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Publishes one batch and deletes it; returns the number of its events.
    ///
    /// # Errors
    /// See [`RelayError`].
    pub async fn step(&self) -> Result<usize, RelayError> {
        // An event that is published twice has the same message id, and JetStream keeps one.
        let relay = postgres::once_more(|| self.relay_batch());
        postgres::within(STEP_DEADLINE, relay).await
    }

    async fn relay_batch(&self) -> Result<usize, RelayError> {
        let mut transaction = self.pool.begin().await?;
        // Relays wait for each other. The lock has a statement of its own, so that the next
        // statement sees what the relay before this one deleted.
        sqlx::query("SELECT pg_advisory_xact_lock('outbox'::regclass::oid::bigint)")
            .execute(&mut *transaction)
            .await?;
        let rows: Vec<OutboxRow> = sqlx::query_as(
            "SELECT id, subject, schema, payload, traceparent FROM outbox ORDER BY id LIMIT $1",
        )
        .bind(BATCH)
        .fetch_all(&mut *transaction)
        .await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        if ids.is_empty() {
            return Ok(0);
        }
        let events = ids.len();
        let messages = rows.into_iter().map(message_of).collect();
        let ended = |published: Option<&Result<_, _>>, took| {
            let acknowledged = matches!(published, Some(Ok(_)));
            clients::published(self.destination, events, acknowledged, took, &Span::none());
        };
        report_end(publish_all(&self.jetstream, messages), ended).await?;
        sqlx::query("DELETE FROM outbox WHERE id = ANY($1)")
            .bind(&ids)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(events)
    }

    /// While the database is away, the gauges keep their last values.
    async fn update_backlog_metrics(&self) -> Result<(), sqlx::Error> {
        let backlog = sqlx::query_as::<_, (i64, f64)>(
            "SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8
             FROM outbox",
        )
        .fetch_one(&self.pool);
        let backlog: Result<_, sqlx::Error> = postgres::within(STEP_DEADLINE, backlog).await;
        let (events, oldest_age_seconds) = backlog?;
        self.backlog.events.set(events);
        self.backlog.oldest_age_seconds.set(oldest_age_seconds);
        Ok(())
    }

    /// Relays until `shutdown`, and once more after it for the events of the last requests.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new("the outbox", &shutdown);
        let mut update_metrics_at = Instant::now();
        // A step that has begun is finished: PostgreSQL would keep the lock of one that is cut
        // short for a moment, and the last step would wait for it.
        while work.next_step(Duration::ZERO).await {
            let outcome = self.step().await;
            let is_full = matches!(outcome, Ok(published) if published as i64 == BATCH);
            work.record(&outcome);
            if Instant::now() >= update_metrics_at {
                // The step reports a database that is away.
                let _ = self.update_backlog_metrics().await;
                update_metrics_at = Instant::now() + UPDATE_METRICS_EVERY;
            }
            if !is_full {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = self.wake.notified(), if !work.is_failing() => {}
                    () = tokio::time::sleep(POLL_EVERY) => {}
                }
            }
        }
        work.record(&self.step().await);
    }
}

/// The subject and the message of an event. Its context is that of the request that wrote it.
fn message_of(row: OutboxRow) -> (String, PublishMessage) {
    let message = nats::message(&row.schema, row.payload).message_id(row.id.to_string());
    let message = match row.traceparent {
        Some(traceparent) => message.header(propagation::TRACEPARENT, traceparent.as_str()),
        None => message,
    };
    (row.subject, message)
}
