//! driver-management: supply. Drivers go online, report positions, are sent to rides and finish
//! trips; zones learn how many drivers they can count on. This file makes every part and passes it
//! to those that need it; nothing is static. Reading order: `migrations/0001_drivers.sql`,
//! [`driver`], [`app`], then [`fleet`] and [`workers`].

pub mod app;
pub mod config;
pub mod driver;
pub mod error;
pub mod events;
pub mod fleet;
mod grpc;
mod http;
mod metrics;
mod openapi;
pub mod store;
pub mod workers;

use std::{process::ExitCode, sync::Arc};

use anyhow::Context as _;
use async_nats::Client;
use feeds::{
    change_log::WRITER_SETTING, lease::Lease, outbox::Relay, snapshot_publisher,
    trace_links::PendingTraceLinks,
};
use futures::{FutureExt, future::ready};
use marketplace::{Freshness, zone::ServiceArea};
use platform::{
    background::Workers,
    clock::MarketClock,
    health::Health,
    metrics::EdgeMetrics,
    nats, postgres,
    process::{self, Identity},
    schema,
    serve::{Addresses, Listeners, serve},
    start_up::StartUp,
    telemetry,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use crate::config::Config;
use crate::{
    app::{App, Parts},
    error::Error,
    events::TRIP_EVENTS,
    fleet::Fleet,
    metrics::{DispatchMetrics, register_drivers, register_supply},
    store::{MIGRATIONS, Store},
    workers::{
        fleet_follower::FleetFollower, overdue_pickups, position_writer::PositionWriter,
        supply_publisher::SupplyPublisher,
    },
};

/// Who this process is, in its telemetry and to its servers.
pub const IDENTITY: Identity = Identity {
    name: "driver-management",
    version: env!("CARGO_PKG_VERSION"),
};

/// Most connections to PostgreSQL: a few more than it has cores keep it busy, and more only queue
/// inside it.
const MAX_CONNECTIONS: u32 = 8;

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
    follower: FleetFollower,
    publisher: SupplyPublisher,
    lease: Lease,
    relay: Relay,
    pool: PgPool,
}

impl Service {
    /// Binds the ports, waits for PostgreSQL, brings its schema up to date and reads the fleet.
    /// NATS may come later.
    ///
    /// # Errors
    /// One line that names the setting to change.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let listeners = Listeners::bind(config.service.http_addr, config.service.grpc_addr).await?;
        let replica = Uuid::now_v7();
        let (url, name) = (&config.service.database_url, IDENTITY.name);
        let writer = (WRITER_SETTING, replica);
        let pool = postgres::pool_with_setting(url, name, MAX_CONNECTIONS, writer)
            .context("DATABASE_URL cannot be used")?;
        let start = StartUp::begin();
        schema::prepare_when_up(&start, &pool, MIGRATIONS, config.service.schema.migrations)
            .await
            .context("the schema in PostgreSQL (DATABASE_URL) cannot be used")?;
        let nats = nats::connect(
            &config.service.nats_url,
            IDENTITY.name,
            &config.service.nats_tls,
        )
        .await?;

        let clock = MarketClock::from_config(&config.service.clock);
        let usable = clock.real_duration(Freshness::default().stale);
        snapshot_publisher::check_period(config.publish_every, usable)?;
        let area = Arc::new(ServiceArea::new(config.service_area));
        let store = Store::new(pool.clone(), area.clone(), replica);
        let fleet = Arc::new(Fleet::new(area.clone(), clock));
        let read_fleet = || async {
            let mut follower = FleetFollower::new(fleet.clone(), store.clone());
            follower.step().await.map(|_| follower)
        };
        let follower = start.when_up(Error::is_outage, read_fleet).await;
        let follower = follower.context("the drivers cannot be read")?;
        let lease = Lease::new("publishes the levels of supply", replica);
        let relay = Relay::new(pool.clone(), nats::jetstream(nats.clone()), TRIP_EVENTS);
        let trace_links = Arc::new(PendingTraceLinks::default());

        let mut registry = telemetry::registry(IDENTITY);
        let app = App::new(Parts {
            area,
            clock,
            forecast_window: config.forecast_window,
            max_pickup: config.dispatch_max_pickup,
            fleet_limit: config.fleet_limit,
            fleet: fleet.clone(),
            store: store.clone(),
            relay: relay.clone(),
            dispatches: DispatchMetrics::register(&mut registry),
            trace_links: trace_links.clone(),
        });
        let mut publisher = SupplyPublisher::new(app.clone(), nats.clone(), config.publish_every);
        publisher.stream_replicas = config.service.stream_replicas;
        publisher.lease = Some(lease.clone());

        let metrics = EdgeMetrics::register(&mut registry);
        postgres::register_pool(&mut registry, IDENTITY.name, pool.clone());
        nats::register(&mut registry, nats.clone());
        relay.register(&mut registry);
        let counted = fleet.clone();
        register_drivers(&mut registry, move || counted.counts());
        let measured = app.clone();
        register_supply(&mut registry, move || measured.supply_everywhere());
        let health = health(clock, pool.clone(), nats);
        let routes = http::router(app.clone());
        Ok(Self {
            listeners,
            http: platform::http::edge(routes, health, registry, metrics.clone()),
            metrics,
            positions: PositionWriter::new(fleet, store, trace_links),
            follower,
            publisher,
            lease,
            relay,
            pool,
            app,
        })
    }

    /// Where the service can be reached, also when it was given port 0.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        self.listeners.addresses()
    }

    /// The use cases, for the tests that share this process.
    pub fn app(&self) -> App {
        self.app.clone()
    }

    /// Serves both edges and runs the workers until `shutdown`, then finishes what has begun.
    ///
    /// # Errors
    /// When an edge fails.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let app = self.app.clone();
        let grpc = grpc::routes(self.app, shutdown.clone()).await?;
        let grpc = platform::grpc::edge(grpc, self.metrics);
        let workers = Workers::default();
        workers.spawn(|ending| self.positions.run(ending));
        workers.spawn(|ending| self.follower.run(ending));
        workers.spawn(|ending| overdue_pickups::run(app, ending));
        workers.spawn(|ending| self.lease.run(self.pool, ending));
        workers.spawn(|ending| self.publisher.run(ending));
        workers.spawn(|ending| self.relay.run(ending));

        let served = serve(self.listeners, self.http, grpc, shutdown).await;
        workers.finish().await;
        Ok(served?)
    }
}

/// Without NATS supply is answered all the same; trip events and levels wait for it.
fn health(clock: MarketClock, pool: PgPool, nats: Client) -> Health {
    let nats = move || ready(nats::health_check(&nats)).boxed();
    Health::new(clock)
        .needs("postgres", move || {
            postgres::probe_writes(pool.clone()).boxed()
        })
        .needs_while("nats", || false, nats)
}
