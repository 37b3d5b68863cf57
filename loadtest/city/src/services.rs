//! The public APIs as the city uses them: typed calls, and failures that it can count.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use http::{Request, StatusCode};
use http_body_util::Full;
use marketplace::{DriverStatus, MarketTime, Multiplier, Position, Zone};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use surge_proto::DataflowMode;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::rider::{Rider, TripRequest};
use crate::client::{CallError, Client, HttpAnswer};
use crate::rfc3339;
use crate::target::Target;

/// The three services. Clones share the client and the bound on calls.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    client: Client,
    target: Target,
    calls: Arc<Semaphore>,
}

impl Services {
    /// The services of the target.
    pub(crate) fn new(client: Client, target: Target) -> Self {
        // Enough for a city at full speed, too few to disturb a measurement.
        const CALLS_AT_ONCE: usize = 32;
        Self {
            client,
            target,
            calls: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
        }
    }

    /// Requests a quote in the mode in force.
    pub(crate) async fn quote(&self, trip: &TripRequest) -> Result<RiderQuote, ServiceFailure> {
        let url = format!("{}/v1/quotes", self.target.price);
        self.post("quote", &url, trip).await
    }

    /// Requests a ride at the quoted price. Repeating a request with the same quote gives the same
    /// ride.
    pub(crate) async fn request_ride(
        &self,
        rider: &Rider,
        quote: &str,
    ) -> Result<RequestedRide, ServiceFailure> {
        let url = format!("{}/v1/rides", self.target.ride);
        let request = RequestedTrip {
            rider_id: rider.id,
            quote,
            trip: rider.trip,
        };
        self.post("request ride", &url, &request).await
    }

    /// The current state of a ride.
    pub(crate) async fn ride(&self, ride: Uuid) -> Result<RequestedRide, ServiceFailure> {
        let url = format!("{}/v1/rides/{ride}", self.target.ride);
        self.get("get ride", &url).await
    }

    /// Cancels a ride, which frees its driver.
    pub(crate) async fn cancel(&self, ride: Uuid) -> Result<RequestedRide, ServiceFailure> {
        let url = format!("{}/v1/rides/{ride}/cancel", self.target.ride);
        self.post("cancel ride", &url, &serde_json::json!({})).await
    }

    /// Sets the status and position of a driver.
    pub(crate) async fn set_driver(
        &self,
        driver: Uuid,
        status: DriverStatus,
        position: Position,
    ) -> Result<(), ServiceFailure> {
        let url = format!("{}/v1/drivers/{driver}", self.target.driver);
        let change = DriverChange { status, position };
        let _permit = self.calls.acquire().await;
        let answer = self.client.put(&url, &change).await;
        accepted("set driver", answer).map(drop)
    }

    /// Reports the positions of drivers.
    pub(crate) async fn report(
        &self,
        positions: &[(Uuid, Position)],
    ) -> Result<(), ServiceFailure> {
        let url = format!("{}/v1/positions", self.target.driver);
        let positions = positions.iter().map(|(driver_id, position)| Report {
            driver_id: *driver_id,
            position: *position,
        });
        let reports = Reports {
            positions: positions.collect(),
        };
        self.post::<serde::de::IgnoredAny>("report positions", &url, &reports)
            .await
            .map(drop)
    }

    /// The published multiplier of every zone.
    pub(crate) async fn surge(&self) -> Result<HashMap<Zone, Multiplier>, ServiceFailure> {
        let url = format!("{}/v1/surge", self.target.price);
        let map: SurgeMap = self.get("get surge", &url).await?;
        let multipliers = map.zones.into_iter();
        Ok(multipliers
            .map(|zone| (zone.zone, zone.surge_multiplier))
            .collect())
    }

    /// Supply and demand of the whole area, as `request` reads them from the other services now.
    pub(crate) async fn totals(&self) -> Result<(f64, f64), ServiceFailure> {
        let zones = self.live_zones().await?;
        Ok(zones.iter().fold((0.0, 0.0), |sum, zone| {
            (sum.0 + zone.supply, sum.1 + zone.demand)
        }))
    }

    /// The zones that the services price.
    pub(crate) async fn zones(&self) -> Result<BTreeSet<Zone>, ServiceFailure> {
        let zones = self.live_zones().await?;
        Ok(zones.iter().map(|zone| zone.zone).collect())
    }

    /// `/v1/surge` in mode `request`, which needs neither a batch run nor a broker.
    async fn live_zones(&self) -> Result<Vec<ZoneSurge>, ServiceFailure> {
        let call = "get surge";
        let url = format!("{}/v1/surge", self.target.price);
        let request = Request::get(&url)
            .header("surge-dataflow", DataflowMode::Request.as_str())
            .body(Full::default());
        let request = request.map_err(|error| ServiceFailure::Unreadable {
            call,
            reason: error.to_string(),
        })?;
        let map: SurgeMap = read(call, self.client.call(request).await)?;
        Ok(map.zones)
    }

    /// The supply of a zone according to driver-management.
    pub(crate) async fn supply(&self, zone: Zone) -> Result<SupplyLevel, ServiceFailure> {
        let url = format!("{}/v1/supply/{zone}", self.target.driver);
        self.get("get supply", &url).await
    }

    /// The demand of a zone according to ride-management.
    pub(crate) async fn demand(&self, zone: Zone) -> Result<DemandLevel, ServiceFailure> {
        let url = format!("{}/v1/demand/{zone}", self.target.ride);
        self.get("get demand", &url).await
    }

    async fn get<T: DeserializeOwned>(
        &self,
        call: &'static str,
        url: &str,
    ) -> Result<T, ServiceFailure> {
        let _permit = self.calls.acquire().await;
        read(call, self.client.get(url).await)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        call: &'static str,
        url: &str,
        body: &impl Serialize,
    ) -> Result<T, ServiceFailure> {
        let _permit = self.calls.acquire().await;
        read(call, self.client.post(url, body).await)
    }
}

/// The part of a quote that a rider reads.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RiderQuote {
    pub(crate) surge_multiplier: Multiplier,
    pub(crate) token: String,
}

/// The part of a ride that the city reads.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RequestedRide {
    pub(crate) ride_id: Uuid,
    pub(crate) state: ObservedRideState,
    pub(crate) driver_id: Option<Uuid>,
    #[serde(default, deserialize_with = "rfc3339::if_any::deserialize")]
    pub(crate) pickup_due_at: Option<MarketTime>,
}

/// The state of a ride.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ObservedRideState {
    Requested,
    Matched,
    PickedUp,
    Completed,
    Cancelled,
    Unserved,
}

/// The predicted available drivers of a zone.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SupplyLevel {
    pub(crate) supply: f64,
    #[serde(deserialize_with = "rfc3339::deserialize")]
    pub(crate) as_of: MarketTime,
}

/// The expected requests of a zone, and the counts behind the forecast.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DemandLevel {
    pub(crate) demand: f64,
    #[serde(deserialize_with = "rfc3339::deserialize")]
    pub(crate) as_of: MarketTime,
    #[serde(deserialize_with = "rfc3339::deserialize")]
    pub(crate) observed_since: MarketTime,
    pub(crate) windows: Vec<CountedWindow>,
}

/// The requests that ride-management has counted in a window of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub(crate) struct CountedWindow {
    #[serde(deserialize_with = "rfc3339::deserialize")]
    pub(crate) start: MarketTime,
    pub(crate) requests: u32,
}

#[derive(Serialize)]
struct RequestedTrip<'a> {
    rider_id: Uuid,
    quote: &'a str,
    #[serde(flatten)]
    trip: TripRequest,
}

#[derive(Serialize)]
struct DriverChange {
    status: DriverStatus,
    position: Position,
}

#[derive(Serialize)]
struct Reports {
    positions: Vec<Report>,
}

#[derive(Serialize)]
struct Report {
    driver_id: Uuid,
    position: Position,
}

#[derive(Deserialize)]
struct SurgeMap {
    zones: Vec<ZoneSurge>,
}

#[derive(Deserialize)]
struct ZoneSurge {
    zone: Zone,
    surge_multiplier: Multiplier,
    supply: f64,
    demand: f64,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ServiceFailure {
    /// No answer. The service may have acted on the call.
    #[error("{call}: {error}")]
    NoAnswer {
        /// The call.
        call: &'static str,
        /// The reason.
        error: CallError,
    },
    /// The service refused.
    #[error("{call}: answered {status}: {excerpt}")]
    Refused {
        /// The call.
        call: &'static str,
        /// The HTTP status.
        status: StatusCode,
        /// The begin of the body.
        excerpt: String,
    },
    /// The answer does not follow the API.
    #[error("{call}: cannot read the answer: {reason}")]
    Unreadable {
        /// The call.
        call: &'static str,
        /// The flaw.
        reason: String,
    },
}

impl ServiceFailure {
    /// The text by which failures are counted, such as `quote: 503` or `set driver: deadline`.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::NoAnswer { call, error } => format!("{call}: {}", error.kind()),
            Self::Refused { call, status, .. } => format!("{call}: {}", status.as_u16()),
            Self::Unreadable { call, .. } => format!("{call}: unreadable"),
        }
    }

    /// Whether the state in the service is another than the city assumed.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::CONFLICT)
    }

    /// Whether the service may have acted on the call, or may accept a repetition.
    pub(crate) fn is_uncertain(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::Unreadable { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
        }
    }
}

fn accepted(
    call: &'static str,
    answer: Result<HttpAnswer, CallError>,
) -> Result<HttpAnswer, ServiceFailure> {
    let answer = answer.map_err(|error| ServiceFailure::NoAnswer { call, error })?;
    if answer.status.is_success() {
        return Ok(answer);
    }
    Err(ServiceFailure::Refused {
        call,
        status: answer.status,
        excerpt: answer.excerpt(),
    })
}

fn read<T: DeserializeOwned>(
    call: &'static str,
    answer: Result<HttpAnswer, CallError>,
) -> Result<T, ServiceFailure> {
    accepted(call, answer)?
        .json()
        .map_err(|reason: serde_json::Error| ServiceFailure::Unreadable {
            call,
            reason: reason.to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ride_request_is_one_flat_object() {
        let place = Position::new(40.75, -73.98).unwrap();
        let request = RequestedTrip {
            rider_id: Uuid::nil(),
            quote: "token",
            trip: TripRequest {
                pickup: place,
                dropoff: place,
            },
        };
        let json = serde_json::to_value(&request).unwrap();
        let mut fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        assert_eq!(fields, ["dropoff", "pickup", "quote", "rider_id"]);
        assert_eq!(json["pickup"]["lat"], 40.75);
    }

    #[test]
    fn reads_rides_without_a_driver() {
        let text = r#"{"ride_id": "00000000-0000-0000-0000-000000000000", "state": "unserved",
            "driver_id": null, "pickup_due_at": null, "fare_cents": 800}"#;
        let ride: RequestedRide = serde_json::from_str(text).unwrap();
        assert_eq!(ride.state, ObservedRideState::Unserved);
        assert_eq!((ride.driver_id, ride.pickup_due_at), (None, None));
    }

    #[test]
    fn failures_count_by_call_and_kind() {
        let refused = |status| ServiceFailure::Refused {
            call: "quote",
            status,
            excerpt: String::new(),
        };
        assert_eq!(
            refused(StatusCode::SERVICE_UNAVAILABLE).kind(),
            "quote: 503"
        );
        assert!(refused(StatusCode::SERVICE_UNAVAILABLE).is_uncertain());
        assert!(refused(StatusCode::CONFLICT).is_conflict());
        assert!(!refused(StatusCode::CONFLICT).is_uncertain());
    }
}
