//! How OpenAPI sees the types of other crates. The domain and the REST edge both describe their
//! fields with the types here (`#[schema(value_type = Mode)]`), so that neither has to import the
//! other.

use surge_proto::DataflowMode;
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

/// The document at `/openapi.json`, without the routes, which describe themselves.
#[derive(OpenApi)]
#[openapi(info(
    title = "price-optimization",
    description = "Quotes a fare with a surge multiplier. \
                   Errors are `application/problem+json` (RFC 9457)."
))]
pub(crate) struct Document;

/// Describes `marketplace::zone::Position`: a point in degrees (WGS 84).
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes another type")]
pub(crate) struct Point {
    #[schema(minimum = -90, maximum = 90)]
    lat: f64,
    #[schema(minimum = -180, maximum = 180)]
    lon: f64,
}

/// Describes `surge_proto::DataflowMode`.
pub(crate) struct Mode;

impl ToSchema for Mode {}

impl PartialSchema for Mode {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A dataflow mode."))
            .enum_values(Some(DataflowMode::ALL.map(DataflowMode::as_str)));
        RefOr::T(schema.into())
    }
}
