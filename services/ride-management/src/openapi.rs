//! How OpenAPI sees the types of other crates and of the domain, and what describes the service as
//! a whole. The domain knows nothing of OpenAPI; the REST edge describes its fields with the types
//! here.

use std::borrow::Cow;

use platform::fault::Problem;
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

use crate::ride::RideState;

/// The document at `/openapi.json`, without the routes, which describe themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "ride-management",
        description = "Takes ride requests, matches them with drivers, and forecasts demand."
    ),
    components(schemas(Problem))
)]
pub(crate) struct RideApi;

/// Describes [`RideState`].
pub(crate) struct StateSchema;

impl ToSchema for StateSchema {
    fn name() -> Cow<'static, str> {
        "RideState".into()
    }
}

impl PartialSchema for StateSchema {
    fn schema() -> RefOr<Schema> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(RideState::ALL.map(RideState::as_str)));
        RefOr::T(schema.into())
    }
}
