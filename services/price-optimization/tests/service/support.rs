//! A price-optimization under test, with a real PostgreSQL and a real NATS of its own. Its two gRPC
//! callees give the answers that a test sets, so that all three dataflows can be fed the very same
//! levels.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex},
};

use clap::Parser;
use http::{Method, StatusCode};
use http_body_util::Full;
use marketplace::{
    time::MarketTime,
    view::{Level, MarketView, ZoneLevels},
    zone::{Bounds, ServiceArea, Zone},
};
use platform::{clock::MarketClock, nats};
use price_optimization::{Service, config::Config, store};
use prost::Message;
use serde_json::{Value, json};
use surge_proto::{
    convert::{timestamp, zones},
    subjects::{self, DEMAND, SUPPLY},
    v1::{self, demand_service_server as demand, supply_service_server as supply},
};
use test_harness::{RestAnswer, RunningService, Servers, downtown, eventually, midtown};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request as Call, Response as Answer, Status, Streaming, transport::Server};

/// The role of the service in PostgreSQL.
pub(crate) const ROLE: &str = "price_optimization";

/// Servers and callees around a price-optimization.
pub(crate) struct Exchange {
    servers: Servers,
    pub(crate) database_url: String,
    pub(crate) callees: Callees,
}

impl Deref for Exchange {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        &self.servers
    }
}

impl DerefMut for Exchange {
    fn deref_mut(&mut self) -> &mut Servers {
        &mut self.servers
    }
}

impl Exchange {
    pub(crate) async fn start() -> Self {
        let servers = Servers::start().await;
        Self {
            database_url: servers.database_url(ROLE),
            servers,
            callees: Callees::start(),
        }
    }

    /// A price-optimization in this exchange, with `more` settings beside the necessary ones.
    pub(crate) async fn service(&self, more: &[&str]) -> PriceOptimization {
        let callees = format!("http://{}", self.callees.address);
        let necessary = [
            "price-optimization",
            "--http-addr=127.0.0.1:0",
            "--grpc-addr=127.0.0.1:0",
            "--quote-key=a key that only tests have",
            &format!("--database-url={}", self.database_url),
            &format!("--nats-url={}", self.nats.url()),
            &format!("--supply-url={callees}"),
            &format!("--demand-url={callees}"),
        ];
        let service = Service::start(Config::parse_from(necessary.iter().chain(more)));
        let service = service.await.unwrap();
        let addresses = service.addresses().unwrap();
        let running = RunningService::spawn(addresses, |shutdown| service.run(shutdown));
        let service = PriceOptimization(running.await);
        service
            .ready_until(|ready| {
                let is_up = |name| ready["dependencies"][name]["status"] == "up";
                is_up("nats") && is_up("mode")
            })
            .await;
        service
    }

    /// Publishes levels and watermarks, as the two producers do.
    pub(crate) async fn publish(&self, view: &MarketView) {
        let jetstream = self.jetstream().await;
        nats::ensure_stream(&jetstream, SUPPLY.name, SUPPLY.subjects, 1)
            .await
            .unwrap();
        nats::ensure_stream(&jetstream, DEMAND.name, DEMAND.subjects, 1)
            .await
            .unwrap();
        for levels in &view.zones {
            let (supply, demand) = (levels.supply.unwrap(), levels.demand.unwrap());
            let supply_level = v1::SupplyLevel::new(levels.zone, supply).encode_to_vec();
            let demand_level = v1::DemandLevel::new(levels.zone, demand).encode_to_vec();
            publish(&jetstream, subjects::supply_of(levels.zone), supply_level).await;
            publish(&jetstream, subjects::demand_of(levels.zone), demand_level).await;
        }
        let as_of = view.as_of().map(timestamp);
        let watermark = v1::Watermark { as_of }.encode_to_vec();
        publish(
            &jetstream,
            subjects::SUPPLY_WATERMARK.to_owned(),
            watermark.clone(),
        )
        .await;
        publish(&jetstream, subjects::DEMAND_WATERMARK.to_owned(), watermark).await;
    }

    /// Writes the rows that the batch job would have left.
    pub(crate) async fn write_rows(&self, view: &MarketView) {
        let mut connection = self.connection_as(ROLE).await;
        store::write_zone_market(&mut connection, &view.zones, None)
            .await
            .unwrap();
    }

    /// Feeds all three dataflows the same market.
    pub(crate) async fn feed(&self, view: &MarketView) {
        self.callees.answer_with(view);
        self.publish(view).await;
        self.write_rows(view).await;
    }
}

/// Publishes one message, and waits until the broker keeps it.
pub(crate) async fn publish(
    jetstream: &async_nats::jetstream::Context,
    subject: String,
    payload: Vec<u8>,
) {
    let message = nats::message("test", payload);
    jetstream
        .send_publish(subject, message)
        .await
        .unwrap()
        .await
        .unwrap();
}

/// A market in which every zone of the area has the levels that `levels` gives for its number.
pub(crate) fn market(as_of: MarketTime, levels: impl Fn(usize) -> (f64, f64)) -> MarketView {
    market_of(Bounds::NEW_YORK, as_of, levels)
}

/// [`market`], of another area.
pub(crate) fn market_of(
    bounds: Bounds,
    as_of: MarketTime,
    levels: impl Fn(usize) -> (f64, f64),
) -> MarketView {
    let area = ServiceArea::new(bounds);
    let zone_levels = |(index, zone): (usize, &Zone)| {
        let (supply, demand) = levels(index);
        let level = |value| Some(Level { value, as_of });
        ZoneLevels {
            zone: *zone,
            supply: level(supply),
            demand: level(demand),
        }
    };
    MarketView {
        zones: area.zones().iter().enumerate().map(zone_levels).collect(),
    }
}

/// Market time of a service whose clock is real time.
pub(crate) fn now() -> MarketTime {
    MarketTime::from_millis(MarketClock::real_time().now_millis())
}

/// The levels that the callees answer with, and whether as of the moment of the call, as real ones
/// do.
#[derive(Clone)]
struct Market {
    view: MarketView,
    as_of_now: bool,
}

/// driver-management and ride-management in one, with the answers that a test sets.
#[derive(Clone)]
pub(crate) struct Callees {
    pub(crate) address: SocketAddr,
    market: Arc<Mutex<Option<Market>>>,
    // A runtime of their own: when it goes, the connections that were accepted go too.
    server: Arc<Mutex<Option<Runtime>>>,
}

impl Callees {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let market = Arc::new(Mutex::new(None));
        let saying = Saying(Arc::clone(&market));
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            Server::builder()
                .add_service(supply::SupplyServiceServer::new(saying.clone()))
                .add_service(demand::DemandServiceServer::new(saying))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            market,
            server: Arc::new(Mutex::new(Some(runtime))),
        }
    }

    pub(crate) fn answer_with(&self, view: &MarketView) {
        self.say(view, false);
    }

    pub(crate) fn answer_as_of_now_with(&self, view: &MarketView) {
        self.say(view, true);
    }

    fn say(&self, view: &MarketView, as_of_now: bool) {
        let view = view.clone();
        *self.market.lock().unwrap() = Some(Market { view, as_of_now });
    }

    /// From now on nobody answers.
    pub(crate) fn die(&self) {
        if let Some(runtime) = self.server.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }
}

/// A runtime must not be dropped in an asynchronous context; this one shuts down in the background.
impl Drop for Exchange {
    fn drop(&mut self) {
        self.callees.die();
    }
}

#[derive(Clone)]
struct Saying(Arc<Mutex<Option<Market>>>);

impl Saying {
    fn levels(&self, names: &[String]) -> Result<Vec<ZoneLevels>, Status> {
        let market = self.0.lock().unwrap();
        let market = market
            .as_ref()
            .ok_or_else(|| Status::unavailable("no levels are set"))?;
        let asked = zones(names).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let as_of = market.as_of_now.then(now);
        let observed = |level: Level| Level {
            as_of: as_of.unwrap_or(level.as_of),
            ..level
        };
        let of = |zone: &Zone| {
            let mut zones = market.view.zones.iter();
            let levels = zones.find(|levels| levels.zone == *zone).unwrap();
            ZoneLevels {
                zone: *zone,
                supply: levels.supply.map(observed),
                demand: levels.demand.map(observed),
            }
        };
        Ok(asked.iter().map(of).collect())
    }
}

#[tonic::async_trait]
impl supply::SupplyService for Saying {
    async fn get_supply(
        &self,
        call: Call<v1::GetSupplyRequest>,
    ) -> Result<Answer<v1::GetSupplyResponse>, Status> {
        let levels = self.levels(&call.into_inner().zones)?;
        let level = |levels: ZoneLevels| v1::SupplyLevel::new(levels.zone, levels.supply.unwrap());
        Ok(Answer::new(v1::GetSupplyResponse {
            levels: levels.into_iter().map(level).collect(),
        }))
    }

    async fn report_positions(
        &self,
        _: Call<Streaming<v1::ReportPositionsRequest>>,
    ) -> Result<Answer<v1::ReportPositionsResponse>, Status> {
        Err(Status::unimplemented("not part of the tests"))
    }

    async fn dispatch(
        &self,
        _: Call<v1::DispatchRequest>,
    ) -> Result<Answer<v1::DispatchResponse>, Status> {
        Err(Status::unimplemented("not part of the tests"))
    }

    async fn release(
        &self,
        _: Call<v1::ReleaseRequest>,
    ) -> Result<Answer<v1::ReleaseResponse>, Status> {
        Err(Status::unimplemented("not part of the tests"))
    }
}

#[tonic::async_trait]
impl demand::DemandService for Saying {
    async fn get_demand(
        &self,
        call: Call<v1::GetDemandRequest>,
    ) -> Result<Answer<v1::GetDemandResponse>, Status> {
        let levels = self.levels(&call.into_inner().zones)?;
        let level = |levels: ZoneLevels| v1::DemandLevel::new(levels.zone, levels.demand.unwrap());
        Ok(Answer::new(v1::GetDemandResponse {
            levels: levels.into_iter().map(level).collect(),
        }))
    }
}

/// A running price-optimization; it ends with this value.
pub(crate) struct PriceOptimization(RunningService);

impl Deref for PriceOptimization {
    type Target = RunningService;

    fn deref(&self) -> &RunningService {
        &self.0
    }
}

impl Drop for PriceOptimization {
    fn drop(&mut self) {
        self.ask_to_stop();
    }
}

impl PriceOptimization {
    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self.rest.get(path).await;
        (answer.status, answer.body)
    }

    /// Asks for something in one mode.
    async fn call(&self, method: Method, path: &str, mode: &str, body: String) -> RestAnswer {
        let request = self.rest.request(method, path);
        let request = request
            .header("content-type", "application/json")
            .header("surge-dataflow", mode)
            .body(Full::from(body));
        self.rest.send(request.unwrap()).await
    }

    /// Asks for readiness until `wanted` holds.
    pub(crate) async fn ready_until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually("the wanted readiness", async || {
            let (_, ready) = self.get("/readyz").await;
            wanted(&ready).then_some(ready)
        })
        .await
    }

    /// A quote from midtown to downtown in one mode.
    pub(crate) async fn quote(&self, mode: &str) -> (StatusCode, Value) {
        let trip = a_trip().to_string();
        let answer = self.call(Method::POST, "/v1/quotes", mode, trip).await;
        (answer.status, answer.body)
    }

    /// Asks for quotes in `mode` until `wanted` holds.
    pub(crate) async fn quote_until(
        &self,
        mode: &str,
        wanted: impl Fn(StatusCode, &Value) -> bool,
    ) -> Value {
        eventually(mode, async || {
            let (status, quote) = self.quote(mode).await;
            wanted(status, &quote).then_some(quote)
        })
        .await
    }

    /// Waits until `mode` quotes with data.
    pub(crate) async fn quote_with_data(&self, mode: &str) -> Value {
        self.quote_until(mode, |status, quote| {
            status.is_success() && quote["degraded"] == false
        })
        .await
    }

    /// Waits until the map of `mode` shows this demand in a zone.
    pub(crate) async fn demand_becomes(&self, mode: &str, zone: Zone, demand: f64) {
        eventually("the map shows the demand", async || {
            let map = self.surge_map(mode).await;
            let mut zones = map["zones"].as_array().unwrap().iter();
            let shown = zones.find(|shown| shown["zone"] == zone.to_string());
            shown.filter(|shown| shown["demand"] == demand).map(|_| ())
        })
        .await;
    }

    /// The multiplier of every zone in one mode.
    pub(crate) async fn surge_map(&self, mode: &str) -> Value {
        let answer = self.call(Method::GET, "/v1/surge", mode, String::new());
        let answer = answer.await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer.body
    }

    pub(crate) async fn switch(&self, mode: &str) -> (StatusCode, Value) {
        let body = json!({ "mode": mode });
        let answer = self.rest.put("/v1/dataflow", &body).await;
        (answer.status, answer.body)
    }
}

/// A trip from midtown to downtown.
pub(crate) fn a_trip() -> Value {
    json!({ "pickup": midtown(), "dropoff": downtown() })
}
