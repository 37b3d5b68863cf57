//! ride-management, the demand side: takes ride requests, matches them through driver-management,
//! and forecasts how many will come. This file makes every part and passes it to those that need
//! it; nothing is static. Reading order: `migrations/0001_rides.sql`, [`ride`], [`app`], then
//! [`demand`] and [`workers`].
//!
//! What the service acknowledges it has committed. The forecast lives in memory, is rebuilt from
//! the committed rides at the start, and follows what other replicas commit.

pub mod app;
pub mod config;
pub mod demand;
pub mod error;
pub mod events;
mod grpc;
mod http;
mod metrics;
mod openapi;
pub mod ride;
pub mod store;
pub mod supply_client;
pub mod workers;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::Client;
use feeds::{
    change_log::WRITER_SETTING, lease::Lease, outbox::Relay, snapshot_publisher,
    trace_links::PendingTraceLinks,
};
use futures::{FutureExt, future::ready};
use marketplace::{Freshness, demand::DemandProfile, time::MarketTime, zone::ServiceArea};
use platform::{
    background::Workers,
    clock::MarketClock,
    config::read_json,
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
    demand::DemandTracker,
    error::Error,
    events::RIDE_EVENTS,
    metrics::{RideMetrics, register_demand},
    store::{MIGRATIONS, Store},
    supply_client::SupplyClient,
    workers::{
        demand_follower::DemandFollower, demand_publisher::DemandPublisher, dispatcher::Dispatcher,
        trip_follower::TripFollower,
    },
};

/// Who this process is, in its telemetry and to its servers.
pub const IDENTITY: Identity = Identity {
    name: "ride-management",
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

/// The service, bound to its ports and with the forecast in memory, about to serve.
#[derive(Debug)]
pub struct Service {
    listeners: Listeners,
    app: App,
    http: axum::Router,
    metrics: EdgeMetrics,
    follower: DemandFollower,
    publish_every: Duration,
    publisher: DemandPublisher,
    trips: TripFollower,
    dispatcher: Dispatcher,
    lease: Lease,
    relay: Relay,
    pool: PgPool,
}

impl Service {
    /// Binds the ports, waits for PostgreSQL, brings its schema up to date and rebuilds the
    /// forecast. NATS and driver-management may come later.
    ///
    /// # Errors
    /// One line that names the setting to change.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let area = ServiceArea::new(config.service_area);
        let profile = match &config.demand_profile {
            Some(path) => read_json::<DemandProfile>("DEMAND_PROFILE", path)?.within(&area)?,
            None => DemandProfile::flat(area.zones()),
        };
        let supply = SupplyClient::new(&config.supply_url).context("SUPPLY_URL is wrong")?;
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
        let store = Store::new(pool.clone(), replica);
        let trace_links = Arc::new(PendingTraceLinks::default());
        let rebuild_forecast = || async {
            let now = MarketTime::from_millis(clock.now_millis());
            let window = config.forecast_window;
            let since = store.observe(window, now).await?;
            let demand = DemandTracker::new(profile.clone(), &area, window, since);
            let demand = Arc::new(demand);
            let links = trace_links.clone();
            let mut follower = DemandFollower::new(demand.clone(), store.clone(), clock, links);
            follower.step().await.map(|()| (demand, follower))
        };
        let rebuilt = start.when_up(Error::is_outage, rebuild_forecast).await;
        let (demand, follower) =
            rebuilt.context("the forecast cannot be rebuilt from the database of DATABASE_URL")?;
        let lease = Lease::new("publishes the levels of demand", replica);
        let jetstream = nats::jetstream(nats.clone());
        let relay = Relay::new(pool.clone(), jetstream.clone(), RIDE_EVENTS);

        let mut registry = telemetry::registry(IDENTITY);
        let app = App::new(Parts {
            area,
            clock,
            quote_key: config.quote_key.clone(),
            match_patience: config.match_patience,
            store: store.clone(),
            demand,
            supply: supply.clone(),
            relay: relay.clone(),
            rides: RideMetrics::register(&mut registry),
            trace_links,
        });
        let mut publisher = DemandPublisher::new(app.clone(), nats.clone(), config.publish_every);
        publisher.stream_replicas = config.service.stream_replicas;
        publisher.lease = Some(lease.clone());

        let metrics = EdgeMetrics::register(&mut registry);
        postgres::register_pool(&mut registry, IDENTITY.name, pool.clone());
        nats::register(&mut registry, nats.clone());
        relay.register(&mut registry);
        let measured = app.clone();
        register_demand(&mut registry, move || {
            let levels = measured.all_demands(measured.known_as_of());
            let zones = measured.zones().iter().copied();
            zones.zip(levels.iter().map(|level| level.value)).collect()
        });
        let health = health(clock, pool.clone(), nats, supply);
        let routes = http::router(app.clone());
        Ok(Self {
            listeners,
            http: platform::http::edge(routes, health, registry, metrics.clone()),
            metrics,
            follower,
            publish_every: config.publish_every,
            publisher,
            dispatcher: Dispatcher::new(app.clone(), store),
            trips: TripFollower::new(app.clone(), jetstream, config.service.stream_replicas),
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
        let grpc = grpc::routes(self.app).await?;
        let grpc = platform::grpc::edge(grpc, self.metrics);
        let workers = Workers::default();
        workers.spawn(|ending| self.follower.run(self.publish_every, ending));
        workers.spawn(|ending| self.lease.run(self.pool, ending));
        workers.spawn(|ending| self.publisher.run(ending));
        workers.spawn(|ending| self.trips.run(ending));
        workers.spawn(|ending| self.dispatcher.run(ending));
        workers.spawn(|ending| self.relay.run(ending));

        let served = serve(self.listeners, self.http, grpc, shutdown).await;
        workers.finish().await;
        Ok(served?)
    }
}

/// Without NATS or driver-management rides are acknowledged all the same; events, levels and
/// matches wait for them.
fn health(clock: MarketClock, pool: PgPool, nats: Client, supply: SupplyClient) -> Health {
    let nats = move || ready(nats::health_check(&nats)).boxed();
    let supply = move || supply.clone().health_check().boxed();
    Health::new(clock)
        .needs("postgres", move || {
            postgres::probe_writes(pool.clone()).boxed()
        })
        .needs_while("nats", || false, nats)
        .needs_while("driver-management", || false, supply)
}
