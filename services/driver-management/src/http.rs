//! The REST edge. A handler parses, asks [`App`] and answers. Each route describes itself for
//! `/openapi.json`, and tests hold that description against real answers.

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
};
use chrono::{DateTime, Utc};
use marketplace::{
    supply::DriverStatus,
    zone::{Position, Zone},
};
use platform::{
    fault::{Fault, Problem},
    http::StrictJson,
    openapi::{AnyProblems, BodyProblems, DependencyProblems, GeoPoint, PROBLEM_JSON},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use surge_proto::convert::{self, Malformed};
use utoipa::{OpenApi as _, ToSchema, openapi::OpenApi};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::{Uuid, fmt::Hyphenated};

use crate::{
    app::App,
    driver::Driver,
    error::Error,
    fleet::SupplySnapshot,
    openapi::{StatusSchema, SupplyApi},
};

/// Most positions in one body: what fits into the body limit with room to spare.
const MAX_POSITIONS: usize = 500;

/// The routes, and what describes them.
pub(crate) fn router(app: App) -> (Router, OpenApi) {
    OpenApiRouter::with_openapi(SupplyApi::openapi())
        .routes(routes!(put_driver))
        .routes(routes!(post_positions))
        .routes(routes!(get_supply))
        .with_state(app)
        .split_for_parts()
}

/// Report what a driver does, and where.
///
/// Repeating a report changes only the position. Report often: a driver without a report for 15
/// minutes of market time is no supply and is not sent to rides. A driver on the way to a rider may
/// decline the ride, or go offline. Then, and when the driver is 15 minutes overdue at the pickup,
/// the ride is given to somebody else.
#[utoipa::path(
    put,
    path = "/v1/drivers/{driver_id}",
    params(
        ("driver_id" = Uuid, Path, description = "Chosen by the driver; a new one joins the fleet"),
    ),
    request_body = StatusReport,
    responses(
        (status = 200, description = "The driver as committed", body = DriverAnswer),
        (status = 409,
         description = "The status cannot follow the current one, or the fleet is full",
         body = Problem, content_type = PROBLEM_JSON),
        BodyProblems, DependencyProblems, AnyProblems,
    )
)]
async fn put_driver(
    State(app): State<App>,
    driver_id: Result<Path<String>, PathRejection>,
    StrictJson(report): StrictJson<StatusReport>,
) -> Result<Json<DriverAnswer>, Fault> {
    let driver_id = parse("driver_id", driver_id, convert::id)?;
    let driver = app.report_status(driver_id, report.status, report.position, report.declines);
    let driver = driver.await?;
    let zone = app.served_zone(driver.position);
    Ok(Json(DriverAnswer::new(&driver, zone)))
}

/// Report where drivers are.
///
/// Accepted at once and written within a second; only the newest position of a driver counts.
#[utoipa::path(
    post,
    path = "/v1/positions",
    request_body = PositionReports,
    responses(
        (status = 200, description = "How many reports were accepted", body = PositionsAnswer),
        BodyProblems, AnyProblems,
    )
)]
async fn post_positions(
    State(app): State<App>,
    StrictJson(reports): StrictJson<PositionReports>,
) -> Json<PositionsAnswer> {
    let mut answer = PositionsAnswer::default();
    for report in reports.positions {
        match app.report_position(report.driver_id.into_uuid(), report.position) {
            true => answer.accepted += 1,
            false => answer.ignored += 1,
        }
    }
    Json(answer)
}

/// Look up the supply of a zone, as of now.
#[utoipa::path(
    get,
    path = "/v1/supply/{zone}",
    params(
        ("zone" = String, Path, description = "H3 cell of resolution 7",
         pattern = "^[0-9a-fA-F]{15}$",
         example = "872a100d2ffffff"),
    ),
    responses(
        (status = 200, description = "The supply", body = SupplyAnswer),
        (status = 400, description = "Not an H3 cell", body = Problem, content_type = PROBLEM_JSON),
        (status = 404, description = "Not in the service area",
         body = Problem, content_type = PROBLEM_JSON),
        AnyProblems,
    )
)]
async fn get_supply(
    State(app): State<App>,
    zone: Result<Path<String>, PathRejection>,
) -> Result<Json<SupplyAnswer>, Fault> {
    let zone = parse("zone", zone, convert::zone)?;
    let supply = app.supply(&[zone])?;
    Ok(Json(SupplyAnswer::new(zone, &supply)))
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

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StatusReport {
    #[schema(value_type = StatusSchema)]
    status: DriverStatus,
    #[schema(value_type = GeoPoint)]
    position: Position,
    /// The ride under way, if the driver declines it; the status is then `idle` or `offline`. A
    /// ride that the driver is not on the way to is ignored here.
    #[serde(default)]
    declines: Option<Uuid>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PositionReports {
    #[schema(min_items = 1, max_items = 500)]
    #[serde(deserialize_with = "bounded_list")]
    positions: Vec<PositionReport>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PositionReport {
    #[schema(value_type = Uuid)]
    driver_id: Hyphenated,
    #[schema(value_type = GeoPoint)]
    position: Position,
}

fn bounded_list<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<PositionReport>, D::Error> {
    let positions = Vec::deserialize(json)?;
    match positions.len() {
        1..=MAX_POSITIONS => Ok(positions),
        count => Err(de::Error::custom(format_args!(
            "{count} positions given; allowed: 1 to {MAX_POSITIONS}"
        ))),
    }
}

#[derive(Serialize, ToSchema)]
struct DriverAnswer {
    driver_id: Uuid,
    #[schema(value_type = StatusSchema)]
    status: DriverStatus,
    #[schema(value_type = GeoPoint)]
    position: Position,
    /// Null outside the service area.
    #[schema(value_type = Option<String>, required)]
    zone: Option<Zone>,
    /// The ride under way; null without one.
    #[schema(required)]
    ride_id: Option<Uuid>,
    /// When the driver is, or was, expected at the rider, in market time.
    #[schema(required)]
    pickup_due_at: Option<DateTime<Utc>>,
    /// When the driver is expected to be idle again, in market time.
    #[schema(required)]
    dropoff_due_at: Option<DateTime<Utc>>,
}

impl DriverAnswer {
    fn new(driver: &Driver, zone: Option<Zone>) -> Self {
        Self {
            driver_id: driver.driver_id,
            status: driver.status,
            position: driver.position,
            zone,
            ride_id: driver.ride.map(|ride| ride.ride_id),
            pickup_due_at: driver.ride.map(|ride| ride.pickup_due_at.into()),
            dropoff_due_at: driver.ride.map(|ride| ride.dropoff_due_at.into()),
        }
    }
}

#[derive(Default, Serialize, ToSchema)]
struct PositionsAnswer {
    /// Reports accepted.
    accepted: u64,
    /// Reports of drivers who never went online, or are offline.
    ignored: u64,
}

#[derive(Serialize, ToSchema)]
struct SupplyAnswer {
    #[schema(value_type = String)]
    zone: Zone,
    /// S: drivers predicted to be available during the next window.
    supply: f64,
    /// Drivers idle now.
    idle_drivers: u64,
    /// Market time that the answer describes.
    as_of: DateTime<Utc>,
}

impl SupplyAnswer {
    fn new(zone: Zone, supply: &SupplySnapshot) -> Self {
        let [level] = supply.zones[..] else {
            unreachable!("the supply of one zone was looked up");
        };
        Self {
            zone,
            supply: level.predicted,
            idle_drivers: level.idle,
            as_of: supply.as_of.into(),
        }
    }
}
