//! The journey of a quote over REST.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use platform::fault::{Fault, Problem};
use uuid::Uuid;

use crate::{app::App, journey::Journey};

/// Show how supply and demand came to a quote.
///
/// A replica keeps the journeys of the last quotes that it made itself, 10,000 unless `JOURNEYS_KEPT` says otherwise.
#[utoipa::path(
    get, path = "/v1/quotes/{quote_id}/journey",
    params(("quote_id" = Uuid, Path, description = "The quote")),
    responses(
        (status = 200, body = Journey),
        (status = 400, description = "Not a UUID", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not kept by this replica", body = Problem, content_type = "application/problem+json"),
        (status = 500, body = Problem, content_type = "application/problem+json"),
        (status = 504, body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_journey(
    State(app): State<App>,
    quote_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Journey>, Fault> {
    let quote_id = parse(quote_id)?;
    Ok(Json(app.journey(quote_id).await?))
}

/// Only the form in which a quote tells its id: a UUID has others, and whoever sends one of them means something else.
fn parse(quote_id: Result<Path<String>, PathRejection>) -> Result<Uuid, Fault> {
    let hyphenated = |Path(text): Path<String>| {
        let id = Uuid::try_parse(&text).ok()?;
        id.to_string().eq_ignore_ascii_case(&text).then_some(id)
    };
    quote_id
        .ok()
        .and_then(hyphenated)
        .ok_or_else(|| Fault::invalid("quote_id", "must be a UUID, as the quote tells it"))
}
