//! The stand that a test stands on: private servers, the service on free ports, and its API as methods, so that a test
//! reads as a story.

mod openapi;
mod rest;

use std::{
    fs::Permissions,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use clap::Parser;
use driver_management::{Config, Service};
use marketplace::zone::{Position, Zone};
use platform::postgres;
use private_servers::{Nats, NatsSettings, Password, Postgres, PostgresSettings};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool};
use surge_proto::v1::{
    DispatchRequest, DispatchedDriver, GetSupplyRequest, ReleaseRequest,
    supply_service_client::SupplyServiceClient,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Channel};
use uuid::Uuid;

pub(crate) use self::rest::{Answer, Rest};

/// Longest that anything may take to come true.
const PATIENCE: Duration = Duration::from_secs(15);

/// A private PostgreSQL with the suite's roles, and a private nats-server.
pub(crate) struct Stand {
    pub(crate) postgres: Postgres,
    pub(crate) nats: Nats,
    password: Password,
    // Last: the servers live in it.
    _base: TempDir,
}

impl Stand {
    pub(crate) async fn start() -> Self {
        let base = tempfile::tempdir().unwrap();
        // PostgreSQL may have to run as another user, who must get in.
        std::fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
        let postgres = PostgresSettings {
            base_dir: base.path().to_owned(),
            ..PostgresSettings::default()
        };
        let nats = NatsSettings {
            base_dir: base.path().to_owned(),
            ..NatsSettings::default()
        };
        let stand = Self {
            postgres: Postgres::start(postgres).await.unwrap(),
            nats: Nats::start(nats).await.unwrap(),
            password: Password::generate(),
            _base: base,
        };
        stand.make_roles().await;
        stand
    }

    async fn make_roles(&self) {
        let mut admin = self.admin().await;
        let roles = include_str!("../../../../roles.sql");
        sqlx::raw_sql(roles).execute(&mut admin).await.unwrap();
        for role in ["driver_management", "ride_management", "price_optimization"] {
            let password = self.password.reveal();
            let alter = format!("ALTER ROLE {role} PASSWORD '{password}'");
            let alter = sqlx::raw_sql(sqlx::AssertSqlSafe(alter));
            alter.execute(&mut admin).await.unwrap();
        }
    }

    /// A connection of the superuser.
    pub(crate) async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.postgres.admin_url())
            .await
            .unwrap()
    }

    /// A connection as one of the services.
    pub(crate) async fn connection_of(&self, role: &str) -> PgConnection {
        PgConnection::connect(&self.database_url(role))
            .await
            .unwrap()
    }

    /// A pool of the service's own role, with so many connections.
    pub(crate) fn pool(&self, connections: u32) -> PgPool {
        let url = self.database_url("driver_management");
        postgres::pool(&url, "a test", connections).unwrap()
    }

    pub(crate) fn database_url(&self, role: &str) -> String {
        self.postgres.url(role, &self.password, "postgres")
    }

    /// The service with its default settings but for ports, servers, and a window that even long trips end in.
    pub(crate) async fn service(&self) -> Running {
        self.service_with(&[]).await
    }

    pub(crate) async fn service_with(&self, settings: &[&str]) -> Running {
        Running::start(self.config(settings)).await
    }

    /// A configuration for this stand, changed by `settings`.
    pub(crate) fn config(&self, settings: &[&str]) -> Config {
        let usual = self.arguments(0);
        let arguments = usual
            .iter()
            .map(String::as_str)
            .chain(settings.iter().copied());
        Config::try_parse_from(arguments).unwrap()
    }

    /// A command line for the service.
    pub(crate) fn arguments(&self, http_port: u16) -> Vec<String> {
        let http_addr = format!("--http-addr=127.0.0.1:{http_port}");
        let database_url = self.database_url("driver_management");
        let nats_url = self.nats.url();
        let arguments = [
            "driver-management",
            &http_addr,
            "--grpc-addr=127.0.0.1:0",
            "--publish-every=50ms",
            "--forecast-window=1h",
            "--database-url",
            &database_url,
            "--nats-url",
            &nats_url,
        ];
        arguments.map(str::to_owned).to_vec()
    }
}

/// The running service.
pub(crate) struct Running {
    pub(crate) rest: Rest,
    pub(crate) grpc: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn start(config: Config) -> Self {
        let service = Service::start(config).await.unwrap();
        let addresses = service.addresses().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(service.run(shutdown.clone()));
        Self {
            rest: Rest::of(addresses.http).await,
            grpc: addresses.grpc,
            shutdown,
            task,
        }
    }

    /// Asks the service to end, and waits until it has.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    pub(crate) async fn supply_service(&self) -> SupplyServiceClient<Channel> {
        let url = format!("http://{}", self.grpc);
        SupplyServiceClient::connect(url).await.unwrap()
    }

    /// Reports a status and returns the whole answer.
    pub(crate) async fn report(&self, driver: Uuid, status: &str, position: Position) -> Answer {
        let path = format!("/v1/drivers/{driver}");
        let report = json!({"status": status, "position": position});
        self.rest
            .put("/v1/drivers/{driver_id}", &path, report)
            .await
    }

    /// Reports a status that must be accepted; by contract a report may be repeated while the database is too busy.
    pub(crate) async fn driver_is(&self, driver: Uuid, status: &str, position: Position) -> Value {
        let answer = eventually("the report is answered", async || {
            let answer = self.report(driver, status, position).await;
            (answer.status != 503).then_some(answer)
        })
        .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// A new driver, idle at `position`.
    pub(crate) async fn driver_goes_online(&self, position: Position) -> Uuid {
        let driver = Uuid::now_v7();
        self.driver_is(driver, "idle", position).await;
        driver
    }

    pub(crate) async fn supply(&self, zone: Zone) -> Value {
        let path = format!("/v1/supply/{zone}");
        let answer = self.rest.get("/v1/supply/{zone}", &path).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// Predicted supply of some zones, over gRPC.
    pub(crate) async fn predicted(&self, zones: &[Zone]) -> Result<Vec<f64>, Status> {
        let zones = zones.iter().map(Zone::to_string).collect();
        let request = GetSupplyRequest { zones };
        let answer = self.supply_service().await.get_supply(request).await?;
        let levels = answer.into_inner().levels;
        Ok(levels.iter().map(|level| level.predicted_drivers).collect())
    }

    pub(crate) async fn dispatch(
        &self,
        ride: Uuid,
        pickup: Position,
        dropoff: Position,
    ) -> Result<Option<DispatchedDriver>, Status> {
        let request = DispatchRequest {
            ride_id: ride.to_string(),
            pickup: Some(pickup.into()),
            dropoff: Some(dropoff.into()),
        };
        let answer = self.supply_service().await.dispatch(request).await?;
        Ok(answer.into_inner().driver)
    }

    /// Asks for a driver as a dispatcher does: again, when the database is too busy.
    pub(crate) async fn dispatch_patiently(
        &self,
        ride: Uuid,
        pickup: Position,
        dropoff: Position,
    ) -> Option<DispatchedDriver> {
        eventually("the dispatch is answered", async || {
            match self.dispatch(ride, pickup, dropoff).await {
                Err(busy) if busy.code() == Code::Unavailable => None,
                answer => Some(answer.unwrap()),
            }
        })
        .await
    }

    pub(crate) async fn release(&self, ride: Uuid) -> Result<bool, Status> {
        let ride_id = ride.to_string();
        let answer = self
            .supply_service()
            .await
            .release(ReleaseRequest { ride_id })
            .await?;
        Ok(answer.into_inner().released)
    }
}

pub(crate) fn at(lat: f64, lon: f64) -> Position {
    Position::new(lat, lon).unwrap()
}

pub(crate) fn grand_central() -> Position {
    at(40.7527, -73.9772)
}

pub(crate) fn financial_district() -> Position {
    at(40.7075, -74.0113)
}

/// Outside the service area.
pub(crate) fn newark() -> Position {
    at(40.735, -74.172)
}

/// How many connections wait for a lock.
pub(crate) async fn waiting_for_locks(admin: &mut PgConnection) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let waiting = sqlx::query_scalar(waiting).fetch_one(admin);
    waiting.await.unwrap()
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "it never came true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
