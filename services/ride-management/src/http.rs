//! The REST edge: rides and demand. A handler parses, asks [`App`] and answers. The types here are
//! the wire's; each is also its own documentation in `/openapi.json`, which a test holds against
//! real answers.

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
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
};
use serde::{Deserialize, Serialize};
use utoipa::{
    OpenApi as _, ToSchema,
    openapi::{InfoBuilder, OpenApi},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    app::{App, RideRequest},
    demand::DemandReading,
    ride::{Ride, RideState},
    store::Placed,
};

/// The currency of all fares, ISO 4217.
const CURRENCY: &str = "USD";

/// The routes of this edge, and what describes them.
pub(crate) fn router(app: App) -> (Router, OpenApi) {
    OpenApiRouter::with_openapi(description())
        .routes(routes!(request_ride))
        .routes(routes!(get_ride))
        .routes(routes!(cancel_ride))
        .routes(routes!(get_demand))
        .with_state(app)
        .split_for_parts()
}

#[derive(utoipa::OpenApi)]
#[openapi(components(schemas(Problem)))]
struct Described;

fn description() -> OpenApi {
    let mut api = Described::openapi();
    api.info = InfoBuilder::new()
        .title("ride-management")
        .description(Some(
            "Takes ride requests, matches them with drivers, and forecasts demand.",
        ))
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    api
}

/// Request a ride.
///
/// Redeems a quote and sends the nearest driver. Once answered, the ride is stored. Repeating the
/// request gives the same ride, so it is safe to repeat when an answer was lost.
#[utoipa::path(
    post,
    path = "/v1/rides",
    request_body = RideRequestBody,
    responses(
        (status = 201, description = "The ride. It is `requested` while no driver could be asked for", body = RideBody),
        (status = 200, description = "The ride that the same request made before", body = RideBody),
        (status = 400, description = "A field is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The quote has expired, is for another trip, or was used", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is no JSON", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The service failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is away; repeat the request", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Not done in time; repeat the request", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn request_ride(
    State(app): State<App>,
    StrictJson(body): StrictJson<RideRequestBody>,
) -> Result<Response, Fault> {
    let (status, ride) = match app.request_ride(body.into()).await? {
        Placed::New(ride) => (StatusCode::CREATED, ride),
        Placed::Before(ride) => (StatusCode::OK, ride),
    };
    Ok((status, Json(RideBody::from(ride))).into_response())
}

/// Look at a ride.
#[utoipa::path(
    get,
    path = "/v1/rides/{ride_id}",
    params(("ride_id" = Uuid, Path, description = "The ride")),
    responses(
        (status = 200, description = "The ride", body = RideBody),
        (status = 400, description = "Not a UUID", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such ride", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The service failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is away", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Not done in time", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get_ride(
    State(app): State<App>,
    ride_id: Result<Path<String>, PathRejection>,
) -> Result<Json<RideBody>, Fault> {
    let ride = app.ride(parse_ride_id(ride_id)?).await?;
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
        (status = 200, description = "The cancelled ride", body = RideBody),
        (status = 400, description = "Not a UUID", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such ride", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The ride was picked up, or has ended otherwise", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The service failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is away", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Not done in time", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn cancel_ride(
    State(app): State<App>,
    ride_id: Result<Path<String>, PathRejection>,
) -> Result<Json<RideBody>, Fault> {
    let ride = app.cancel_ride(parse_ride_id(ride_id)?).await?;
    Ok(Json(ride.into()))
}

/// Demand of a zone, as of now.
#[utoipa::path(
    get,
    path = "/v1/demand/{zone}",
    params(("zone" = String, Path, description = "H3 cell of resolution 7, lowercase hexadecimal")),
    responses(
        (status = 200, description = "The demand", body = DemandBody),
        (status = 400, description = "Not an H3 cell", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not in the service area", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The service failed", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Not done in time", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get_demand(
    State(app): State<App>,
    zone: Result<Path<String>, PathRejection>,
) -> Result<Json<DemandBody>, Fault> {
    let zone = parse_zone(zone)?;
    let reading = app.demand(zone)?;
    Ok(Json(DemandBody::of(zone, reading)))
}

fn parse_ride_id(path: Result<Path<String>, PathRejection>) -> Result<Uuid, Fault> {
    let Path(text) = path.map_err(|refused| Fault::invalid("ride_id", refused))?;
    let refused = |_| Fault::invalid("ride_id", "must be a UUID");
    text.parse().map_err(refused)
}

fn parse_zone(path: Result<Path<String>, PathRejection>) -> Result<Zone, Fault> {
    let Path(text) = path.map_err(|refused| Fault::invalid("zone", refused))?;
    text.parse()
        .map_err(|problem| Fault::invalid("zone", problem))
}

/// A rider's wish.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RideRequestBody {
    /// Who wants a ride.
    rider_id: Uuid,
    /// The token of the quote to redeem.
    quote: String,
    /// Where the rider gets in: the quote's own pickup.
    #[schema(value_type = Point)]
    pickup: Position,
    /// Where the rider gets out: the quote's own drop-off.
    #[schema(value_type = Point)]
    dropoff: Position,
}

impl From<RideRequestBody> for RideRequest {
    fn from(body: RideRequestBody) -> Self {
        Self {
            rider_id: body.rider_id,
            quote: body.quote,
            pickup: body.pickup,
            dropoff: body.dropoff,
        }
    }
}

/// A point on the map, WGS 84 degrees. Documents [`Position`], which knows nothing of OpenAPI.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Point {
    /// Latitude, -90 to 90.
    lat: f64,
    /// Longitude, -180 to 180.
    lon: f64,
}

/// A ride.
#[derive(Debug, Serialize, ToSchema)]
struct RideBody {
    /// UUIDv7.
    ride_id: Uuid,
    /// Who wanted it.
    rider_id: Uuid,
    /// The quote that was redeemed.
    quote_id: Uuid,
    /// Where it stands.
    state: RideState,
    /// Zone of the pickup, an H3 cell.
    #[schema(value_type = String)]
    zone: Zone,
    /// Where the rider gets in.
    #[schema(value_type = Point)]
    pickup: Position,
    /// Where the rider gets out.
    #[schema(value_type = Point)]
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

impl From<Ride> for RideBody {
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
            requested_at: rfc3339(ride.requested_at),
            pickup_due_at: ride.pickup_due_at.map(rfc3339),
            dropoff_due_at: ride.dropoff_due_at.map(rfc3339),
            picked_up_at: ride.picked_up_at.map(rfc3339),
            ended_at: ride.ended_at.map(rfc3339),
        }
    }
}

/// Demand of one zone.
#[derive(Debug, Serialize, ToSchema)]
struct DemandBody {
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
    windows: Vec<WindowBody>,
}

/// Requests of a zone in one window.
#[derive(Debug, Serialize, ToSchema)]
struct WindowBody {
    /// Market time at which the window starts.
    start: DateTime<Utc>,
    /// Requests counted in it.
    requests: u32,
}

impl DemandBody {
    fn of(zone: Zone, reading: DemandReading) -> Self {
        let window = |(start, requests)| WindowBody {
            start: rfc3339(start),
            requests,
        };
        Self {
            zone,
            demand: reading.level.value,
            as_of: rfc3339(reading.level.as_of),
            observed_since: rfc3339(reading.observed_since),
            windows: reading.windows.into_iter().map(window).collect(),
        }
    }
}

/// Market time as JSON has it. The clock shows nothing that a calendar cannot hold.
fn rfc3339(time: MarketTime) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time.millis()).unwrap_or_default()
}
