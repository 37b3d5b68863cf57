//! How OpenAPI sees the types of other crates. The domain and the REST edge both describe their
//! fields with the types here (`#[schema(value_type = Mode)]`), so that neither has to import the
//! other.

use platform::fault::Problem;
use surge_proto::DataflowMode;
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

/// The document at `/openapi.json`, without the routes, which describe themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "price-optimization",
        description = "Quotes a fare with a surge multiplier. \
                       Errors are `application/problem+json` (RFC 9457)."
    ),
    components(schemas(Problem))
)]
pub(crate) struct PriceApi;

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
