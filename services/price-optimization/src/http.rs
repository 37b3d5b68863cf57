//! The REST edge. A handler parses, asks [`App`], and answers.

use std::fmt::Display;

use axum::{
    Json,
    extract::{FromRequestParts, Path, State, rejection::PathRejection},
    http::{HeaderName, request::Parts},
};
use marketplace::{
    time::MarketTime,
    zone::{Position, Zone},
};
use platform::{
    fault::{Fault, Problem},
    http::StrictJson,
    openapi::{AnyProblems, BodyProblems, DependencyProblems, GeoPoint, PROBLEM_JSON},
};
use serde::{Deserialize, Serialize, Serializer};
use surge_proto::{DataflowMode, convert};
use utoipa::{IntoParams, OpenApi, ToSchema, openapi};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    app::{App, ZonePrices},
    control::ModeInForce,
    explain::Journey,
    openapi::{Mode, PriceApi},
    pricing::SignedQuote,
};

/// Request header that picks the dataflow mode of one quote.
static DATAFLOW_HEADER: HeaderName = HeaderName::from_static("surge-dataflow");

/// The routes of the API, and what describes them.
pub(crate) fn router(app: App) -> (axum::Router, openapi::OpenApi) {
    OpenApiRouter::with_openapi(PriceApi::openapi())
        .routes(routes!(post_quote))
        .routes(routes!(get_journey))
        .routes(routes!(get_surge))
        .routes(routes!(get_dataflow, put_dataflow))
        .with_state(app)
        .split_for_parts()
}

/// The trip to be quoted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct QuoteRequest {
    #[schema(value_type = GeoPoint)]
    pickup: Position,
    #[schema(value_type = GeoPoint)]
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
    zones: Vec<ZoneResponse>,
}

/// The multiplier of one zone.
#[derive(Debug, Serialize, ToSchema)]
struct ZoneResponse {
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
    params(ModeHeader),
    responses(
        (status = 200, body = QuoteResponse,
         headers(("trace-id" = String,
                  description = "Opens the trace of this quote; absent where it was not sampled"))),
        BodyProblems, DependencyProblems, AnyProblems,
    )
)]
async fn post_quote(
    State(app): State<App>,
    NamedMode(mode): NamedMode,
    StrictJson(trip): StrictJson<QuoteRequest>,
) -> Result<Json<QuoteResponse>, Fault> {
    let signed = app.pricing().quote(trip.pickup, trip.dropoff, mode).await?;
    Ok(Json(signed.into()))
}

/// Explain how supply and demand reached a quote.
///
/// A replica keeps the last quotes that it made itself, 10,000 unless `JOURNEYS_KEPT` says
/// otherwise.
#[utoipa::path(
    get, path = "/v1/quotes/{quote_id}/journey",
    params(("quote_id" = Uuid, Path, description = "The quote")),
    responses(
        (status = 200, body = Journey),
        (status = 400, description = "Not a UUID", body = Problem, content_type = PROBLEM_JSON),
        (status = 404, description = "Not kept by this replica",
         body = Problem, content_type = PROBLEM_JSON),
        AnyProblems,
    )
)]
async fn get_journey(
    State(app): State<App>,
    quote_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Journey>, Fault> {
    let Path(text) = quote_id.map_err(|refused| Fault::invalid("quote_id", refused))?;
    let quote_id = convert::id("quote_id", &text);
    let quote_id = quote_id.map_err(|wrong| Fault::invalid(wrong.field, wrong.problem))?;
    Ok(Json(app.explain(quote_id).await?))
}

/// Show the multiplier of every zone.
#[utoipa::path(
    get, path = "/v1/surge",
    params(ModeHeader),
    responses(
        (status = 200, body = SurgeResponse),
        (status = 400, description = "No such mode", body = Problem, content_type = PROBLEM_JSON),
        DependencyProblems, AnyProblems,
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
        AnyProblems,
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
        BodyProblems, DependencyProblems, AnyProblems,
    )
)]
async fn put_dataflow(
    State(app): State<App>,
    StrictJson(wanted): StrictJson<SwitchRequest>,
) -> Result<Json<ModeInForce>, Fault> {
    Ok(Json(app.switch(wanted.mode).await?))
}

/// Describes [`NamedMode`].
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its description is used")]
struct ModeHeader {
    /// Mode of this answer; default: the mode in force.
    #[param(rename = "surge-dataflow", value_type = Mode, required = false)]
    mode: Option<DataflowMode>,
}

/// The mode that the request names, if it does.
struct NamedMode(Option<DataflowMode>);

impl<S: Sync> FromRequestParts<S> for NamedMode {
    type Rejection = Fault;

    async fn from_request_parts(request: &mut Parts, _: &S) -> Result<Self, Fault> {
        let wrong = |problem: &dyn Display| Fault::invalid(DATAFLOW_HEADER.as_str(), problem);
        let mut values = request.headers.get_all(&DATAFLOW_HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(Self(None));
        };
        if values.next().is_some() {
            return Err(wrong(&"must be given once"));
        }
        let mode: Result<DataflowMode, _> = String::from_utf8_lossy(value.as_bytes()).parse();
        mode.map(|mode| Self(Some(mode)))
            .map_err(|error| wrong(&error))
    }
}

impl From<SignedQuote> for QuoteResponse {
    fn from(signed: SignedQuote) -> Self {
        Self {
            quote_id: signed.quote.quote_id,
            fare_cents: signed.quote.fare_cents,
            currency: "USD",
            surge_multiplier: signed.price.multiplier.as_f64(),
            zone: signed.quote.zone,
            dataflow: signed.dataflow,
            epoch: signed.epoch,
            supply: signed.price.supply,
            demand: signed.price.demand,
            data_age_ms: signed.data_age.map(millis),
            degraded: signed.price.degraded,
            expires_at: signed.quote.expires_at,
            token: signed.token,
        }
    }
}

impl From<ZonePrices> for SurgeResponse {
    fn from(map: ZonePrices) -> Self {
        let zones = map
            .zones
            .into_iter()
            .map(|(zone, price, data_age)| ZoneResponse {
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
