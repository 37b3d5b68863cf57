//! Holds an answer against an OpenAPI document: its status and its content type must be documented,
//! and its body must be the documented schema with nothing missing and nothing added. This module
//! knows the parts of JSON Schema that the services use.

use http::{Method, StatusCode};
use serde_json::{Map, Value};

/// An OpenAPI document.
#[derive(Debug, Default)]
pub(crate) struct OpenApiDocument(pub(crate) Value);

impl OpenApiDocument {
    /// Fails the test unless the document promises the answer. A path outside the API, such as a
    /// probe, and a request to a route that does not exist have no promise.
    pub(crate) fn check(
        &self,
        method: &Method,
        path: &str,
        status: StatusCode,
        content_type: &str,
        body: &Value,
    ) {
        let unknown = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
        let operation = self.operation(method, path);
        if !path.starts_with("/v1/") || operation.is_null() && unknown.contains(&status) {
            return;
        }
        let what = format!("{method} {path}: {status} {body}");
        let documented = &operation["responses"][status.as_str()];
        assert!(documented.is_object(), "undocumented: {what}");
        let schema = &documented["content"][content_type]["schema"];
        assert!(schema.is_object(), "undocumented {content_type}: {what}");
        self.matches(body, schema)
            .unwrap_or_else(|why| panic!("{why} in {what}"));
    }

    /// The operation whose path template fits `path`; null without one.
    fn operation(&self, method: &Method, path: &str) -> &Value {
        let fits = |template: &str| {
            let (template, path) = (template.split('/'), path.split('/'));
            template.clone().count() == path.clone().count()
                && template
                    .zip(path)
                    .all(|(part, given)| part.starts_with('{') || part == given)
        };
        let mut templates = self.0["paths"].as_object().into_iter().flatten();
        let operations = templates.find(|(template, _)| fits(template));
        let method = method.as_str().to_lowercase();
        operations.map_or(&Value::Null, |(_, operations)| &operations[method])
    }

    fn matches(&self, value: &Value, schema: &Value) -> Result<(), String> {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.0.pointer(reference.trim_start_matches('#'));
            return self.matches(value, target.expect("a reference has a target"));
        }
        if let Some(schemas) = schema["oneOf"].as_array() {
            let mut outcomes = schemas.iter().map(|schema| self.matches(value, schema));
            return match outcomes.any(|outcome| outcome.is_ok()) {
                true => Ok(()),
                false => Err(format!("{value} matches none of {schemas:?}")),
            };
        }
        has_type(value, &schema["type"])?;
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            return Err(format!("{value} is none of {allowed:?}"));
        }
        is_within(value, schema)?;
        match value {
            Value::Object(fields) => self.fields_match(fields, schema),
            Value::Array(items) => items
                .iter()
                .try_for_each(|item| self.matches(item, &schema["items"])),
            _ => Ok(()),
        }
    }

    fn fields_match(&self, fields: &Map<String, Value>, schema: &Value) -> Result<(), String> {
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                return Err(format!("{name} is missing"));
            }
        }
        for (name, value) in fields {
            let property = &schema["properties"][name];
            if property.is_null() {
                return Err(format!("{name} is undocumented"));
            }
            self.matches(value, property)
                .map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(())
    }
}

fn has_type(value: &Value, allowed: &Value) -> Result<(), String> {
    let is = |name: &Value| match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    };
    let fits = match allowed {
        Value::Array(names) => names.iter().any(is),
        name => is(name),
    };
    fits.then_some(())
        .ok_or_else(|| format!("{value} is not of type {allowed}"))
}

fn is_within(value: &Value, schema: &Value) -> Result<(), String> {
    let Some(number) = value.as_f64() else {
        return Ok(());
    };
    let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    let fits = least.is_none_or(|least| number >= least) && most.is_none_or(|most| number <= most);
    fits.then_some(())
        .ok_or_else(|| format!("{value} is out of range"))
}
