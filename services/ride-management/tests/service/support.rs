//! ride-management under test, with methods named after what riders and drivers do.

use std::{ops::Deref, time::Duration};

use http::{Method, StatusCode};
use marketplace::{
    quote::Quote,
    surge::Multiplier,
    time::MarketTime,
    view::Level,
    zone::{Position, Zone},
};
use platform::{clock::MarketClock, config, nats};
use prost::Message as _;
use ride_management::{
    Config, Service,
    app::{App, RideRequest},
};
use serde_json::{Value, json};
use surge_proto::{
    convert::timestamp,
    subjects::TRIPS,
    token::QuoteKey,
    v1::{TripProgress, TripStage},
};
use test_harness::{RestAnswer, RunningService, Servers, downtown, eventually, midtown, until};
use uuid::Uuid;

/// The role of the service in PostgreSQL.
pub(crate) const ROLE: &str = "ride_management";

pub(crate) const QUOTE_KEY: &str = "a secret of the tests alone";

/// A running ride-management.
pub(crate) struct RideManagement {
    pub(crate) app: App,
    service: RunningService,
}

impl Deref for RideManagement {
    type Target = RunningService;

    fn deref(&self) -> &RunningService {
        &self.service
    }
}

/// A configuration for these servers, changed by `flags`; driver-management is away unless a flag
/// says where it is.
pub(crate) fn config(servers: &Servers, flags: &[&str]) -> Config {
    match config::parse(arguments(servers, flags)) {
        Ok(config) => config,
        Err(refused) => panic!("{refused:?}"),
    }
}

/// The command line of a service on these servers, changed by `flags`.
pub(crate) fn arguments(servers: &Servers, flags: &[&str]) -> Vec<String> {
    let (database_url, nats_url) = (servers.database_url(ROLE), servers.nats.url());
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
    let arguments = arguments.chain(flags.iter().copied());
    arguments.map(str::to_owned).collect()
}

impl RideManagement {
    /// A service without a driver-management.
    pub(crate) async fn start(servers: &Servers) -> Self {
        Self::start_with(servers, &[]).await
    }

    pub(crate) async fn start_with(servers: &Servers, flags: &[&str]) -> Self {
        let service = Service::start(config(servers, flags)).await.unwrap();
        let (addresses, app) = (service.addresses().unwrap(), service.app());
        let service = RunningService::spawn(addresses, |shutdown| service.run(shutdown)).await;
        Self { app, service }
    }

    /// A service whose driver-management is at `url`.
    pub(crate) async fn start_at(servers: &Servers, url: &str) -> Self {
        Self::start_with(servers, &["--supply-url", url]).await
    }

    pub(crate) async fn stop(self) {
        self.service.stop().await;
    }

    /// A rider asks for the ride of a quote.
    pub(crate) async fn request(&self, rider_id: Uuid, quote: &Quote) -> RestAnswer {
        let body = request_body(rider_id, quote);
        self.rest.post("/v1/rides", &body).await
    }

    /// A new rider gets a ride for a new quote; by contract a request may be repeated while the
    /// database is too busy.
    pub(crate) async fn new_ride(&self) -> Value {
        let answer = self.request_patiently(Uuid::now_v7(), &quote()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }

    /// Repeats the request while the database is away, or a loaded machine makes it seem so.
    pub(crate) async fn request_patiently(&self, rider_id: Uuid, quote: &Quote) -> RestAnswer {
        eventually("the request is answered", async || {
            let answer = self.request(rider_id, quote).await;
            (answer.status != StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
        })
        .await
    }

    pub(crate) async fn cancel(&self, ride: &Value) -> RestAnswer {
        let path = format!("/v1/rides/{}/cancel", ride["ride_id"].as_str().unwrap());
        self.rest.call(Method::POST, &path, None, "").await
    }

    pub(crate) async fn look_at(&self, ride: &Value) -> RestAnswer {
        let path = format!("/v1/rides/{}", ride["ride_id"].as_str().unwrap());
        self.rest.get(&path).await
    }

    /// The ride, once it is in `state`.
    pub(crate) async fn ride_when(&self, ride: &Value, state: &str) -> Value {
        eventually(state, async || {
            let now = self.look_at(ride).await.body;
            (now["state"] == state).then_some(now)
        })
        .await
    }
}

/// The demand of all zones as a service forecasts it that has just been started and has nothing but
/// the table.
pub(crate) async fn demands_of_the_table(servers: &Servers, as_of: MarketTime) -> Vec<Level> {
    let newcomer = Service::start(config(servers, &[])).await.unwrap();
    newcomer.app().all_demands(as_of)
}

/// The number of events in the outbox.
pub(crate) async fn events_in_outbox(servers: &Servers) -> i64 {
    let mut database = servers.connection_as(ROLE).await;
    let count = sqlx::query_scalar("SELECT count(*) FROM outbox");
    count.fetch_one(&mut database).await.unwrap()
}

/// Reports, in place of driver-management, that a driver reached a stage of a trip.
pub(crate) async fn driver_reports(
    servers: &Servers,
    ride: &Value,
    driver_id: Uuid,
    stage: TripStage,
) {
    let progress = TripProgress {
        ride_id: ride["ride_id"].as_str().unwrap().to_owned(),
        driver_id: driver_id.to_string(),
        stage: stage as i32,
        at: Some(timestamp(real_now())),
    };
    publish_trip(servers, progress.encode_to_vec()).await;
}

/// Publishes bytes where driver-management publishes trips.
pub(crate) async fn publish_trip(servers: &Servers, payload: Vec<u8>) {
    let jetstream = servers.jetstream().await;
    until("there is a stream of trips", async || {
        let made = nats::ensure_stream(&jetstream, TRIPS.name, TRIPS.subjects, 1);
        made.await.is_ok()
    })
    .await;
    let message = nats::message("surge.v1.TripProgress", payload);
    let sent = jetstream.send_publish("surge.v1.trips.reported", message);
    sent.await.unwrap().await.unwrap();
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
pub(crate) fn request_body(rider_id: Uuid, quote: &Quote) -> Value {
    json!({
        "rider_id": rider_id,
        "quote": token(quote),
        "pickup": quote.pickup,
        "dropoff": quote.dropoff,
    })
}

/// The same, as the use case has it.
pub(crate) fn ride_request(rider_id: Uuid, quote: &Quote) -> RideRequest {
    RideRequest {
        rider_id,
        quote: token(quote),
        pickup: quote.pickup,
        dropoff: quote.dropoff,
    }
}

pub(crate) fn driver_of(ride: &Value) -> Uuid {
    ride["driver_id"].as_str().unwrap().parse().unwrap()
}

/// Market time of a service whose clock is real time.
pub(crate) fn real_now() -> MarketTime {
    MarketTime::from_millis(MarketClock::real_time().now_millis())
}
