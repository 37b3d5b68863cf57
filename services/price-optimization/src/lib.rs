//! price-optimization: turns supply and demand into a surge multiplier and a fare.
//!
//! It asks one question, "what are supply and demand around this zone, and as of when?", and has three answers to it:
//! the siblings in [`dataflow`]. All three are connected at once; a quote is computed from one of them. Start reading
//! at [`app`], where a quote is made, then the three dataflows.

pub mod app;
pub mod batch;
pub mod config;
pub mod control;
pub mod dataflow;
pub mod error;
mod grpc;
mod http;
pub mod journey;
mod metrics;
mod readers;
pub mod store;

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context, bail};
use futures::FutureExt;
use marketplace::{quote::Freshness, time::MarketTime, zone::ServiceArea};
use platform::{
    clock::MarketClock,
    health::Health,
    metrics::EdgeMetrics,
    nats, postgres,
    process::{self, Identity},
    schema::{self, Migrations},
    serve::{self, Addresses, Listeners},
    shutdown::with_deadline,
};
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    batch::Batch,
    config::{BatchConfig, Config},
    control::ModeControl,
    dataflow::{Dataflows, events::Subscriber, request::Callees},
    journey::Journeys,
    metrics::{QuoteMetrics, register_dataflows, register_multipliers},
    store::{STEPS, Store},
};
use surge_proto::DataflowMode;

/// Who this process is in logs, traces and metrics.
pub const IDENTITY: Identity = Identity {
    name: "price-optimization",
    version: env!("CARGO_PKG_VERSION"),
};

/// Who the batch job is.
pub const BATCH_IDENTITY: Identity = Identity {
    name: "price-optimization-batch",
    version: env!("CARGO_PKG_VERSION"),
};

/// Runs the process that `arguments` ask for: the service, or with `batch` or `migrate` as the first of
/// them a job.
// Not generic over its arguments, so that it is compiled here: docs/decisions/release-profile.md.
pub fn main(mut arguments: Vec<String>) -> ExitCode {
    if arguments.get(1).is_some_and(|job| job == "batch") {
        arguments.remove(1);
        return process::run(BATCH_IDENTITY, arguments, run_batch);
    }
    if let Some(ended) = schema::job(IDENTITY, &mut arguments, &STEPS) {
        return ended;
    }
    process::run(IDENTITY, arguments, |config, token| async move {
        Service::start(config).await?.run(token).await
    })
}

async fn run_batch(config: BatchConfig, token: CancellationToken) -> anyhow::Result<()> {
    let every = config.every;
    let once = config.once;
    let http_addr = config.http_addr;
    let batch = Batch::connect(config)?;
    if once {
        let done = token.run_until_cancelled(batch.run_once()).await;
        return done.unwrap_or_else(|| bail!("told to end before the run was done"));
    }
    let listener = serve::bind("HTTP_ADDR", http_addr).await?;
    let mut registry = platform::metrics::registry(BATCH_IDENTITY);
    let edges = EdgeMetrics::register(&mut registry);
    batch.register(&mut registry);
    let no_routes = Default::default();
    let http = platform::http::edge(no_routes, batch.health(), registry, edges);
    let served = serve::serve_http(listener, http, token.clone());
    let served = with_deadline(&token, served);
    let (served, ran) = tokio::join!(served, batch.run(every, token.clone()));
    ran?;
    Ok(served.unwrap_or(Ok(()))?)
}

/// The service: bound, connected, and ready to run.
#[derive(Debug)]
pub struct Service {
    listeners: Listeners,
    app: App,
    store: Store,
    migrations: Migrations,
    control: ModeControl,
    subscriber: Subscriber,
    health: Health,
    registry: Registry,
    edges: EdgeMetrics,
}

impl Service {
    /// Binds the listeners and opens all three dataflows. None of their dependencies has to be there yet.
    ///
    /// # Errors
    /// When a port is busy or a setting cannot be used.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let listeners = Listeners::bind(config.http_addr, config.grpc_addr).await?;
        let clock = MarketClock::from_config(&config.clock);
        let area = Arc::new(ServiceArea::new(config.service_area));
        let pool = postgres::pool(
            &config.database_url,
            IDENTITY.name,
            // One more for migrations and for signs of life, which must not wait behind quotes.
            config.database_connections + 1,
        )
        .context("DATABASE_URL is wrong")?;
        let nats = nats::connect(&config.nats_url, IDENTITY.name).await?;
        let store = Store::new(pool.clone());
        let mut registry = platform::metrics::registry(IDENTITY);
        postgres::register_pool(&mut registry, IDENTITY.name, pool.clone());
        nats::register(&mut registry, nats.clone());

        let control = ModeControl::new(nats.clone(), config.dataflow_mode, config.stream_replicas);
        let subscriber = Subscriber::new(nats.clone(), Arc::clone(&area), clock)
            .on_nodes(config.stream_replicas);
        let dataflows = Dataflows::connect(&config, store.clone(), &subscriber)?;
        let freshness = config.pricing().freshness;
        let health = health(clock, freshness, pool, nats, &control, &dataflows);

        let edges = EdgeMetrics::register(&mut registry);
        let metrics = QuoteMetrics::register(&mut registry);
        register_dataflows(&mut registry, control.clone(), subscriber.clone());
        let journeys = Journeys::new(&config, store.clone());
        let app = App::new(
            &config,
            area,
            clock,
            dataflows,
            control.clone(),
            metrics,
            journeys,
        );
        register_multipliers(&mut registry, app.clone());
        Ok(Self {
            listeners,
            app,
            store,
            migrations: config.schema.migrations,
            control,
            subscriber,
            health,
            registry,
            edges,
        })
    }

    /// Where the service is bound.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        self.listeners.addresses()
    }

    /// Serves until `token` is cancelled.
    ///
    /// # Errors
    /// When an edge fails, or the schema is one that this program cannot use.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        let mut background = JoinSet::new();
        background.spawn(self.control.clone().run(token.clone()));
        background.spawn(self.subscriber.run(token.clone()));
        let schema = self.store.prepare_when_up(self.migrations, token.clone());
        let refused = tokio::spawn(schema);

        let routes = http::router(self.app.clone());
        let http = platform::http::edge(routes, self.health, self.registry, self.edges.clone());
        let grpc = platform::grpc::edge(grpc::routes(self.app).await?, self.edges);
        let served = serve::serve(self.listeners, http, grpc, token.clone()).await;

        token.cancel();
        while background.join_next().await.is_some() {}
        served?;
        refused
            .await?
            .context("the schema in PostgreSQL (DATABASE_URL) cannot be used")
    }
}

/// A dependency is needed only while the mode in force leans on it. `events` leans on what it has heard, not on the
/// broker: were NATS needed, its death would take every replica out of service at once, while all of them can quote.
fn health(
    clock: MarketClock,
    freshness: Freshness,
    pool: sqlx::PgPool,
    nats: async_nats::Client,
    control: &ModeControl,
    dataflows: &Dataflows,
) -> Health {
    let in_mode = |mode: DataflowMode| {
        let control = control.clone();
        move || control.current().mode == mode
    };
    let Callees { supply, demand } = dataflows.callees.clone();
    let events = Arc::clone(&dataflows.events);
    Health::new(clock)
        .needs_while("postgres", in_mode(DataflowMode::Database), move || {
            postgres::probe(pool.clone()).boxed()
        })
        .needs_while(
            "nats",
            || false,
            move || std::future::ready(nats::probe(&nats)).boxed(),
        )
        .needs_while("local-state", in_mode(DataflowMode::Events), move || {
            let now = MarketTime::from_millis(clock.now_millis());
            std::future::ready(events.is_usable(now, freshness)).boxed()
        })
        .needs_while(
            "driver-management",
            in_mode(DataflowMode::Request),
            move || supply.clone().ask().boxed(),
        )
        .needs_while(
            "ride-management",
            in_mode(DataflowMode::Request),
            move || demand.clone().ask().boxed(),
        )
}
