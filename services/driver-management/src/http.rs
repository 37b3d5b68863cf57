//! The REST edge: parse, ask the app, answer. The OpenAPI document is made from the same handlers,
//! so it cannot forget one; tests hold it against real answers.

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
};
use chrono::{DateTime, Utc};
use marketplace::{
    supply::DriverStatus,
    time::MarketTime,
    zone::{Position, Zone},
};
use platform::{
    fault::{Fault, Problem},
    http::StrictJson,
};
use serde::{Deserialize, Deserializer, Serialize, de};
use surge_proto::convert::Malformed;
use utoipa::{
    OpenApi, ToSchema,
    openapi::{self, ObjectBuilder, Schema, schema::Type},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{app::App, driver::Driver, fleet::Supply};

/// Most positions in one body: what fits into the body limit with room to spare.
const MAX_POSITIONS: usize = 500;

/// The routes, and what describes them.
pub fn router(app: App) -> (Router, openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(put_driver))
        .routes(routes!(post_positions))
        .routes(routes!(get_supply))
        .with_state(app)
        .split_for_parts()
}

#[derive(OpenApi)]
#[openapi(info(
    title = "driver-management",
    description = "Supply: where the drivers are, what they do, and how many a zone can count on. Times are market time."
))]
struct Document;

/// A driver says what it does, and where. Repeating a report changes nothing but the position.
#[utoipa::path(
    put,
    path = "/v1/drivers/{driver_id}",
    params(("driver_id" = Uuid, Path, description = "Chosen by the driver; a new one joins the fleet")),
    request_body = StatusReport,
    responses(
        (status = 200, description = "The driver as committed", body = DriverAnswer),
        (status = 400, description = "A field is wrong; `field` names it", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The status cannot follow the current one, or the fleet is full", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The service failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "PostgreSQL is away; nothing is known to have changed, repeat the report", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Not done in time; repeat the report", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn put_driver(
    State(app): State<App>,
    driver_id: Result<Path<String>, PathRejection>,
    StrictJson(report): StrictJson<StatusReport>,
) -> Result<Json<DriverAnswer>, Fault> {
    let driver_id = parse_driver_id(driver_id)?;
    let driver = app
        .report_status(driver_id, report.status, report.position)
        .await?;
    Ok(Json(DriverAnswer::new(
        &driver,
        app.served_zone(driver.position),
    )))
}

/// Drivers say where they are. Taken at once and written within a second; only the newest position
/// of a driver counts.
#[utoipa::path(
    post,
    path = "/v1/positions",
    request_body = PositionReports,
    responses(
        (status = 200, description = "How many reports were taken", body = PositionsAnswer),
        (status = 400, description = "A field is wrong; `field` names it and nothing was taken", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The service failed", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Not done in time", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn post_positions(
    State(app): State<App>,
    StrictJson(reports): StrictJson<PositionReports>,
) -> Json<PositionsAnswer> {
    let mut answer = PositionsAnswer::default();
    for report in reports.positions {
        match app.report_position(report.driver_id, report.position) {
            true => answer.accepted += 1,
            false => answer.ignored += 1,
        }
    }
    Json(answer)
}

/// Supply of one zone, as of now.
#[utoipa::path(
    get,
    path = "/v1/supply/{zone}",
    params(("zone" = String, Path, description = "H3 cell of resolution 7", example = "872a100d2ffffff")),
    responses(
        (status = 200, description = "The supply", body = SupplyAnswer),
        (status = 400, description = "Not an H3 cell", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not in the service area", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The service failed", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "Not done in time", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get_supply(
    State(app): State<App>,
    zone: Result<Path<String>, PathRejection>,
) -> Result<Json<SupplyAnswer>, Fault> {
    let zone = parse_zone(zone)?;
    let supply = app.supply(&[zone])?;
    Ok(Json(SupplyAnswer::new(zone, &supply)))
}

fn parse_driver_id(path: Result<Path<String>, PathRejection>) -> Result<Uuid, Fault> {
    let Path(text) = path.map_err(|refused| Fault::invalid("driver_id", refused))?;
    surge_proto::convert::id("driver_id", &text).map_err(invalid)
}

fn parse_zone(path: Result<Path<String>, PathRejection>) -> Result<Zone, Fault> {
    let Path(text) = path.map_err(|refused| Fault::invalid("zone", refused))?;
    surge_proto::convert::zone("zone", &text).map_err(invalid)
}

fn invalid(malformed: Malformed) -> Fault {
    Fault::invalid(malformed.field, malformed.problem)
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StatusReport {
    #[schema(schema_with = status_schema)]
    status: DriverStatus,
    #[schema(schema_with = position_schema)]
    position: Position,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PositionReports {
    #[schema(min_items = 1, max_items = 500)]
    #[serde(deserialize_with = "a_bounded_list")]
    positions: Vec<PositionReport>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PositionReport {
    driver_id: Uuid,
    #[schema(schema_with = position_schema)]
    position: Position,
}

fn a_bounded_list<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<PositionReport>, D::Error> {
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
    #[schema(schema_with = status_schema)]
    status: DriverStatus,
    #[schema(schema_with = position_schema)]
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
            pickup_due_at: driver.ride.map(|ride| rfc3339(ride.pickup_due_at)),
            dropoff_due_at: driver.ride.map(|ride| rfc3339(ride.dropoff_due_at)),
        }
    }
}

#[derive(Default, Serialize, ToSchema)]
struct PositionsAnswer {
    /// Reports taken.
    accepted: u64,
    /// Reports of drivers who never went online, or are offline: left out.
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
    fn new(zone: Zone, supply: &Supply) -> Self {
        let [level] = supply.zones[..] else {
            unreachable!("one zone was asked for");
        };
        Self {
            zone,
            supply: level.predicted,
            idle_drivers: level.idle,
            as_of: rfc3339(supply.as_of),
        }
    }
}

fn rfc3339(time: MarketTime) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(time.millis()).unwrap_or_default()
}

fn status_schema() -> Schema {
    let words = DriverStatus::ALL.map(DriverStatus::as_str);
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words));
    schema.build().into()
}

/// A point in WGS 84 degrees.
fn position_schema() -> Schema {
    let degrees = |limit: f64| {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .minimum(Some(-limit))
            .maximum(Some(limit))
    };
    let schema = ObjectBuilder::new()
        .property("lat", degrees(90.0))
        .property("lon", degrees(180.0))
        .required("lat")
        .required("lon");
    schema.build().into()
}
