//! price-optimization: turns supply and demand into a surge multiplier and a fare.
//!
//! It asks one question, "what are supply and demand around this zone, and as of when?", and three
//! dataflows answer it, all of them connected at once. This file makes every part and passes it to
//! those that need it; nothing is static. Reading order: [`pricing`], where a trip becomes a price;
//! [`dataflow`] and its three modes; [`batch`], the job behind `database`; [`explain`].

pub mod app;
pub mod batch;
pub mod config;
pub mod control;
pub mod dataflow;
pub mod error;
pub mod explain;
mod grpc;
mod http;
mod metrics;
mod openapi;
pub mod pricing;
pub mod store;

use std::{process::ExitCode, sync::Arc, time::Instant};

use anyhow::{Context, bail};
use futures::{FutureExt, future::ready};
use marketplace::zone::ServiceArea;
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
use surge_proto::DataflowMode;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    app::{App, Parts},
    batch::BatchJob,
    config::{BatchConfig, Config},
    control::ModeControl,
    dataflow::{
        Dataflows,
        database::DatabaseDataflow,
        events::{EventsDataflow, SharedState, feed_ages, subscriber::Subscriber},
        request::RequestDataflow,
    },
    explain::{Explainer, recent::RecentQuotes},
    metrics::{
        BatchMetrics, QuoteMetrics, register_feed_ages, register_mode, register_multipliers,
    },
    pricing::QuoteMaker,
    store::{MIGRATIONS, Store},
};

/// Who the service is in logs, traces and metrics.
pub const IDENTITY: Identity = Identity {
    name: "price-optimization",
    version: env!("CARGO_PKG_VERSION"),
};

/// Who the batch job is.
pub const BATCH_IDENTITY: Identity = Identity {
    name: "price-optimization-batch",
    version: env!("CARGO_PKG_VERSION"),
};

const UNUSABLE_SCHEMA: &str = "the schema in PostgreSQL (DATABASE_URL) cannot be used";

/// The whole life of the process: the service, or with `batch` or `migrate` as the first of
/// `arguments` a job.
// Not generic over its arguments, so that it is compiled here: docs/decisions/release-profile.md.
pub fn main(mut arguments: Vec<String>) -> ExitCode {
    if arguments.get(1).is_some_and(|job| job == "batch") {
        arguments.remove(1);
        return process::run(BATCH_IDENTITY, arguments, run_batch);
    }
    if let Some(ended) = schema::job(IDENTITY, &mut arguments, MIGRATIONS) {
        return ended;
    }
    process::run_service(IDENTITY, arguments, Service::start, Service::run)
}

/// The service, bound to its ports and connected to its dataflows, about to serve.
#[derive(Debug)]
pub struct Service {
    listeners: Listeners,
    app: App,
    http: axum::Router,
    metrics: EdgeMetrics,
    store: Store,
    migrations: Migrations,
    control: ModeControl,
    subscriber: Subscriber,
}

impl Service {
    /// Binds the ports and opens all three dataflows. None of their dependencies has to be there
    /// yet.
    ///
    /// # Errors
    /// When a port is busy or a setting cannot be used.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let listeners = Listeners::bind(config.service.http_addr, config.service.grpc_addr).await?;
        // One connection more, so that migrations and health checks do not wait behind quotes.
        let connections = config.database_connections + 1;
        let pool = postgres::pool(&config.service.database_url, IDENTITY.name, connections)
            .context("DATABASE_URL is wrong")?;
        let nats = nats::connect(
            &config.service.nats_url,
            IDENTITY.name,
            &config.service.nats_tls,
        )
        .await?;

        let clock = MarketClock::from_config(&config.service.clock);
        let area = Arc::new(ServiceArea::new(config.service_area));
        let policy = config.pricing();
        let store = Store::new(pool.clone());
        let replicas = config.service.stream_replicas;
        let control = ModeControl::new(nats.clone(), config.dataflow_mode, replicas);
        let state = SharedState::new(area.clone());
        let subscriber = Subscriber::new(nats.clone(), replicas, state.clone(), clock);
        let dataflows = Dataflows::new(
            DatabaseDataflow::new(pool.clone(), config.dataflow_deadline),
            RequestDataflow::connect(&config)?,
            EventsDataflow::new(state.clone(), clock, policy.freshness),
            &config,
            clock,
        );
        let health = health(clock, nats.clone(), &control, &dataflows);

        let mut registry = platform::telemetry::registry(IDENTITY);
        let metrics = EdgeMetrics::register(&mut registry);
        postgres::register_pool(&mut registry, IDENTITY.name, pool);
        nats::register(&mut registry, nats);
        let recent = Arc::new(RecentQuotes::new(config.journeys_kept));
        let app = App::new(Parts {
            explainer: Explainer::new(&config, recent.clone(), store.clone(), clock),
            pricing: QuoteMaker {
                area,
                clock,
                policy,
                key: config.quote_key.clone(),
                dataflows,
                control: control.clone(),
                metrics: QuoteMetrics::register(&mut registry),
                recent,
            },
        });
        let (mode, zones) = (control.clone(), app.clone());
        register_mode(&mut registry, move || mode.current());
        register_feed_ages(&mut registry, move || feed_ages(&state, clock));
        register_multipliers(&mut registry, move || zones.surge_from_events());
        let routes = http::router(app.clone());
        Ok(Self {
            listeners,
            http: platform::http::edge(routes, health, registry, metrics.clone()),
            metrics,
            app,
            store,
            migrations: config.service.schema.migrations,
            control,
            subscriber,
        })
    }

    /// Where the service can be reached.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        self.listeners.addresses()
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When an edge fails, or the schema is one that this program cannot use.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut loops = JoinSet::new();
        loops.spawn(self.control.run(shutdown.clone()));
        loops.spawn(self.subscriber.run(shutdown.clone()));
        let schema = self
            .store
            .prepare_when_up(self.migrations, shutdown.clone());
        let schema = tokio::spawn(schema);

        let grpc = platform::grpc::edge(grpc::routes(self.app).await?, self.metrics);
        let served = serve::serve(self.listeners, self.http, grpc, shutdown.clone()).await;

        shutdown.cancel();
        loops.join_all().await;
        served?;
        schema.await?.context(UNUSABLE_SCHEMA)
    }
}

/// The dependencies of a dataflow are needed while its mode is in force. NATS itself never is: a
/// replica that lost it keeps its mode, and `events` answers from local state.
fn health(
    clock: MarketClock,
    nats: async_nats::Client,
    control: &ModeControl,
    dataflows: &Dataflows,
) -> Health {
    let nats = move || ready(nats::health_check(&nats)).boxed();
    let mode = control.clone();
    let mut health = Health::new(clock)
        .needs_while("nats", || false, nats)
        .needs("mode", move || ready(mode.health_check()).boxed());
    for mode in DataflowMode::ALL {
        for (dependency, check) in dataflows.of(mode).health_checks() {
            let control = control.clone();
            let is_in_force = move || control.current().mode == mode;
            health = health.needs_while(dependency, is_in_force, check);
        }
    }
    health
}

async fn run_batch(config: BatchConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let pool = postgres::pool(&config.database_url, BATCH_IDENTITY.name, 1)
        .context("DATABASE_URL is wrong")?;
    let clock = MarketClock::from_config(&config.clock);
    let mut registry = platform::telemetry::registry(BATCH_IDENTITY);
    let edges = EdgeMetrics::register(&mut registry);
    postgres::register_pool(&mut registry, BATCH_IDENTITY.name, pool.clone());
    let metrics = BatchMetrics::register(&mut registry);
    let store = Store::new(pool.clone());
    let batch = BatchJob::new(&config, store.clone(), clock, metrics)?;
    let migrations = config.schema.migrations;
    if config.once {
        let once = async {
            store.prepare(migrations).await.context(UNUSABLE_SCHEMA)?;
            let started = Instant::now();
            let rows = batch.step().await?;
            let took = started.elapsed().as_secs_f64();
            info!(
                rows,
                duration_seconds = took,
                "wrote {rows} zones in {took:.3} s"
            );
            Ok(())
        };
        let done = shutdown.run_until_cancelled(once).await;
        return done.unwrap_or_else(|| bail!("asked to end before the run was done"));
    }
    let listener = serve::bind("HTTP_ADDR", config.http_addr).await?;
    let health = Health::new(clock).needs("postgres", move || {
        postgres::probe_writes(pool.clone()).boxed()
    });
    let http = platform::http::edge(Default::default(), health, registry, edges);
    let served = serve::serve_http(listener, http, shutdown.clone());
    let runs = async {
        let prepared = store.prepare_when_up(migrations, shutdown.clone()).await;
        prepared.context(UNUSABLE_SCHEMA)?;
        batch.run(config.every, shutdown.clone()).await;
        anyhow::Ok(())
    };
    let (served, ran) = tokio::join!(with_deadline(&shutdown, served), runs);
    ran?;
    Ok(served.unwrap_or(Ok(()))?)
}
