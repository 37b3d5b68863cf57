//! Holds answers against `/openapi.json`: status and content type must be documented, required fields present, no
//! field undocumented, and every value of the documented type.

use serde_json::{Map, Value};

use super::Answer;

/// A served OpenAPI description.
pub(crate) struct Contract {
    api: Value,
}

impl Contract {
    pub(crate) fn new(api: Value) -> Self {
        assert!(
            api["openapi"].as_str().unwrap().starts_with("3."),
            "not an OpenAPI description"
        );
        Self { api }
    }

    /// Fails the test unless `answer` is what the description promises for `method` on `path`, a path with its
    /// parameters in braces.
    pub(crate) fn check(&self, method: &str, path: &str, answer: &Answer) {
        let case = format!("{method} {path} {}", answer.status);
        let operation = &self.api["paths"][path][method];
        assert!(operation.is_object(), "{case}: not documented");
        let response = &operation["responses"][answer.status.as_str()];
        assert!(response.is_object(), "{case}: status not documented");
        let schema = &response["content"][&answer.content_type]["schema"];
        let content_type = &answer.content_type;
        assert!(schema.is_object(), "{case}: {content_type} not documented");
        self.check_value(&case, schema, &answer.body);
    }

    fn check_value(&self, at: &str, schema: &Value, value: &Value) {
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.trim_start_matches('#');
            let target = self.api.pointer(pointer).expect("a reference has a target");
            return self.check_value(at, target, value);
        }
        assert!(has_type(schema, value), "{at}: {value} is not {schema}");
        if let Some(allowed) = schema["enum"].as_array() {
            assert!(
                allowed.contains(value),
                "{at}: {value} is none of {allowed:?}"
            );
        }
        if let (Some(properties), Some(object)) =
            (schema["properties"].as_object(), value.as_object())
        {
            self.check_object(at, schema, properties, object);
        }
        for item in value.as_array().into_iter().flatten() {
            self.check_value(&format!("{at}[]"), &schema["items"], item);
        }
    }

    fn check_object(
        &self,
        at: &str,
        schema: &Value,
        properties: &Map<String, Value>,
        object: &Map<String, Value>,
    ) {
        for required in schema["required"].as_array().into_iter().flatten() {
            let name = required.as_str().unwrap();
            assert!(object.contains_key(name), "{at}: {name} is missing");
        }
        for (name, value) in object {
            let property = properties.get(name);
            let property = property.unwrap_or_else(|| panic!("{at}: {name} is not documented"));
            self.check_value(&format!("{at}.{name}"), property, value);
        }
    }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    match &schema["type"] {
        Value::String(name) => is(name, value),
        Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap(), value)),
        _ => true,
    }
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
