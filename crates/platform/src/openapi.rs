//! What the OpenAPI documents of all services share. Each route lists the sets of this module that
//! hold for it beside the answers of its own:
//!
//! ```ignore
//! responses(
//!     (status = 200, description = "The ride", body = RideAnswer),
//!     (status = 404, description = "No such ride", body = Problem, content_type = PROBLEM_JSON),
//!     DependencyProblems,
//!     AnyProblems,
//! )
//! ```

use serde::Deserialize;
use utoipa::{IntoResponses, ToSchema};

use crate::fault::Problem;

/// The content type of a [`Problem`] (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The problems of every route.
#[derive(Debug, IntoResponses)]
pub enum AnyProblems {
    /// The service failed
    #[response(status = 500, content_type = PROBLEM_JSON)]
    Internal(Problem),
    /// Not done in time; repeat the request
    #[response(status = 504, content_type = PROBLEM_JSON)]
    DeadlineExceeded(Problem),
}

/// The problems of a route that reads a body.
#[derive(Debug, IntoResponses)]
pub enum BodyProblems {
    /// A field is wrong; `field` names it
    #[response(status = 400, content_type = PROBLEM_JSON)]
    InvalidArgument(Problem),
    /// The body is too large
    #[response(status = 413, content_type = PROBLEM_JSON)]
    PayloadTooLarge(Problem),
    /// The body is not JSON
    #[response(status = 415, content_type = PROBLEM_JSON)]
    UnsupportedMediaType(Problem),
}

/// The problem of a route that depends on another server.
#[derive(Debug, IntoResponses)]
pub enum DependencyProblems {
    /// A dependency is away; repeat the request
    #[response(status = 503, content_type = PROBLEM_JSON)]
    Unavailable(Problem),
}

/// A point in degrees (WGS 84). Describes positions, which know nothing of OpenAPI.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Point)]
pub struct GeoPoint {
    /// Latitude.
    #[schema(minimum = -90, maximum = 90)]
    pub lat: f64,
    /// Longitude.
    #[schema(minimum = -180, maximum = 180)]
    pub lon: f64,
}
