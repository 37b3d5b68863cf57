//! How OpenAPI sees the types of other crates, and what describes the service as a whole. The
//! domain knows nothing of OpenAPI; the REST edge describes its fields with the types here.

use std::borrow::Cow;

use marketplace::supply::DriverStatus;
use platform::fault::Problem;
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

/// The document at `/openapi.json`, without the routes, which describe themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "driver-management",
        description = "Supply: where the drivers are, what they do, and how many a zone can count \
                       on. Times are market time."
    ),
    components(schemas(Problem))
)]
pub(crate) struct SupplyApi;

/// Describes [`DriverStatus`].
pub(crate) struct StatusSchema;

impl ToSchema for StatusSchema {
    fn name() -> Cow<'static, str> {
        "DriverStatus".into()
    }
}

impl PartialSchema for StatusSchema {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(DriverStatus::ALL.map(DriverStatus::as_str)));
        RefOr::T(schema.into())
    }
}
