//! A stand-in for driver-management that a test can make slow, or leave without drivers. The real
//! one has tests of its own, and the two meet in the end-to-end tests of the suite.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use serde_json::Value;
use surge_proto::{
    convert::timestamp,
    v1::{
        DispatchRequest, DispatchResponse, DispatchedDriver, GetSupplyRequest, GetSupplyResponse,
        ReleaseRequest, ReleaseResponse, ReportPositionsRequest, ReportPositionsResponse,
        supply_service_server::{SupplyService, SupplyServiceServer},
    },
};
use test_harness::{midtown, until};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming, async_trait, transport::Server};
use uuid::Uuid;

use crate::support::real_now;

/// Drivers that can be sent to rides.
#[derive(Clone, Default)]
pub(crate) struct Drivers {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    idle: usize,
    /// How long a dispatch takes; ride-management misses an answer that takes longer than its
    /// deadline.
    answers_after: Duration,
    on_rides: HashMap<Uuid, Uuid>,
    dispatches: usize,
}

impl Drivers {
    /// A driver-management with this number of idle drivers, and its URL.
    pub(crate) async fn open(idle: usize) -> (Self, String) {
        let drivers = Self::default();
        drivers.state().idle = idle;
        let address = drivers.serve_at("127.0.0.1:0".parse().unwrap()).await;
        (drivers, format!("http://{address}"))
    }

    /// Begins to serve at an address, from now until the end of the test.
    pub(crate) async fn serve_at(&self, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(SupplyServiceServer::new(Service(self.clone())));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    pub(crate) fn are_idle(&self, idle: usize) {
        self.state().idle = idle;
    }

    /// The driver of a ride declines it and is not seen again.
    pub(crate) fn give_back(&self, ride: &Value) {
        let ride_id = ride["ride_id"].as_str().unwrap().parse().unwrap();
        self.state().on_rides.remove(&ride_id).unwrap();
    }

    pub(crate) fn answer_after(&self, delay: Duration) {
        self.state().answers_after = delay;
    }

    /// Drivers on rides that are still under way.
    pub(crate) fn busy(&self) -> usize {
        self.state().on_rides.len()
    }

    /// Calls to send a driver, repeats included.
    pub(crate) fn dispatches(&self) -> usize {
        self.state().dispatches
    }

    pub(crate) async fn all_are_free(&self) {
        until("all drivers are free", async || self.busy() == 0).await;
    }

    fn answers_after(&self) -> Duration {
        self.state().answers_after
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

struct Service(Drivers);

#[async_trait]
impl SupplyService for Service {
    async fn dispatch(
        &self,
        request: Request<DispatchRequest>,
    ) -> Result<Response<DispatchResponse>, Status> {
        let ride_id = request.into_inner().ride_id.parse().unwrap();
        let asked = Instant::now();
        let driver = {
            let mut state = self.0.state();
            state.dispatches += 1;
            state.send_to(ride_id)
        };
        // The driver is sent already: only the answer may get lost. A test may shorten the delay
        // meanwhile.
        while asked.elapsed() < self.0.answers_after() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Response::new(DispatchResponse { driver }))
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        let ride_id: Uuid = request.into_inner().ride_id.parse().unwrap();
        let mut state = self.0.state();
        let released = state.on_rides.remove(&ride_id).is_some();
        state.idle += usize::from(released);
        Ok(Response::new(ReleaseResponse { released }))
    }

    async fn get_supply(
        &self,
        _: Request<GetSupplyRequest>,
    ) -> Result<Response<GetSupplyResponse>, Status> {
        Err(Status::unimplemented("not part of the tests"))
    }

    async fn report_positions(
        &self,
        _: Request<Streaming<ReportPositionsRequest>>,
    ) -> Result<Response<ReportPositionsResponse>, Status> {
        Err(Status::unimplemented("not part of the tests"))
    }
}

impl State {
    fn send_to(&mut self, ride_id: Uuid) -> Option<DispatchedDriver> {
        let sent_before = self.on_rides.get(&ride_id).copied();
        if sent_before.is_none() && self.idle == 0 {
            return None;
        }
        let driver_id = sent_before.unwrap_or_else(|| {
            self.idle -= 1;
            Uuid::now_v7()
        });
        self.on_rides.insert(ride_id, driver_id);
        Some(DispatchedDriver {
            driver_id: driver_id.to_string(),
            position: Some(midtown().into()),
            pickup_due_at: Some(timestamp(real_now() + Duration::from_secs(120))),
            dropoff_due_at: Some(timestamp(real_now() + Duration::from_secs(1_320))),
        })
    }
}
