//! The floor of every mode: one HTTP request in, one answer out.

use std::borrow::Cow;

use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use marketplace::{Position, Zone};
use serde::{Deserialize, Serialize};

/// A quote from nothing.
pub(crate) fn router() -> Router {
    with_livez(Router::new().route("/v1/quotes", post(quote)))
}

async fn quote(headers: HeaderMap, Json(trip): Json<FloorTrip>) -> Json<FloorQuote> {
    Json(FloorQuote::of(&headers, &trip, 7.0, 12.443_506_421_359_25))
}

/// Adds the path by which a load generator opens its connections.
pub(crate) fn with_livez(router: Router) -> Router {
    router.route("/livez", get(|| async { "ok" }))
}

/// What a quote is asked for.
#[derive(Deserialize)]
pub(crate) struct FloorTrip {
    pickup: Position,
    #[expect(
        dead_code,
        reason = "a floor reads all of the question, and uses little"
    )]
    dropoff: Position,
}

/// An answer that passes for a quote and has its size.
#[derive(Serialize)]
pub(crate) struct FloorQuote {
    quote_id: &'static str,
    fare_cents: i64,
    currency: &'static str,
    surge_multiplier: f64,
    zone: Zone,
    dataflow: Cow<'static, str>,
    epoch: u64,
    supply: f64,
    demand: f64,
    data_age_ms: f64,
    degraded: bool,
    expires_at: &'static str,
    token: &'static str,
}

impl FloorQuote {
    /// The quote of a mode that was asked for by header, from levels that came from wherever.
    pub(crate) fn of(headers: &HeaderMap, trip: &FloorTrip, supply: f64, demand: f64) -> Self {
        let mode = headers
            .get("surge-dataflow")
            .and_then(|mode| mode.to_str().ok());
        Self {
            quote_id: "01a1fc3d-f3bd-77c1-9f8c-2f857cbcb3d0",
            fare_cents: 4010,
            currency: "USD",
            surge_multiplier: 1.9,
            zone: Zone::at(trip.pickup),
            dataflow: mode.map_or(Cow::Borrowed(""), |mode| Cow::Owned(mode.to_owned())),
            epoch: 0,
            supply,
            demand,
            data_age_ms: 584.0,
            degraded: false,
            expires_at: "2014-04-04T22:19:26.897Z",
            token: TOKEN,
        }
    }
}

/// As long as a signed one, and worth nothing.
const TOKEN: &str = concat!(
    "not-signed-not-signed-not-signed-not-signed-not-signed-not-signed-not-signed-",
    "not-signed-not-signed-not-signed-not-signed-not-signed-not-signed-not-signed-",
    "not-signed-not-",
);

#[cfg(test)]
pub(crate) mod tests {
    use axum::body::{Body, Bytes};
    use axum::http::{Request, StatusCode};
    use http_body_util::BodyExt as _;
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;

    async fn body_of(router: Router) -> Result<Bytes, StatusCode> {
        let trip =
            r#"{"pickup":{"lat":40.7527,"lon":-73.9772},"dropoff":{"lat":40.7,"lon":-74.0}}"#;
        let request = Request::post("/v1/quotes")
            .header("content-type", "application/json")
            .header("surge-dataflow", "events")
            .body(Body::from(trip))
            .unwrap();
        let answer = router.oneshot(request).await.unwrap();
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body().collect().await.unwrap().to_bytes()),
            refused => Err(refused),
        }
    }

    /// What a floor answers.
    pub(crate) async fn answer_of(router: Router) -> Result<Value, StatusCode> {
        let body = body_of(router).await?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn answer_has_size_and_mode_of_quote() {
        // A real one has 440 to 460 bytes, by the digits of its figures.
        let size = body_of(router()).await.unwrap().len();
        assert!((430..=470).contains(&size), "{size} bytes");
        let quote = answer_of(router()).await.unwrap();
        assert_eq!(quote["dataflow"], "events");
        assert_eq!(quote["zone"], "872a100d6ffffff");
    }
}
