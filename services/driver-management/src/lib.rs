//! driver-management: supply. Drivers go online, report positions, are sent to rides and finish
//! trips; zones learn how many drivers they can count on. This file makes every part and passes it
//! to those who need it; nothing here is static. Changes order: `migrations/0001_drivers.sql`,
//! `driver`, `app`, then the edges.

pub mod app;
pub mod config;
pub mod driver;
pub mod error;
pub mod events;
pub mod fleet;
pub mod follower;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod positions;
pub mod store;

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;
use async_nats::Client;

use feeds::{
    change_log::WRITER_SETTING, lease::Lease, outbox::Relay, trace_links::PendingTraceLinks,
};
use futures::{FutureExt, future::ready};
use marketplace::zone::ServiceArea;
use platform::{
    clock::MarketClock,
    health::Health,
    metrics::EdgeMetrics,
    nats, postgres,
    process::{self, Identity},
    schema,
    serve::{Addresses, Listeners, serve},
    shutdown::with_deadline,
    start_up::StartUp,
};
use sqlx::PgPool;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use config::Config;

use crate::{
    app::{App, Parts},
    error::Error,
    events::{SupplyFeed, TRIP_EVENTS},
    fleet::Fleet,
    follower::Follower,
    metrics::{Dispatches, register_drivers, register_supply},
    positions::PositionWriter,
    store::{MIGRATIONS, Store},
};

/// Who this process is.
pub const IDENTITY: Identity = Identity {
    name: "driver-management",
    version: env!("CARGO_PKG_VERSION"),
};

/// Connections to PostgreSQL: a few more than cores keep it busy, and more only queue inside it.
const CONNECTIONS: u32 = 8;

/// The whole life of the process, or with `migrate` as the first of `arguments` that of the job.
// Not generic over its arguments, so that it is compiled here: docs/decisions/release-profile.md.
pub fn main(mut arguments: Vec<String>) -> ExitCode {
    if let Some(ended) = schema::job(IDENTITY, &mut arguments, MIGRATIONS) {
        return ended;
    }
    process::run_service(IDENTITY, arguments, Service::start, Service::run)
}

/// The service, bound to its ports and with the fleet in memory, about to serve.
#[derive(Debug)]
pub struct Service {
    listeners: Listeners,
    app: App,
    http: axum::Router,
    metrics: EdgeMetrics,
    positions: PositionWriter,
    follower: Follower,
    feed: SupplyFeed,
    lease: Lease,
    relay: Relay,
    pool: PgPool,
}

impl Service {
    /// Binds the ports, waits for PostgreSQL, brings its schema up to date and reads the fleet.
    /// NATS may come later.
    ///
    /// # Errors
    /// When a port is busy, PostgreSQL stays away, or a URL makes no sense.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let listeners = Listeners::bind(config.http_addr, config.grpc_addr).await?;
        let replica = Uuid::now_v7();
        let (url, name) = (&config.database_url, IDENTITY.name);
        let writer = (WRITER_SETTING, replica);
        let pool = postgres::pool_with_setting(url, name, CONNECTIONS, writer)
            .context("DATABASE_URL cannot be used")?;
        let start = StartUp::begin();
        schema::prepare_when_up(&start, &pool, MIGRATIONS, config.schema.migrations)
            .await
            .context("the schema in PostgreSQL (DATABASE_URL) cannot be used")?;
        let nats = nats::connect(&config.nats_url, IDENTITY.name).await?;

        let clock = MarketClock::from_config(&config.clock);
        let area = Arc::new(ServiceArea::new(config.service_area));
        let store = Store::new(pool.clone(), area.clone(), replica);
        let fleet = Arc::new(Fleet::new(area.clone(), clock));
        let is_away =
            |error: &Error| matches!(error, Error::Store(cause) if postgres::is_away(cause));
        let read_fleet = || async {
            let mut follower = Follower::new(fleet.clone(), store.clone());
            follower.step().await.map(|_| follower)
        };
        let follower = start.when_up(is_away, read_fleet).await;
        let follower = follower.context("the drivers cannot be read")?;
        let lease = Lease::new("publishes the levels of supply", replica);
        let relay = Relay::new(pool.clone(), nats::jetstream(nats.clone()), TRIP_EVENTS);

        let mut registry = platform::telemetry::registry(IDENTITY);
        let metrics = EdgeMetrics::register(&mut registry);
        postgres::register_pool(&mut registry, IDENTITY.name, pool.clone());
        nats::register(&mut registry, nats.clone());
        relay.register(&mut registry);
        register_drivers(&mut registry, fleet.clone());
        let origins = Arc::new(PendingTraceLinks::default());
        let app = App::new(Parts {
            area,
            clock,
            forecast_window: config.forecast_window,
            max_pickup: config.dispatch_max_pickup,
            fleet_limit: config.fleet_limit,
            fleet: fleet.clone(),
            store: store.clone(),
            relay: relay.clone(),
            dispatches: Dispatches::register(&mut registry),
            origins: origins.clone(),
        });
        register_supply(&mut registry, app.clone());
        let mut feed = SupplyFeed::new(app.clone(), nats.clone(), config.publish_every);
        feed.stream_replicas = config.stream_replicas;
        feed.lease = Some(lease.clone());
        let health = health(clock, pool.clone(), nats.clone());
        let routes = http::router(app.clone());
        Ok(Self {
            listeners,
            http: platform::http::edge(routes, health, registry, metrics.clone()),
            metrics,
            positions: PositionWriter::new(fleet, store, origins),
            follower,
            feed,
            lease,
            relay,
            pool,
            app,
        })
    }

    /// Where the service can be reached.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        self.listeners.addresses()
    }

    /// The use cases, for whoever shares this process: tests.
    pub fn app(&self) -> App {
        self.app.clone()
    }

    /// Serves until `shutdown`, then finishes what has begun.
    ///
    /// # Errors
    /// When an edge fails.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        // The loops end after the edges, so that they carry off what the last requests left behind.
        let ending = CancellationToken::new();
        let _ends_them_whatever_happens = ending.clone().drop_guard();
        let loops = TaskTracker::new();
        loops.spawn(self.positions.run(ending.clone()));
        loops.spawn(self.follower.run(ending.clone()));
        loops.spawn(self.lease.run(self.pool, ending.clone()));
        loops.spawn(self.feed.run(ending.clone()));
        loops.spawn(self.relay.run(ending.clone()));
        loops.close();

        let grpc = grpc::routes(self.app, shutdown.clone()).await?;
        let grpc = platform::grpc::edge(grpc, self.metrics);
        let served = serve(self.listeners, self.http, grpc, shutdown).await;

        ending.cancel();
        with_deadline(&ending, loops.wait()).await;
        Ok(served?)
    }
}

fn health(clock: MarketClock, pool: PgPool, nats: Client) -> Health {
    Health::new(clock)
        .needs("postgres", move || postgres::probe(pool.clone()).boxed())
        // Supply is answered without NATS too; events and levels wait for it.
        .needs_while(
            "nats",
            || false,
            move || ready(nats::health_check(&nats)).boxed(),
        )
}
