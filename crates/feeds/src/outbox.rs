//! The transactional outbox: an event is written in the transaction that it tells about, and a relay publishes it
//! afterwards. The event is never lost (it is deleted only after JetStream's acknowledgement) and never doubled for
//! two minutes (its row id is its `Nats-Msg-Id`); a subscriber that must not act twice is idempotent beyond that. Several
//! replicas relay one outbox, one at a time, in the order of the events' ids, which begin with the time of their writer's
//! clock. Clocks differ: of two events that wait together, from different replicas, the later one may go first. So an event
//! says what has come about and when, and a subscriber makes sense of it whatever came before.
//!
//! Every service that uses it has a table `outbox` in its own schema: `id uuid, subject text, schema text,
//! payload bytea, traceparent text, created_at timestamptz`.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_nats::jetstream::Context;
use futures::future::try_join_all;
use prometheus_client::{
    metrics::gauge::Gauge,
    registry::{Registry, Unit},
};
use sqlx::{PgConnection, PgPool};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Span;
use uuid::Uuid;

use platform::{background::WorkLoop, metrics::clients, nats, postgres, propagation};

/// Most events that one step of the relay takes: a few round trips' worth, and a transaction that stays short.
const BATCH: i64 = 256;

/// How long one step of the relay may take: longer than JetStream and PostgreSQL need to fail by themselves.
const STEP_DEADLINE: Duration = Duration::from_secs(5);

/// How often the relay looks without being asked: for rows that another replica left behind.
const IDLE: Duration = Duration::from_secs(1);

/// How often the relay looks up how much waits.
const TAKE_STOCK_EVERY: Duration = Duration::from_secs(5);

/// An event for the outbox.
#[derive(Clone, Debug)]
pub struct Event {
    /// Where it will be published.
    pub subject: String,
    /// Name of its message type, such as `surge.v1.RideEvent`.
    pub schema: &'static str,
    /// The encoded message.
    pub payload: Vec<u8>,
}

/// Writes `event` within the transaction of `connection`, with the current trace context beside it.
///
/// # Errors
/// Those of the database.
pub async fn write(connection: &mut PgConnection, event: Event) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO outbox (id, subject, schema, payload, traceparent) VALUES ($1, $2, $3, $4, $5)")
        .bind(Uuid::now_v7())
        .bind(event.subject)
        .bind(event.schema)
        .bind(event.payload)
        .bind(propagation::traceparent())
        .execute(connection)
        .await?;
    Ok(())
}

/// Publishes what the outbox holds. Several replicas may relay the same outbox, whoever wrote the rows.
#[derive(Clone, Debug)]
pub struct Relay {
    pool: PgPool,
    jetstream: Context,
    /// What the subjects of its events have in common, such as `surge.v1.rides`.
    destination: &'static str,
    wake: Arc<Notify>,
    backlog: Backlog,
}

/// How much waits in the outbox, as it was looked up last.
#[derive(Clone, Debug, Default)]
struct Backlog {
    events: Gauge,
    oldest_age_seconds: Gauge<f64, AtomicU64>,
}

struct Row {
    id: Uuid,
    subject: String,
    schema: String,
    payload: Vec<u8>,
    traceparent: Option<String>,
}

platform::from_row!(Row {
    id,
    subject,
    schema,
    payload,
    traceparent
});

/// Why a step of the relay failed. Nothing is lost: the rows stay.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The database is away.
    #[error("the outbox cannot be read: {0}")]
    Database(#[from] sqlx::Error),
    /// JetStream is away, or has no stream for the subject.
    #[error("JetStream did not take an event: {0}")]
    Publish(#[from] async_nats::jetstream::context::PublishError),
}

impl Relay {
    /// A relay from the outbox of `pool`'s role to JetStream. The subjects of its events begin with `destination`.
    pub fn new(pool: PgPool, jetstream: Context, destination: &'static str) -> Self {
        Self {
            pool,
            jetstream,
            destination,
            wake: Arc::new(Notify::new()),
            backlog: Backlog::default(),
        }
    }

    /// Registers how much waits in the outbox.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Events that wait for JetStream";
        registry.register("surge_outbox_events", help, self.backlog.events.clone());
        let help = "Age of the oldest event that waits for JetStream, 0 if none does";
        let age = self.backlog.oldest_age_seconds.clone();
        registry.register_with_unit("surge_outbox_oldest_age", help, Unit::Seconds, age);
    }

    /// Tells the relay that a transaction with events was committed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Publishes one batch and deletes it; returns how many events that were.
    ///
    /// # Errors
    /// See [`RelayError`].
    pub async fn step(&self) -> Result<usize, RelayError> {
        postgres::within(STEP_DEADLINE, self.carry_a_batch()).await
    }

    async fn carry_a_batch(&self) -> Result<usize, RelayError> {
        let mut transaction = self.pool.begin().await?;
        // Relays wait for each other. The lock is taken by a statement of its own, so that the next one sees what the relay
        // before this one deleted.
        sqlx::query("SELECT pg_advisory_xact_lock('outbox'::regclass::oid::bigint)")
            .execute(&mut *transaction)
            .await?;
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, subject, schema, payload, traceparent FROM outbox ORDER BY id LIMIT $1",
        )
        .bind(BATCH)
        .fetch_all(&mut *transaction)
        .await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        if ids.is_empty() {
            return Ok(0);
        }
        let started = Instant::now();
        let published = self.publish(rows).await;
        let took = started.elapsed();
        let acknowledged = published.is_ok();
        clients::published(
            self.destination,
            ids.len(),
            acknowledged,
            took,
            &Span::none(),
        );
        published?;
        sqlx::query("DELETE FROM outbox WHERE id = ANY($1)")
            .bind(&ids)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(ids.len())
    }

    /// Sends all events before waiting for the first acknowledgement.
    async fn publish(&self, rows: Vec<Row>) -> Result<(), RelayError> {
        let mut acknowledgements = Vec::with_capacity(rows.len());
        for row in rows {
            let mut message =
                nats::message(&row.schema, row.payload).message_id(row.id.to_string());
            if let Some(traceparent) = row.traceparent {
                message = message.header(propagation::TRACEPARENT, traceparent.as_str());
            }
            let sent = self.jetstream.send_publish(row.subject, message).await?;
            acknowledgements.push(sent.into_future());
        }
        try_join_all(acknowledgements).await?;
        Ok(())
    }

    /// Looks up how much waits. While the database is away, what was known last stays.
    async fn take_stock(&self) -> Result<(), sqlx::Error> {
        let stock = sqlx::query_as::<_, (i64, f64)>(
            "SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM outbox",
        )
        .fetch_one(&self.pool);
        let stock: Result<_, sqlx::Error> = postgres::within(STEP_DEADLINE, stock).await;
        let (events, oldest_age_seconds) = stock?;
        self.backlog.events.set(events);
        self.backlog.oldest_age_seconds.set(oldest_age_seconds);
        Ok(())
    }

    /// Relays until `shutdown`, waking for [`Relay::wake`] and once a second besides; and once more after it, for what the
    /// last requests left behind.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut work = WorkLoop::new("the outbox", &shutdown);
        let mut take_stock_at = Instant::now();
        // A step that has begun is finished: of one cut short the lock stays for a moment, and the last step would wait.
        while work.next_step(Duration::ZERO).await {
            let outcome = self.step().await;
            let more = matches!(outcome, Ok(published) if published as i64 == BATCH);
            work.record(&outcome);
            if Instant::now() >= take_stock_at {
                // The step tells of a database that is away.
                let _ = self.take_stock().await;
                take_stock_at = Instant::now() + TAKE_STOCK_EVERY;
            }
            if !more {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = self.wake.notified(), if !work.is_failing() => {}
                    () = tokio::time::sleep(IDLE) => {}
                }
            }
        }
        work.record(&self.step().await);
    }
}
