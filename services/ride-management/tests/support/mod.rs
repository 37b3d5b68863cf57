//! A small city for tests: a private PostgreSQL and NATS, a driver-management that does what the test says, and
//! ride-management itself, with methods named after what riders and drivers do.

#![allow(dead_code, reason = "each test file uses its part of the city")]

pub(crate) mod drivers;
pub(crate) mod frozen;
pub(crate) mod openapi;

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, message::StreamMessage};
use clap::Parser as _;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use marketplace::{
    quote::Quote,
    surge::Multiplier,
    time::MarketTime,
    view::Level,
    zone::{Position, Zone},
};
use private_servers::{Nats, NatsSettings, Password, Postgres, PostgresSettings};
use prost::Message as _;
use ride_management::{
    Config, Service,
    app::{App, RideRequest},
};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use surge_proto::{
    convert::timestamp,
    subjects::{Stream, TRIPS},
    token::QuoteKey,
    v1,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

/// The longest that a test waits for anything; a loaded machine needs a fraction of it.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const QUOTE_KEY: &str = "a secret of the tests alone";

/// Grand Central.
pub(crate) fn midtown() -> Position {
    Position::new(40.7527, -73.9772).unwrap()
}

/// The Financial District.
pub(crate) fn downtown() -> Position {
    Position::new(40.7075, -74.0113).unwrap()
}

/// The servers that ride-management stands on.
pub(crate) struct City {
    // Before the folder: servers end before their data goes.
    pub(crate) postgres: Postgres,
    pub(crate) nats: Nats,
    passwords: [(&'static str, Password); 2],
    _folder: TempDir,
}

impl City {
    /// Servers with roles and schemas, and nothing in them.
    pub(crate) async fn build() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let base_dir = folder.path().to_owned();
        let postgres = Postgres::start(PostgresSettings {
            base_dir: base_dir.clone(),
            ..PostgresSettings::default()
        });
        let nats = Nats::start(NatsSettings {
            base_dir,
            ..NatsSettings::default()
        });
        let city = Self {
            postgres: postgres.await.unwrap(),
            nats: nats.await.unwrap(),
            passwords: ["ride_management", "price_optimization"]
                .map(|role| (role, Password::generate())),
            _folder: folder,
        };
        city.make_roles().await;
        city
    }

    async fn make_roles(&self) {
        let mut admin = PgConnection::connect(&self.postgres.admin_url())
            .await
            .unwrap();
        sqlx::raw_sql(include_str!("../../../roles.sql"))
            .execute(&mut admin)
            .await
            .unwrap();
        for (role, password) in &self.passwords {
            let sql = format!("ALTER ROLE {role} PASSWORD '{}'", password.reveal());
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
                .execute(&mut admin)
                .await
                .unwrap();
        }
    }

    /// A connection as one of the roles.
    pub(crate) async fn log_in_as(&self, role: &str) -> PgConnection {
        PgConnection::connect(&self.database_url(role))
            .await
            .unwrap()
    }

    pub(crate) fn database_url(&self, role: &str) -> String {
        let known = self.passwords.iter().find(|(known, _)| *known == role);
        let (_, password) = known.expect("the city made that role");
        self.postgres.url(role, password, "postgres")
    }

    /// A configuration for this city, changed by flags; driver-management is away unless a flag says where it is.
    pub(crate) fn config(&self, flags: &[&str]) -> Config {
        let database_url = self.database_url("ride_management");
        let nats_url = self.nats.url();
        let usual = [
            ["--database-url", &database_url],
            ["--nats-url", &nats_url],
            ["--supply-url", "http://127.0.0.1:9"],
            ["--quote-key", QUOTE_KEY],
            ["--http-addr", "127.0.0.1:0"],
            ["--grpc-addr", "127.0.0.1:0"],
            ["--publish-every", "50ms"],
        ];
        let unchanged = usual.into_iter().filter(|[flag, _]| !flags.contains(flag));
        let arguments = ["ride-management"].into_iter().chain(unchanged.flatten());
        Config::parse_from(arguments.chain(flags.iter().copied()))
    }

    /// ride-management, serving.
    pub(crate) async fn open(&self, flags: &[&str]) -> RideManagement {
        RideManagement::start(self.config(flags)).await
    }

    /// The demand of all zones as a service forecasts it that has just been started and has nothing but the table.
    pub(crate) async fn demands_of_the_table(&self, as_of: MarketTime) -> Vec<Level> {
        let newcomer = Service::start(self.config(&[])).await.unwrap();
        newcomer.app().all_demands(as_of)
    }

    /// JetStream, for looking at what was published and for publishing what drivers do.
    pub(crate) async fn jetstream(&self) -> jetstream::Context {
        platform::nats::jetstream(self.nats_client().await)
    }

    /// A connected client.
    pub(crate) async fn nats_client(&self) -> async_nats::Client {
        let client = platform::nats::connect(&self.nats.url(), "test").await;
        let client = client.unwrap();
        eventually("a connection to NATS", async || {
            platform::nats::probe(&client).ok()
        })
        .await;
        client
    }

    /// The last message on `subject`, once there is one that `wanted` accepts.
    pub(crate) async fn last_message(
        &self,
        stream: Stream,
        subject: &str,
        wanted: impl Fn(&StreamMessage) -> bool,
    ) -> StreamMessage {
        let jetstream = self.jetstream().await;
        eventually("a message", async || {
            let stream = jetstream.get_stream(stream.name).await.ok()?;
            let message = stream.get_last_raw_message_by_subject(subject).await.ok()?;
            wanted(&message).then_some(message)
        })
        .await
    }

    /// Says, in the name of driver-management, that a driver got to a stage of a trip.
    pub(crate) async fn driver_reports(&self, ride: &Value, driver_id: Uuid, stage: v1::TripStage) {
        let progress = v1::TripProgress {
            ride_id: ride["ride_id"].as_str().unwrap().to_owned(),
            driver_id: driver_id.to_string(),
            stage: stage as i32,
            at: Some(timestamp(real_now())),
        };
        self.publish_trip(progress.encode_to_vec()).await;
    }

    /// Publishes bytes where driver-management publishes trips.
    pub(crate) async fn publish_trip(&self, payload: Vec<u8>) {
        let jetstream = self.jetstream().await;
        eventually("the stream of trips", async || {
            platform::nats::ensure_stream(&jetstream, TRIPS.name, TRIPS.subjects, 1)
                .await
                .ok()
        })
        .await;
        let message = platform::nats::message("surge.v1.TripProgress", payload);
        let sent = jetstream
            .send_publish("surge.v1.trips.reported", message)
            .await;
        sent.unwrap().await.unwrap();
    }
}

/// A running ride-management.
pub(crate) struct RideManagement {
    pub(crate) http: SocketAddr,
    grpc: SocketAddr,
    pub(crate) app: App,
    client: HttpClient,
    stop: CancellationToken,
    life: JoinHandle<anyhow::Result<()>>,
}

/// An answer of the REST edge.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: String,
    pub(crate) body: Value,
}

impl RideManagement {
    pub(crate) async fn start(config: Config) -> Self {
        let service = Service::start(config).await.unwrap();
        let addresses = service.addresses().unwrap();
        let app = service.app();
        let stop = CancellationToken::new();
        Self {
            http: addresses.http,
            grpc: addresses.grpc,
            app,
            client: http_client(),
            life: tokio::spawn(service.run(stop.clone())),
            stop,
        }
    }

    /// Asks it to end, as SIGTERM would.
    pub(crate) fn ask_to_end(&self) {
        self.stop.cancel();
    }

    /// Ends it as SIGTERM would.
    pub(crate) async fn close(self) {
        self.ask_to_end();
        self.life.await.unwrap().unwrap();
    }

    /// A connection to the gRPC edge.
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// A rider asks for the ride of a quote.
    pub(crate) async fn request(&self, rider_id: Uuid, quote: &Quote) -> Answer {
        self.post("/v1/rides", &wish(rider_id, quote)).await
    }

    /// Tries again while the database is away, or a loaded machine makes it seem so.
    pub(crate) async fn request_patiently(&self, rider_id: Uuid, quote: &Quote) -> Answer {
        eventually("an acknowledged ride", async || {
            let answer = self.request(rider_id, quote).await;
            (answer.status != StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
        })
        .await
    }

    pub(crate) async fn cancel(&self, ride: &Value) -> Answer {
        let path = format!("/v1/rides/{}/cancel", ride["ride_id"].as_str().unwrap());
        self.call(Method::POST, &path, None, Vec::new()).await
    }

    pub(crate) async fn look_at(&self, ride: &Value) -> Answer {
        let path = format!("/v1/rides/{}", ride["ride_id"].as_str().unwrap());
        self.get(&path).await
    }

    /// The ride, once it is in `state`.
    pub(crate) async fn ride_when(&self, ride: &Value, state: &str) -> Value {
        eventually(state, async || {
            let now = self.look_at(ride).await.body;
            (now["state"] == state).then_some(now)
        })
        .await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None, Vec::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string().into_bytes();
        self.call(Method::POST, path, Some("application/json"), body)
            .await
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Answer {
        call(&self.client, self.http, method, path, content_type, body)
            .await
            .expect("ride-management answers")
    }
}

pub(crate) type HttpClient = Client<HttpConnector, Full<Bytes>>;

pub(crate) fn http_client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

/// One request over HTTP; nothing if there is no answer.
pub(crate) async fn call(
    client: &HttpClient,
    address: SocketAddr,
    method: Method,
    path: &str,
    content_type: Option<&str>,
    body: Vec<u8>,
) -> Option<Answer> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{address}{path}"));
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    let request = request.body(Full::from(body)).unwrap();
    let response = client.request(request).await.ok()?;
    let (head, body) = response.into_parts();
    let content_type = head.headers.get("content-type");
    let bytes = body.collect().await.ok()?.to_bytes();
    Some(Answer {
        status: head.status,
        content_type: content_type.map_or(String::new(), |value| value.to_str().unwrap().into()),
        body: serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
    })
}

/// A quote from midtown to downtown that is good for two minutes.
pub(crate) fn quote() -> Quote {
    quote_from(midtown())
}

pub(crate) fn quote_from(pickup: Position) -> Quote {
    Quote {
        quote_id: Uuid::now_v7(),
        zone: Zone::at(pickup),
        pickup,
        dropoff: downtown(),
        fare_cents: 2_769,
        multiplier: Multiplier::from_tenths(13).unwrap(),
        expires_at: real_now() + Duration::from_secs(120),
    }
}

/// The token of a quote, as price-optimization would sign it.
pub(crate) fn token(quote: &Quote) -> String {
    QuoteKey::new(QUOTE_KEY.as_bytes()).unwrap().sign(quote)
}

/// The body of a ride request.
pub(crate) fn wish(rider_id: Uuid, quote: &Quote) -> Value {
    json!({
        "rider_id": rider_id,
        "quote": token(quote),
        "pickup": point(quote.pickup),
        "dropoff": point(quote.dropoff),
    })
}

/// The same, as the use case has it.
pub(crate) fn request(rider_id: Uuid, quote: &Quote) -> RideRequest {
    RideRequest {
        rider_id,
        quote: token(quote),
        pickup: quote.pickup,
        dropoff: quote.dropoff,
    }
}

pub(crate) fn point(position: Position) -> Value {
    json!({ "lat": position.lat(), "lon": position.lon() })
}

pub(crate) fn driver_of(ride: &Value) -> Uuid {
    ride["driver_id"].as_str().unwrap().parse().unwrap()
}

/// Market time of a city that lives in real time.
pub(crate) fn real_now() -> MarketTime {
    MarketTime::from_millis(platform::clock::MarketClock::real_time().now_millis())
}

/// Looks again and again until there is what is looked for.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < give_up, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
