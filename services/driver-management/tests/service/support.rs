//! driver-management under test, with its API as methods, so that a test reads as a story.

use std::ops::Deref;

use clap::Parser;
use driver_management::{Config, Service};
use marketplace::zone::{Position, Zone};
use serde_json::{Value, json};
use surge_proto::v1::{
    DispatchRequest, DispatchedDriver, GetSupplyRequest, ReleaseRequest,
    supply_service_client::SupplyServiceClient,
};
use test_harness::{RestAnswer, RunningService, Servers, downtown, eventually, midtown};
use tonic::{Code, Status, transport::Channel};
use uuid::Uuid;

/// The role of the service in PostgreSQL.
pub(crate) const ROLE: &str = "driver_management";

/// A running driver-management.
pub(crate) struct DriverManagement(RunningService);

impl Deref for DriverManagement {
    type Target = RunningService;

    fn deref(&self) -> &RunningService {
        &self.0
    }
}

/// A command line for the service: the defaults, but for ports, servers, and a window in which even
/// long trips end.
pub(crate) fn arguments(servers: &Servers, http_port: u16) -> Vec<String> {
    vec![
        "driver-management".to_owned(),
        format!("--http-addr=127.0.0.1:{http_port}"),
        "--grpc-addr=127.0.0.1:0".to_owned(),
        "--publish-every=50ms".to_owned(),
        "--forecast-window=1h".to_owned(),
        format!("--database-url={}", servers.database_url(ROLE)),
        format!("--nats-url={}", servers.nats.url()),
    ]
}

/// The same, parsed, and changed by `settings`.
pub(crate) fn config(servers: &Servers, settings: &[&str]) -> Config {
    let settings = settings.iter().map(ToString::to_string);
    Config::try_parse_from(arguments(servers, 0).into_iter().chain(settings)).unwrap()
}

impl DriverManagement {
    pub(crate) async fn start(servers: &Servers) -> Self {
        Self::start_with(servers, &[]).await
    }

    pub(crate) async fn start_with(servers: &Servers, settings: &[&str]) -> Self {
        let service = Service::start(config(servers, settings)).await.unwrap();
        let addresses = service.addresses().unwrap();
        Self(RunningService::spawn(addresses, |shutdown| service.run(shutdown)).await)
    }

    pub(crate) async fn stop(self) {
        self.0.stop().await;
    }

    pub(crate) async fn client(&self) -> SupplyServiceClient<Channel> {
        SupplyServiceClient::new(self.channel().await)
    }

    /// Reports a status and returns the whole answer.
    pub(crate) async fn report(
        &self,
        driver: Uuid,
        status: &str,
        position: Position,
    ) -> RestAnswer {
        let report = json!({"status": status, "position": position});
        self.rest
            .put(&format!("/v1/drivers/{driver}"), &report)
            .await
    }

    /// Reports a status that must be accepted; by contract a report may be repeated while the
    /// database is too busy.
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

    /// Reports where a driver is; returns how many reports the service accepted and ignored.
    pub(crate) async fn driver_moves(&self, driver: Uuid, position: Position) -> Value {
        let reports = json!({"positions": [{"driver_id": driver, "position": position}]});
        self.rest.post("/v1/positions", &reports).await.body
    }

    pub(crate) async fn supply(&self, zone: Zone) -> Value {
        let answer = self.rest.get(&format!("/v1/supply/{zone}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// The drivers who are idle in the zone of `position`.
    pub(crate) async fn idle_at(&self, position: Position) -> u64 {
        let supply = self.supply(Zone::at(position)).await;
        supply["idle_drivers"].as_u64().unwrap()
    }

    /// The predicted supply of the zone of `position`, over gRPC.
    pub(crate) async fn predicted_at(&self, position: Position) -> f64 {
        let zones = vec![Zone::at(position).to_string()];
        let request = GetSupplyRequest { zones };
        let answer = self.client().await.get_supply(request).await.unwrap();
        answer.into_inner().levels[0].predicted_drivers
    }

    /// The predicted supply of midtown and of downtown.
    pub(crate) async fn predicted(&self) -> [f64; 2] {
        [
            self.predicted_at(midtown()).await,
            self.predicted_at(downtown()).await,
        ]
    }

    /// Asks for a driver from `pickup` to `dropoff`.
    pub(crate) async fn dispatch_between(
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
        let answer = self.client().await.dispatch(request).await?;
        Ok(answer.into_inner().driver)
    }

    /// Asks for a driver from midtown to downtown.
    pub(crate) async fn dispatch(&self, ride: Uuid) -> Result<Option<DispatchedDriver>, Status> {
        self.dispatch_between(ride, midtown(), downtown()).await
    }

    /// Asks as a dispatcher does: again, while the database is too busy.
    pub(crate) async fn dispatch_patiently(&self, ride: Uuid) -> Option<DispatchedDriver> {
        eventually("the dispatch is answered", async || {
            match self.dispatch(ride).await {
                Err(busy) if busy.code() == Code::Unavailable => None,
                answer => Some(answer.unwrap()),
            }
        })
        .await
    }

    pub(crate) async fn release(&self, ride: Uuid) -> Result<bool, Status> {
        let ride_id = ride.to_string();
        let mut client = self.client().await;
        let answer = client.release(ReleaseRequest { ride_id }).await?;
        Ok(answer.into_inner().released)
    }
}

pub(crate) fn at(lat: f64, lon: f64) -> Position {
    Position::new(lat, lon).unwrap()
}

/// Outside the service area.
pub(crate) fn newark() -> Position {
    at(40.735, -74.172)
}
