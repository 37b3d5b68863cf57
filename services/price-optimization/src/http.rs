//! The REST edge. A handler parses, asks [`App`], and answers.

mod journey;

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{HeaderName, request::Parts},
};
use marketplace::{
    time::MarketTime,
    zone::{Position, Zone},
};
use platform::{
    fault::{Fault, Problem},
    http::{SizedJson, StrictJson},
};
use serde::{Deserialize, Serialize, Serializer};
use surge_proto::DataflowMode;
use tracing::Instrument;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    app::{App, Quoted, SurgeMap, quote_span},
    control::ModeInForce,
};

/// Request header that picks the dataflow mode of one quote.
static DATAFLOW_HEADER: HeaderName = HeaderName::from_static("surge-dataflow");

/// Room for a quote in JSON: they have some 450 bytes.
const QUOTE_BYTES: usize = 640;

#[derive(OpenApi)]
#[openapi(info(
    title = "price-optimization",
    description = "Quotes a fare with a surge multiplier. Errors are `application/problem+json` (RFC 9457)."
))]
struct Api;

/// The routes of the API, and what describes them.
pub(crate) fn router(app: App) -> (axum::Router, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(post_quote))
        .routes(routes!(journey::get_journey))
        .routes(routes!(get_surge))
        .routes(routes!(get_dataflow, put_dataflow))
        .with_state(app)
        .split_for_parts()
}

/// A point in degrees (WGS 84).
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes marketplace::zone::Position to OpenAPI")]
pub(crate) struct Point {
    #[schema(minimum = -90, maximum = 90)]
    lat: f64,
    #[schema(minimum = -180, maximum = 180)]
    lon: f64,
}

/// A dataflow mode.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes surge_proto::DataflowMode to OpenAPI")]
pub(crate) enum Mode {
    Database,
    Request,
    Events,
}

/// The trip to be quoted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct QuoteRequest {
    #[schema(value_type = Point)]
    pickup: Position,
    #[schema(value_type = Point)]
    dropoff: Position,
}

/// A fare, promised until it expires.
#[derive(Debug, Serialize, ToSchema)]
struct QuoteResponse {
    /// UUIDv7.
    quote_id: Uuid,
    /// The fare, surge included.
    fare_cents: i64,
    /// ISO 4217.
    currency: &'static str,
    /// From 1.0 in steps of 0.1.
    surge_multiplier: f64,
    /// H3 cell of the pickup.
    #[schema(value_type = String)]
    zone: Zone,
    /// The mode that supply and demand came through.
    #[schema(value_type = Mode)]
    dataflow: DataflowMode,
    /// How often the mode had been switched.
    epoch: u64,
    /// Drivers predicted to be available in the zone in the next window.
    supply: f64,
    /// Ride requests expected in the zone in the next window.
    demand: f64,
    /// Real milliseconds since the older feed was true; null when nothing was known.
    data_age_ms: Option<f64>,
    /// True when the data was missing or too old, and the fare therefore without surge.
    degraded: bool,
    /// Market time.
    #[schema(value_type = DateTime<Utc>)]
    #[serde(serialize_with = "in_words")]
    expires_at: MarketTime,
    /// What a ride request presents.
    token: String,
}

/// The multiplier of every zone.
#[derive(Debug, Serialize, ToSchema)]
struct SurgeResponse {
    #[schema(value_type = Mode)]
    dataflow: DataflowMode,
    epoch: u64,
    zones: Vec<ZoneSurge>,
}

/// The multiplier of one zone.
#[derive(Debug, Serialize, ToSchema)]
struct ZoneSurge {
    #[schema(value_type = String)]
    zone: Zone,
    surge_multiplier: f64,
    supply: f64,
    demand: f64,
    data_age_ms: Option<f64>,
    degraded: bool,
}

/// The mode to switch to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SwitchRequest {
    #[schema(value_type = Mode)]
    mode: DataflowMode,
}

/// Quote a trip.
#[utoipa::path(
    post, path = "/v1/quotes", request_body = QuoteRequest,
    params(("surge-dataflow" = Option<Mode>, Header, description = "Mode of this quote; default: the mode in force")),
    responses(
        (status = 200, body = QuoteResponse, headers(("trace-id" = String, description = "Opens the trace of this quote; absent where it was not sampled"))),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 500, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
        (status = 504, body = Problem, content_type = "application/problem+json"),
    )
)]
async fn post_quote(
    State(app): State<App>,
    NamedMode(mode): NamedMode,
    StrictJson(trip): StrictJson<QuoteRequest>,
) -> Result<SizedJson<QuoteResponse, QUOTE_BYTES>, Fault> {
    let quoted = app
        .quote(trip.pickup, trip.dropoff, mode)
        .instrument(quote_span())
        .await?;
    Ok(SizedJson(quoted.into()))
}

/// Show the multiplier of every zone.
#[utoipa::path(
    get, path = "/v1/surge",
    params(("surge-dataflow" = Option<Mode>, Header, description = "Mode of this answer; default: the mode in force")),
    responses(
        (status = 200, body = SurgeResponse),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 500, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
        (status = 504, body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get_surge(
    State(app): State<App>,
    NamedMode(mode): NamedMode,
) -> Result<Json<SurgeResponse>, Fault> {
    Ok(Json(app.surge(mode).await?.into()))
}

/// Show the dataflow mode in force.
#[utoipa::path(
    get, path = "/v1/dataflow",
    responses(
        (status = 200, body = ModeInForce),
        (status = 500, body = Problem, content_type = "application/problem+json"),
    )
)]
async fn get_dataflow(State(app): State<App>) -> Json<ModeInForce> {
    Json(app.mode())
}

/// Switch the dataflow mode, on every replica.
#[utoipa::path(
    put, path = "/v1/dataflow", request_body = SwitchRequest,
    responses(
        (status = 200, body = ModeInForce),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 500, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
        (status = 504, body = Problem, content_type = "application/problem+json"),
    )
)]
async fn put_dataflow(
    State(app): State<App>,
    StrictJson(wanted): StrictJson<SwitchRequest>,
) -> Result<Json<ModeInForce>, Fault> {
    Ok(Json(app.switch(wanted.mode).await?))
}

/// The mode that the request names, if it does.
struct NamedMode(Option<DataflowMode>);

impl<S: Sync> FromRequestParts<S> for NamedMode {
    type Rejection = Fault;

    async fn from_request_parts(request: &mut Parts, _: &S) -> Result<Self, Fault> {
        let Some(value) = request.headers.get(&DATAFLOW_HEADER) else {
            return Ok(Self(None));
        };
        let mode = String::from_utf8_lossy(value.as_bytes()).parse();
        let mode = mode.map_err(|error| Fault::invalid(DATAFLOW_HEADER.as_str(), error))?;
        Ok(Self(Some(mode)))
    }
}

impl From<Quoted> for QuoteResponse {
    fn from(quoted: Quoted) -> Self {
        Self {
            quote_id: quoted.quote.quote_id,
            fare_cents: quoted.quote.fare_cents,
            currency: "USD",
            surge_multiplier: quoted.price.multiplier.as_f64(),
            zone: quoted.quote.zone,
            dataflow: quoted.dataflow,
            epoch: quoted.epoch,
            supply: quoted.price.supply,
            demand: quoted.price.demand,
            data_age_ms: quoted.data_age.map(millis),
            degraded: quoted.price.degraded,
            expires_at: quoted.quote.expires_at,
            token: quoted.token,
        }
    }
}

impl From<SurgeMap> for SurgeResponse {
    fn from(map: SurgeMap) -> Self {
        let zones = map
            .zones
            .into_iter()
            .map(|(zone, price, data_age)| ZoneSurge {
                zone,
                surge_multiplier: price.multiplier.as_f64(),
                supply: price.supply,
                demand: price.demand,
                data_age_ms: data_age.map(millis),
                degraded: price.degraded,
            });
        Self {
            dataflow: map.dataflow,
            epoch: map.epoch,
            zones: zones.collect(),
        }
    }
}

/// As RFC 3339, which people read; services among themselves send numbers.
fn in_words<S: Serializer>(at: &MarketTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

fn millis(age: std::time::Duration) -> f64 {
    age.as_secs_f64() * 1_000.0
}
