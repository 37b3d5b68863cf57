//! The public APIs, as drivers, riders and operators use them over HTTP.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use city::{
    Client, Target,
    client::{CallError, HttpAnswer},
};
use http::{HeaderValue, Method, Request, StatusCode, header::CONTENT_TYPE};
use marketplace::{DriverStatus, Multiplier, Position, Zone};
use platform::sampling::TRACE_HEADER;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use surge::Part;
use surge_proto::DataflowMode;
use uuid::Uuid;

use crate::waiting::eventually;

/// Longer than any answer may take: a call that reaches it fails its test.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// All three modes.
pub(crate) const MODES: [DataflowMode; DataflowMode::ALL.len()] = DataflowMode::ALL;

/// The apps of drivers and riders, and the console of an operator. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct PublicApi {
    client: Client,
    target: Target,
    /// Whether each quote carries the header that asks for a trace.
    pub(crate) asks_for_traces: bool,
}

/// A trip of a rider.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Trip {
    pub(crate) pickup: Position,
    pub(crate) dropoff: Position,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Quote {
    pub(crate) quote_id: Uuid,
    pub(crate) fare_cents: i64,
    pub(crate) surge_multiplier: Multiplier,
    pub(crate) zone: Zone,
    pub(crate) dataflow: DataflowMode,
    pub(crate) epoch: u64,
    pub(crate) supply: f64,
    pub(crate) demand: f64,
    pub(crate) data_age_ms: Option<f64>,
    pub(crate) degraded: bool,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) token: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Ride {
    pub(crate) ride_id: Uuid,
    pub(crate) rider_id: Uuid,
    pub(crate) quote_id: Uuid,
    pub(crate) state: String,
    pub(crate) fare_cents: i64,
    pub(crate) surge_multiplier: Multiplier,
    pub(crate) driver_id: Option<Uuid>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Driver {
    pub(crate) status: DriverStatus,
    pub(crate) ride_id: Option<Uuid>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Supply {
    pub(crate) supply: f64,
    pub(crate) idle_drivers: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Demand {
    pub(crate) demand: f64,
    pub(crate) observed_since: DateTime<Utc>,
}

/// The multiplier of every zone.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct SurgeMap {
    pub(crate) zones: Vec<ZoneSurge>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ZoneSurge {
    pub(crate) zone: Zone,
    pub(crate) supply: f64,
    pub(crate) demand: f64,
}

/// The mode in force.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct ModeInForce {
    pub(crate) mode: DataflowMode,
    pub(crate) epoch: u64,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Readiness {
    status: String,
    dependencies: BTreeMap<String, Dependency>,
    market_clock: MarketClock,
}

#[derive(Clone, Debug, Deserialize)]
struct Dependency {
    status: String,
    needed: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct MarketClock {
    now: DateTime<Utc>,
}

/// An `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    pub(crate) detail: String,
    pub(crate) field: Option<String>,
}

impl PublicApi {
    pub(crate) fn of(target: Target) -> Self {
        let client = Client::new(CALL_LIMIT);
        Self {
            client,
            target,
            asks_for_traces: false,
        }
    }

    /// A driver reports its status and position.
    pub(crate) async fn report(
        &self,
        driver_id: Uuid,
        status: DriverStatus,
        position: Position,
    ) -> anyhow::Result<Driver> {
        let url = format!("{}/v1/drivers/{driver_id}", self.target.driver);
        let report = json!({"status": status, "position": position});
        read(self.client.put(&url, &report).await)
    }

    /// A new driver goes online.
    pub(crate) async fn goes_online(&self, position: Position) -> anyhow::Result<Uuid> {
        let driver_id = Uuid::now_v7();
        self.report(driver_id, DriverStatus::Idle, position).await?;
        Ok(driver_id)
    }

    /// A driver reports its position.
    pub(crate) async fn moves(&self, driver_id: Uuid, position: Position) -> anyhow::Result<()> {
        let url = format!("{}/v1/positions", self.target.driver);
        let report = json!({"positions": [{"driver_id": driver_id, "position": position}]});
        let taken: serde_json::Value = read(self.client.post(&url, &report).await)?;
        ensure!(
            taken["accepted"] == 1,
            "the service did not accept the position: {taken}"
        );
        Ok(())
    }

    pub(crate) async fn supply(&self, zone: Zone) -> anyhow::Result<Supply> {
        let url = format!("{}/v1/supply/{zone}", self.target.driver);
        read(self.client.get(&url).await)
    }

    pub(crate) async fn demand(&self, zone: Zone) -> anyhow::Result<Demand> {
        let url = format!("{}/v1/demand/{zone}", self.target.ride);
        read(self.client.get(&url).await)
    }

    /// A rider requests a quote, in the mode in force or in another one.
    pub(crate) async fn quote(
        &self,
        trip: Trip,
        mode: impl Into<Option<DataflowMode>>,
    ) -> anyhow::Result<Quote> {
        read(self.ask_quote(trip, mode).await)
    }

    /// The answer to a rider's request for a quote, also a refusal.
    pub(crate) async fn ask_quote(
        &self,
        trip: Trip,
        mode: impl Into<Option<DataflowMode>>,
    ) -> Result<HttpAnswer, CallError> {
        let body = serde_json::to_vec(&trip).expect("two positions are JSON");
        let mut request = Request::new(body.into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("{}/v1/quotes", self.target.price)
            .parse()
            .expect("the stack has plain addresses");
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(mode) = mode.into() {
            headers.insert("surge-dataflow", HeaderValue::from_static(mode.as_str()));
        }
        if self.asks_for_traces {
            headers.insert(TRACE_HEADER, HeaderValue::from_static("on"));
        }
        self.client.call(request).await
    }

    /// The multiplier of every zone, in one mode.
    pub(crate) async fn surge(&self, mode: DataflowMode) -> anyhow::Result<SurgeMap> {
        let request = Request::get(format!("{}/v1/surge", self.target.price))
            .header("surge-dataflow", mode.as_str())
            .body(Vec::new().into())?;
        read(self.client.call(request).await)
    }

    /// A rider redeems a quote for a ride.
    pub(crate) async fn request_ride(
        &self,
        rider_id: Uuid,
        quote: &Quote,
        trip: Trip,
    ) -> anyhow::Result<Ride> {
        read(self.ask_ride(rider_id, &quote.token, trip).await)
    }

    /// A rider repeats the request until there is a quote: a process may have restarted just now.
    pub(crate) async fn insists_on_quote(&self, trip: Trip) -> anyhow::Result<Quote> {
        eventually("the rider has a price", async || {
            self.quote(trip, DataflowMode::Request).await
        })
        .await
    }

    /// A new rider repeats the request until there is a ride, as an app does. That is safe.
    pub(crate) async fn insists_on_ride(&self, quote: &Quote, trip: Trip) -> anyhow::Result<Ride> {
        let rider_id = Uuid::now_v7();
        eventually("the rider is answered", async || {
            self.request_ride(rider_id, quote, trip).await
        })
        .await
    }

    /// The answer to a rider's request for a ride, also a refusal.
    pub(crate) async fn ask_ride(
        &self,
        rider_id: Uuid,
        token: &str,
        Trip { pickup, dropoff }: Trip,
    ) -> Result<HttpAnswer, CallError> {
        let url = format!("{}/v1/rides", self.target.ride);
        let wish =
            json!({"rider_id": rider_id, "quote": token, "pickup": pickup, "dropoff": dropoff});
        self.client.post(&url, &wish).await
    }

    pub(crate) async fn ride(&self, ride_id: Uuid) -> anyhow::Result<Ride> {
        let url = format!("{}/v1/rides/{ride_id}", self.target.ride);
        read(self.client.get(&url).await)
    }

    /// The ride, if it has reached this state.
    pub(crate) async fn ride_in(&self, state: &str, ride_id: Uuid) -> anyhow::Result<Ride> {
        let ride = self.ride(ride_id).await?;
        ensure!(
            ride.state == state,
            "the ride is {}, not {state}",
            ride.state
        );
        Ok(ride)
    }

    pub(crate) async fn mode(&self) -> anyhow::Result<ModeInForce> {
        read(self.client.get(&self.dataflow_url()).await)
    }

    pub(crate) async fn switch(&self, mode: DataflowMode) -> anyhow::Result<ModeInForce> {
        read(self.ask_switch(mode.as_str()).await)
    }

    /// The answer to a request for a mode, also a refusal.
    pub(crate) async fn ask_switch(&self, mode: &str) -> Result<HttpAnswer, CallError> {
        self.client
            .put(&self.dataflow_url(), &json!({"mode": mode}))
            .await
    }

    fn dataflow_url(&self) -> String {
        format!("{}/v1/dataflow", self.target.price)
    }

    /// The readiness of a service; the HTTP status must agree with it.
    pub(crate) async fn readiness(&self, service: Part) -> anyhow::Result<Readiness> {
        let base = match service {
            Part::DriverManagement => &self.target.driver,
            Part::RideManagement => &self.target.ride,
            _ => &self.target.price,
        };
        let answer = self.client.get(&format!("{base}/readyz")).await?;
        let readiness: Readiness = answer.json().with_context(|| answer.excerpt())?;
        let fitting = match readiness.is_ready() {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        ensure!(
            answer.status == fitting,
            "{} with {readiness:?}",
            answer.status
        );
        Ok(readiness)
    }

    /// The JSON at this URL.
    pub(crate) async fn fetch<T: DeserializeOwned>(&self, url: &str) -> anyhow::Result<T> {
        read(self.client.get(url).await)
    }
}

impl Readiness {
    pub(crate) fn is_ready(&self) -> bool {
        self.status == "ready"
    }

    /// Dependencies that are away, each with whether the service needs it now.
    pub(crate) fn away(&self) -> Vec<(&str, bool)> {
        let away = self.dependencies.iter();
        away.filter(|(_, dependency)| dependency.status != "up")
            .map(|(name, dependency)| (name.as_str(), dependency.needed))
            .collect()
    }

    pub(crate) fn market_now(&self) -> DateTime<Utc> {
        self.market_clock.now
    }
}

/// The body of a good answer.
pub(crate) fn read<T: DeserializeOwned>(
    answer: Result<HttpAnswer, CallError>,
) -> anyhow::Result<T> {
    let answer = answer?;
    let excerpt = || format!("{}: {}", answer.status, answer.excerpt());
    ensure!(answer.status.is_success(), excerpt());
    answer.json().with_context(excerpt)
}

/// The problem in a refusal.
pub(crate) fn read_problem(answer: Result<HttpAnswer, CallError>) -> anyhow::Result<Problem> {
    let answer = answer?;
    let excerpt = || format!("{}: {}", answer.status, answer.excerpt());
    let content_type = answer.headers.get(CONTENT_TYPE);
    ensure!(
        content_type.is_some_and(|value| value == "application/problem+json"),
        "not a problem: {}",
        excerpt()
    );
    let problem: Problem = answer.json().with_context(excerpt)?;
    ensure!(problem.status == answer.status.as_u16(), excerpt());
    ensure!(!problem.detail.is_empty(), excerpt());
    Ok(problem)
}

fn place(lat: f64, lon: f64) -> Position {
    Position::new(lat, lon).expect("a place in New York is on the globe")
}

pub(crate) fn grand_central() -> Position {
    place(40.7527, -73.9772)
}

pub(crate) fn wall_street() -> Position {
    place(40.7074, -74.0113)
}

/// From Grand Central Terminal down to Wall Street: half an hour.
pub(crate) fn downtown() -> Trip {
    Trip {
        pickup: grand_central(),
        dropoff: wall_street(),
    }
}

/// From Grand Central Terminal to Bryant Park: a few minutes.
pub(crate) fn crosstown() -> Trip {
    Trip {
        pickup: grand_central(),
        dropoff: place(40.7536, -73.9832),
    }
}
