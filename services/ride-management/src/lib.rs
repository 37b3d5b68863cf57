//! ride-management, the demand side: takes ride requests, matches them through driver-management,
//! and forecasts how many will come. This file composes the service; read on in `migrations/`,
//! `ride.rs`, then `app.rs`.
//!
//! What it acknowledges it has committed. The forecast lives in memory, is rebuilt from the
//! committed rides at start, and follows what other replicas commit.

pub mod app;
pub mod config;
pub mod demand;
pub mod dispatcher;
pub mod error;
pub mod events;
mod grpc;
mod http;
mod metrics;
pub mod ride;
pub mod store;
pub mod supply;

use std::{future::Future, path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use async_nats::Client;

use feeds::{
    change_log::{ChangeLog, WRITER_SETTING},
    lease::Lease,
    outbox::Relay,
    trace_links::PendingTraceLinks,
};
use futures::FutureExt;
use marketplace::{demand::DemandProfile, time::MarketTime, zone::ServiceArea};
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
use prometheus_client::registry::Registry;
use sqlx::PgPool;
use surge_proto::token::QuoteKey;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use crate::config::Config;
use crate::{
    app::{App, Parts},
    demand::Demand,
    dispatcher::Dispatcher,
    error::Error,
    events::{DemandFeed, RIDE_EVENTS, TripFollower, WatermarkKeeper},
    metrics::{RideMetrics, register_demand},
    store::{MIGRATIONS, Store},
    supply::Supply,
};

/// Who this process is, in its telemetry and to its servers.
pub const IDENTITY: Identity = Identity {
    name: "ride-management",
    version: env!("CARGO_PKG_VERSION"),
};

/// Connections to PostgreSQL. More than a handful per service only makes them wait for each other
/// inside.
const MAX_CONNECTIONS: u32 = 8;

/// The life of the process: configuration from `arguments` and the environment, service, exit code.
/// With `migrate` as the first of them it is the job that brings the schema up to date.
// Not generic over its arguments, so that it is compiled here: docs/decisions/release-profile.md.
pub fn main(mut arguments: Vec<String>) -> ExitCode {
    if let Some(ended) = schema::job(IDENTITY, &mut arguments, MIGRATIONS) {
        return ended;
    }
    process::run_service(IDENTITY, arguments, Service::start, Service::run)
}

/// A service that is bound, connected and up to date, but does not serve yet.
#[derive(Debug)]
pub struct Service {
    publish_every: Duration,
    stream_replicas: usize,
    listeners: Listeners,
    app: App,
    replica: Uuid,
    store: Store,
    journal: ChangeLog,
    pool: PgPool,
    client: Client,
    relay: Relay,
    supply: Supply,
    clock: MarketClock,
    registry: Registry,
}

impl Service {
    /// Binds the listeners, waits for PostgreSQL, brings its schema up to date and rebuilds the
    /// forecast. NATS and driver-management may come later.
    ///
    /// # Errors
    /// One line that names the setting to change.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let quote_key: QuoteKey = config.quote_key.parse().context("QUOTE_KEY is too weak")?;
        let profile = config
            .demand_profile
            .as_deref()
            .map(read_profile)
            .transpose()?;
        let supply = Supply::at(&config.supply_url).context("SUPPLY_URL is wrong")?;
        let listeners = Listeners::bind(config.http_addr, config.grpc_addr).await?;

        let replica = Uuid::now_v7();
        let (url, name) = (&config.database_url, IDENTITY.name);
        let writer = (WRITER_SETTING, replica);
        let pool = postgres::pool_with_setting(url, name, MAX_CONNECTIONS, writer)
            .context("DATABASE_URL cannot be used")?;
        let start = StartUp::begin();
        schema::prepare_when_up(&start, &pool, MIGRATIONS, config.schema.migrations)
            .await
            .context("the schema in PostgreSQL (DATABASE_URL) cannot be used")?;
        let client = nats::connect(&config.nats_url, IDENTITY.name).await?;

        let clock = MarketClock::from_config(&config.clock);
        let area = ServiceArea::new(config.service_area);
        let store = Store::new(pool.clone(), replica);
        let profile = profile.unwrap_or_else(|| DemandProfile::flat(area.zones()));
        let is_away =
            |error: &Error| matches!(error, Error::Database(cause) if postgres::is_away(cause));
        let rebuild = || rebuilt(&store, &config, clock, &area, &profile);
        let (demand, journal) = start
            .when_up(is_away, rebuild)
            .await
            .context("the forecast cannot be rebuilt from the database of DATABASE_URL")?;

        let mut registry = platform::telemetry::registry(IDENTITY);
        postgres::register_pool(&mut registry, IDENTITY.name, pool.clone());
        nats::register(&mut registry, client.clone());
        let relay = Relay::new(pool.clone(), nats::jetstream(client.clone()), RIDE_EVENTS);
        relay.register(&mut registry);
        let app = App::new(Parts {
            clock,
            area,
            quote_key,
            patience: config.match_patience,
            store: store.clone(),
            demand,
            supply: supply.clone(),
            relay: relay.clone(),
            metrics: RideMetrics::register(&mut registry),
            origins: PendingTraceLinks::default(),
        });
        register_demand(&mut registry, app.clone());
        Ok(Self {
            publish_every: config.publish_every,
            stream_replicas: config.stream_replicas,
            listeners,
            app,
            replica,
            store,
            journal,
            pool,
            client,
            relay,
            supply,
            clock,
            registry,
        })
    }

    /// Where the service can be reached, also when it was given port 0.
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

    /// Serves both edges and runs the loops until `shutdown`; what was begun may finish.
    ///
    /// # Errors
    /// When an edge fails.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        // The loops end after the edges, so that they carry off what the last requests left behind.
        let ending = CancellationToken::new();
        let _ends_them_whatever_happens = ending.clone().drop_guard();
        let journal = std::mem::replace(&mut self.journal, self.store.change_log());
        let loops = self.spawn_loops(journal, &ending);

        let edge_metrics = EdgeMetrics::register(&mut self.registry);
        let health = self.health();
        let routes = http::router(self.app.clone());
        let http = platform::http::edge(routes, health, self.registry, edge_metrics.clone());
        let grpc = platform::grpc::edge(grpc::routes(self.app).await?, edge_metrics);

        let served = serve(self.listeners, http, grpc, shutdown).await;

        ending.cancel();
        with_deadline(&ending, loops.wait()).await;
        Ok(served?)
    }

    fn spawn_loops(&self, journal: ChangeLog, ending: &CancellationToken) -> TaskTracker {
        let every = self.publish_every;
        let (app, client) = (&self.app, &self.client);
        let lease = Lease::new("publishes the levels of demand", self.replica);
        let mut feed = DemandFeed::new(app.clone(), client.clone(), every);
        feed.stream_replicas = self.stream_replicas;
        feed.lease = Some(lease.clone());
        let jetstream = nats::jetstream(client.clone());
        let follower = TripFollower::new(app.clone(), jetstream, self.stream_replicas);
        let loops = TaskTracker::new();
        loops.spawn(lease.run(self.pool.clone(), ending.clone()));
        loops.spawn(feed.run(ending.clone()));
        loops.spawn(follower.run(ending.clone()));
        loops.spawn(WatermarkKeeper::new(app.clone(), journal, every).run(ending.clone()));
        loops.spawn(Dispatcher::new(app.clone()).run(ending.clone()));
        loops.spawn(self.relay.clone().run(ending.clone()));
        loops.close();
        loops
    }

    /// Without NATS or driver-management rides are still acknowledged; the rest is caught up with
    /// later.
    fn health(&self) -> Health {
        let (pool, client, supply) = (self.pool.clone(), self.client.clone(), self.supply.clone());
        Health::new(self.clock)
            .needs("postgres", move || postgres::probe(pool.clone()).boxed())
            .needs_while(
                "nats",
                || false,
                move || probed(nats::health_check(&client)).boxed(),
            )
            .needs_while(
                "driver-management",
                || false,
                move || supply.clone().probe().boxed(),
            )
    }
}

fn probed(answer: Result<(), String>) -> impl Future<Output = Result<(), String>> + Send {
    std::future::ready(answer)
}

fn read_profile(path: &Path) -> anyhow::Result<DemandProfile> {
    let read =
        || -> anyhow::Result<DemandProfile> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
    read().with_context(|| format!("DEMAND_PROFILE={} cannot be used", path.display()))
}

/// Rebuilds the forecast from the rides in the database, with the place in the journal that it
/// reaches to. On an empty database the count begins now.
async fn rebuilt(
    store: &Store,
    config: &Config,
    clock: MarketClock,
    area: &ServiceArea,
    profile: &DemandProfile,
) -> Result<(Demand, ChangeLog), Error> {
    let now = MarketTime::from_millis(clock.now_millis());
    let window = config.forecast_window;
    let since = store.observe(window, now).await?;
    let mut journal = store.change_log();
    let (counts, reading) = store.window_counts(&journal).await?;
    let demand = Demand::from_counts(profile.clone(), area, window, since, &counts);
    demand.heard(reading.peers_as_of.map(store::market_time));
    journal.commit_offset(reading);
    Ok((demand, journal))
}
