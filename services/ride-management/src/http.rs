//! The REST edge: rides and demand. A handler parses, asks [`App`] and answers. Each route
//! describes itself for `/openapi.json`, and tests hold that description against real answers.

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use marketplace::{
    surge::Multiplier,
    time::MarketTime,
    zone::{Position, Zone},
};
use platform::{
    fault::{Fault, Problem},
    http::StrictJson,
    openapi::{AnyProblems, BodyProblems, DependencyProblems, GeoPoint, PROBLEM_JSON},
};
use serde::{Deserialize, Serialize};
use surge_proto::convert::{self, Malformed};
use utoipa::{OpenApi as _, ToSchema, openapi::OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::{Uuid, fmt::Hyphenated};

use crate::{
    app::{App, RideRequest},
    demand::ZoneDemand,
    error::Error,
    openapi::{RideApi, StateSchema},
    ride::{Ride, RideState},
    store::PlacedRide,
};

/// The currency of all fares, ISO 4217.
const CURRENCY: &str = "USD";

/// The routes, and what describes them.
pub(crate) fn router(app: App) -> (Router, OpenApi) {
    OpenApiRouter::with_openapi(RideApi::openapi())
        .routes(routes!(request_ride))
        .routes(routes!(get_ride))
        .routes(routes!(cancel_ride))
        .routes(routes!(get_demand))
        .with_state(app)
        .split_for_parts()
}

/// Request a ride.
///
/// Redeems a quote and sends the nearest driver. Once answered, the ride is stored. Repeating the
/// request gives the same ride, so it is safe to repeat when an answer was lost.
///
/// A rider may have several open rides, each for a quote of its own: people order for others too.
#[utoipa::path(
    post,
    path = "/v1/rides",
    request_body = RideRequestBody,
    responses(
        (status = 201, description = "The ride; `requested` while driver-management is away",
         body = RideAnswer),
        (status = 200, description = "The ride of the same request before", body = RideAnswer),
        (status = 409, description = "The quote has expired, is for another trip, or was used",
         body = Problem, content_type = PROBLEM_JSON),
        BodyProblems, AnyProblems, DependencyProblems,
    )
)]
async fn request_ride(
    State(app): State<App>,
    StrictJson(body): StrictJson<RideRequestBody>,
) -> Result<(StatusCode, Json<RideAnswer>), Fault> {
    let (status, ride) = match app.request_ride(body.into()).await? {
        PlacedRide::New(ride) => (StatusCode::CREATED, ride),
        PlacedRide::Repeated(ride) => (StatusCode::OK, ride),
    };
    Ok((status, Json(ride.into())))
}

/// Look at a ride.
#[utoipa::path(
    get,
    path = "/v1/rides/{ride_id}",
    params(("ride_id" = Uuid, Path, description = "The ride")),
    responses(
        (status = 200, description = "The ride", body = RideAnswer),
        (status = 400, description = "Not a UUID", body = Problem, content_type = PROBLEM_JSON),
        (status = 404, description = "No such ride", body = Problem, content_type = PROBLEM_JSON),
        AnyProblems, DependencyProblems,
    )
)]
async fn get_ride(
    State(app): State<App>,
    ride_id: Result<Path<String>, PathRejection>,
) -> Result<Json<RideAnswer>, Fault> {
    let ride = app.ride(parse("ride_id", ride_id, convert::id)?).await?;
    Ok(Json(ride.into()))
}

/// Cancel a ride.
///
/// Possible until the pickup. Frees the driver. Repeating it changes nothing.
#[utoipa::path(
    post,
    path = "/v1/rides/{ride_id}/cancel",
    params(("ride_id" = Uuid, Path, description = "The ride")),
    responses(
        (status = 200, description = "The cancelled ride", body = RideAnswer),
        (status = 400, description = "Not a UUID", body = Problem, content_type = PROBLEM_JSON),
        (status = 404, description = "No such ride", body = Problem, content_type = PROBLEM_JSON),
        (status = 409, description = "The ride was picked up, or has ended otherwise",
         body = Problem, content_type = PROBLEM_JSON),
        AnyProblems, DependencyProblems,
    )
)]
async fn cancel_ride(
    State(app): State<App>,
    ride_id: Result<Path<String>, PathRejection>,
) -> Result<Json<RideAnswer>, Fault> {
    let ride = app
        .cancel_ride(parse("ride_id", ride_id, convert::id)?)
        .await?;
    Ok(Json(ride.into()))
}

/// Demand of a zone, as of now.
#[utoipa::path(
    get,
    path = "/v1/demand/{zone}",
    params(
        ("zone" = String, Path, description = "H3 cell of resolution 7",
         pattern = "^[0-9a-fA-F]{15}$",
         example = "872a100d2ffffff"),
    ),
    responses(
        (status = 200, description = "The demand", body = DemandAnswer),
        (status = 400, description = "Not an H3 cell", body = Problem, content_type = PROBLEM_JSON),
        (status = 404, description = "Not in the service area",
         body = Problem, content_type = PROBLEM_JSON),
        AnyProblems,
    )
)]
async fn get_demand(
    State(app): State<App>,
    zone: Result<Path<String>, PathRejection>,
) -> Result<Json<DemandAnswer>, Fault> {
    let zone = parse("zone", zone, convert::zone)?;
    let demand = app.demand(zone)?;
    Ok(Json(DemandAnswer::new(zone, demand)))
}

/// The one parameter of a path.
fn parse<T>(
    name: &'static str,
    path: Result<Path<String>, PathRejection>,
    parse: impl FnOnce(&'static str, &str) -> Result<T, Malformed>,
) -> Result<T, Fault> {
    let Path(text) = path.map_err(|refused| Fault::invalid(name, refused))?;
    Ok(parse(name, &text).map_err(Error::from)?)
}

/// A rider's request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RideRequestBody {
    /// The rider.
    #[schema(value_type = Uuid)]
    rider_id: Hyphenated,
    /// The token of the quote to redeem.
    quote: String,
    /// Where the rider gets in: the quote's own pickup.
    #[schema(value_type = GeoPoint)]
    pickup: Position,
    /// Where the rider gets out: the quote's own drop-off.
    #[schema(value_type = GeoPoint)]
    dropoff: Position,
}

impl From<RideRequestBody> for RideRequest {
    fn from(body: RideRequestBody) -> Self {
        Self {
            rider_id: body.rider_id.into_uuid(),
            quote: body.quote,
            pickup: body.pickup,
            dropoff: body.dropoff,
        }
    }
}

/// A ride.
#[derive(Debug, Serialize, ToSchema)]
struct RideAnswer {
    /// UUIDv7.
    ride_id: Uuid,
    /// The rider.
    rider_id: Uuid,
    /// The quote that was redeemed.
    quote_id: Uuid,
    /// Its state.
    #[schema(value_type = StateSchema)]
    state: RideState,
    /// Zone of the pickup, an H3 cell.
    #[schema(value_type = String)]
    zone: Zone,
    /// Where the rider gets in.
    #[schema(value_type = GeoPoint)]
    pickup: Position,
    /// Where the rider gets out.
    #[schema(value_type = GeoPoint)]
    dropoff: Position,
    /// The promised fare in cents.
    fare_cents: i64,
    /// ISO 4217.
    currency: &'static str,
    /// The surge multiplier in the fare, in steps of 0.1.
    #[schema(value_type = f64)]
    surge_multiplier: Multiplier,
    /// The driver, once matched.
    #[schema(required)]
    driver_id: Option<Uuid>,
    /// Market time of the request.
    requested_at: DateTime<Utc>,
    /// Market time at which the driver is expected at the pickup, once matched.
    #[schema(required)]
    pickup_due_at: Option<DateTime<Utc>>,
    /// Market time at which the driver is expected at the drop-off, once matched.
    #[schema(required)]
    dropoff_due_at: Option<DateTime<Utc>>,
    /// Market time of the pickup.
    #[schema(required)]
    picked_up_at: Option<DateTime<Utc>>,
    /// Market time at which the ride was completed, cancelled or given up.
    #[schema(required)]
    ended_at: Option<DateTime<Utc>>,
}

impl From<Ride> for RideAnswer {
    fn from(ride: Ride) -> Self {
        Self {
            ride_id: ride.ride_id,
            rider_id: ride.rider_id,
            quote_id: ride.quote_id,
            state: ride.state,
            zone: ride.zone,
            pickup: ride.pickup,
            dropoff: ride.dropoff,
            fare_cents: ride.fare_cents,
            currency: CURRENCY,
            surge_multiplier: ride.multiplier,
            driver_id: ride.driver_id,
            requested_at: ride.requested_at.into(),
            pickup_due_at: ride.pickup_due_at.map(Into::into),
            dropoff_due_at: ride.dropoff_due_at.map(Into::into),
            picked_up_at: ride.picked_up_at.map(Into::into),
            ended_at: ride.ended_at.map(Into::into),
        }
    }
}

/// Demand of one zone.
#[derive(Debug, Serialize, ToSchema)]
struct DemandAnswer {
    /// The zone, an H3 cell.
    #[schema(value_type = String)]
    zone: Zone,
    /// Ride requests expected in the zone during the next window.
    demand: f64,
    /// Market time that the demand describes.
    as_of: DateTime<Utc>,
    /// Market time since which requests are counted.
    observed_since: DateTime<Utc>,
    /// The requests that the demand was forecast from: the windows of the last day that had any,
    /// oldest first, the open one last.
    windows: Vec<WindowAnswer>,
}

/// Requests of a zone in one window.
#[derive(Debug, Serialize, ToSchema)]
struct WindowAnswer {
    /// Market time at which the window starts.
    start: DateTime<Utc>,
    /// Requests counted in it.
    requests: u32,
}

impl DemandAnswer {
    fn new(zone: Zone, demand: ZoneDemand) -> Self {
        Self {
            zone,
            demand: demand.level.value,
            as_of: demand.level.as_of.into(),
            observed_since: demand.observed_since.into(),
            windows: demand.windows.into_iter().map(WindowAnswer::from).collect(),
        }
    }
}

impl From<(MarketTime, u32)> for WindowAnswer {
    fn from((start, requests): (MarketTime, u32)) -> Self {
        Self {
            start: start.into(),
            requests,
        }
    }
}
