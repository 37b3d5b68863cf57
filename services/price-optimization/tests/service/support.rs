//! A price-optimization under test, with a real PostgreSQL and a real NATS of its own. Its two gRPC callees say what
//! the test tells them to, so that all three dataflows can be fed the very same levels.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use marketplace::{
    time::MarketTime,
    view::{Level, MarketView},
    zone::{Bounds, ServiceArea, Zone},
};
use platform::nats;
use price_optimization::{Service, config::Config, store};
use private_servers::{Nats, NatsSettings, Password, Postgres, PostgresSettings};
use prost::Message;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgPool};
use surge_proto::{
    convert::{timestamp, zones},
    subjects::{self, DEMAND, SUPPLY},
    v1::{self, demand_service_server as demand, supply_service_server as supply},
};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request as Call, Response as Answer, Status, Streaming, transport::Server};

/// Longest wait for anything to come true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const GRAND_CENTRAL: (f64, f64) = (40.7527, -73.9772);
pub(crate) const WALL_STREET: (f64, f64) = (40.7075, -74.0113);

/// Servers and callees around a price-optimization.
pub(crate) struct Exchange {
    pub(crate) postgres: Postgres,
    pub(crate) nats: Nats,
    pub(crate) database_url: String,
    pub(crate) callees: Callees,
    _folder: tempfile::TempDir,
}

impl Exchange {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base_dir = folder.path().to_owned();
        let postgres = PostgresSettings {
            base_dir: base_dir.clone(),
            ..PostgresSettings::default()
        };
        let postgres = Postgres::start(postgres).await.unwrap();
        let nats = NatsSettings {
            base_dir,
            ..NatsSettings::default()
        };
        Self {
            nats: Nats::start(nats).await.unwrap(),
            database_url: make_roles(&postgres).await,
            postgres,
            callees: Callees::start(),
            _folder: folder,
        }
    }

    /// A price-optimization in this exchange, with `more` settings beside the necessary ones.
    pub(crate) async fn service(&self, more: &[&str]) -> PriceOptimization {
        let nats_url = self.nats.url();
        let callees = format!("http://{}", self.callees.address);
        let necessary = [
            "price-optimization",
            "--http-addr=127.0.0.1:0",
            "--grpc-addr=127.0.0.1:0",
            "--quote-key=a key that only tests have",
            &format!("--database-url={}", self.database_url),
            &format!("--nats-url={nats_url}"),
            &format!("--supply-url={callees}"),
            &format!("--demand-url={callees}"),
        ];
        let config = Config::parse_from(necessary.iter().chain(more));
        let service = PriceOptimization::start(config).await;
        service.is_connected_to_nats().await;
        service
    }

    pub(crate) async fn jetstream(&self) -> async_nats::jetstream::Context {
        nats::jetstream(nats::connect(&self.nats.url(), "test").await.unwrap())
    }

    /// Publishes levels and watermarks, as the two producers do.
    pub(crate) async fn publish(&self, view: &MarketView) {
        let jetstream = self.jetstream().await;
        nats::ensure_stream(&jetstream, SUPPLY.name, SUPPLY.subjects)
            .await
            .unwrap();
        nats::ensure_stream(&jetstream, DEMAND.name, DEMAND.subjects)
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
        let pool = PgPool::connect(&self.database_url).await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
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

async fn make_roles(postgres: &Postgres) -> String {
    let admin = PgPool::connect(&postgres.admin_url()).await.unwrap();
    admin
        .execute(include_str!("../../../roles.sql"))
        .await
        .unwrap();
    let password = Password::generate();
    let alter = format!(
        "ALTER ROLE price_optimization PASSWORD '{}'",
        password.reveal()
    );
    admin.execute(AssertSqlSafe(alter)).await.unwrap();
    postgres.url("price_optimization", &password, "postgres")
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
        marketplace::view::ZoneLevels {
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
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    MarketTime::from_millis(since_epoch.unwrap().as_millis() as i64)
}

/// What the callees say of the market, and whether they say it as of the moment of the call, as real ones do.
#[derive(Clone)]
struct Market {
    view: MarketView,
    as_of_now: bool,
}

/// driver-management and ride-management in one, saying what they are told to say.
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

/// A runtime must not be dropped where others wait; this one is told to go instead.
impl Drop for Exchange {
    fn drop(&mut self) {
        self.callees.die();
    }
}

#[derive(Clone)]
struct Saying(Arc<Mutex<Option<Market>>>);

impl Saying {
    fn levels(&self, names: &[String]) -> Result<Vec<marketplace::view::ZoneLevels>, Status> {
        let market = self.0.lock().unwrap();
        let market = market
            .as_ref()
            .ok_or_else(|| Status::unavailable("told nothing"))?;
        let asked = zones(names).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let as_of = market.as_of_now.then(now);
        let told = |level: Level| Level {
            as_of: as_of.unwrap_or(level.as_of),
            ..level
        };
        let of = |zone: &Zone| {
            let mut zones = market.view.zones.iter();
            let levels = zones.find(|levels| levels.zone == *zone).unwrap();
            marketplace::view::ZoneLevels {
                zone: *zone,
                supply: levels.supply.map(told),
                demand: levels.demand.map(told),
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
        let level = |levels: marketplace::view::ZoneLevels| {
            v1::SupplyLevel::new(levels.zone, levels.supply.unwrap())
        };
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
        let level = |levels: marketplace::view::ZoneLevels| {
            v1::DemandLevel::new(levels.zone, levels.demand.unwrap())
        };
        Ok(Answer::new(v1::GetDemandResponse {
            levels: levels.into_iter().map(level).collect(),
        }))
    }
}

/// A running price-optimization, spoken to as a client does.
pub(crate) struct PriceOptimization {
    pub(crate) http: String,
    pub(crate) grpc: String,
    token: CancellationToken,
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

impl Drop for PriceOptimization {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl PriceOptimization {
    async fn start(config: Config) -> Self {
        let service = Service::start(config).await.unwrap();
        let at = service.addresses().unwrap();
        let token = CancellationToken::new();
        let running = service.run(token.clone());
        tokio::spawn(async move { running.await.unwrap() });
        Self {
            http: format!("http://{}", at.http),
            grpc: format!("http://{}", at.grpc),
            token,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Any request; the body as JSON, or as text where it is none.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> (StatusCode, http::HeaderMap, Value) {
        let answer = tokio::time::timeout(PATIENCE, self.client.request(request)).await;
        let (head, body) = answer.expect("an answer in time").unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        let body = serde_json::from_slice(&body).unwrap_or_else(|_| text());
        (head.status, head.headers, body)
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        let request = Request::get(format!("{}{path}", self.http)).body(Full::default());
        let (status, _, body) = self.send(request.unwrap()).await;
        (status, body)
    }

    pub(crate) async fn json(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.http))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_string())).unwrap();
        let (status, _, body) = self.send(request).await;
        (status, body)
    }

    async fn is_connected_to_nats(&self) {
        self.ready_until(|ready| ready["dependencies"]["nats"]["status"] == "up")
            .await;
    }

    /// Asks for readiness until it pleases.
    pub(crate) async fn ready_until(&self, pleases: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (_, ready) = self.get("/readyz").await;
            if pleases(&ready) {
                return ready;
            }
            assert!(tokio::time::Instant::now() < deadline, "still {ready}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A quote from Grand Central to Wall Street in one mode.
    pub(crate) async fn quote(&self, mode: &str) -> (StatusCode, Value) {
        let headers = [("surge-dataflow", mode)];
        self.json(Method::POST, "/v1/quotes", &headers, &a_trip())
            .await
    }

    /// Asks for quotes in `mode` until one pleases.
    pub(crate) async fn quote_until(
        &self,
        mode: &str,
        pleases: impl Fn(StatusCode, &Value) -> bool,
    ) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (status, quote) = self.quote(mode).await;
            if pleases(status, &quote) {
                return quote;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{mode}: still {status} {quote}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let map = self.surge_map(mode).await;
            let shown = map["zones"].as_array().unwrap().iter();
            let mut here = shown.filter(|shown| shown["zone"] == zone.to_string());
            if here.any(|shown| shown["demand"] == demand) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "still {map}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The multiplier of every zone in one mode.
    pub(crate) async fn surge_map(&self, mode: &str) -> Value {
        let headers = [("surge-dataflow", mode)];
        let map = self.json(Method::GET, "/v1/surge", &headers, &Value::Null);
        let (status, map) = map.await;
        assert_eq!(status, StatusCode::OK, "{map}");
        map
    }

    pub(crate) async fn switch(&self, mode: &str) -> (StatusCode, Value) {
        self.json(Method::PUT, "/v1/dataflow", &[], &json!({ "mode": mode }))
            .await
    }
}

pub(crate) fn a_trip() -> Value {
    json!({
        "pickup": { "lat": GRAND_CENTRAL.0, "lon": GRAND_CENTRAL.1 },
        "dropoff": { "lat": WALL_STREET.0, "lon": WALL_STREET.1 },
    })
}
