//! Holds an answer against an OpenAPI document: the status and the content type must be documented, and the body must
//! be the documented schema with nothing missing and nothing added. Knows just the parts of JSON Schema that the
//! service uses, and fails on any other.

use http::Method;
use serde_json::{Map, Value};

use super::rest::Answer;

/// An OpenAPI document.
pub(crate) struct Document(pub(crate) Value);

impl Document {
    pub(crate) fn check(&self, method: &Method, route: &str, answer: &Answer) {
        let operation = &self.0["paths"][route][method.as_str().to_lowercase()];
        let documented = &operation["responses"][answer.status.to_string()];
        let what = format!(
            "{method} {route} answered {}: {}",
            answer.status, answer.body
        );
        assert!(documented.is_object(), "undocumented: {what}");
        let schema = &documented["content"][&answer.content_type]["schema"];
        assert!(
            schema.is_object(),
            "undocumented type {}: {what}",
            answer.content_type
        );
        self.matches(&answer.body, schema)
            .unwrap_or_else(|why| panic!("{why} in {what}"));
    }

    fn matches(&self, value: &Value, schema: &Value) -> Result<(), String> {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.trim_start_matches("#/components/schemas/");
            return self.matches(value, &self.0["components"]["schemas"][name]);
        }
        has_type(value, &schema["type"])?;
        is_among(value, &schema["enum"])?;
        is_within(value, schema)?;
        match value {
            Value::Object(fields) => self.fields_match(fields, schema),
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
        Some("string") => value.is_string(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("null") => value.is_null(),
        _ => false,
    };
    let fits = match allowed {
        Value::Array(names) => names.iter().any(is),
        name => is(name),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("{value} is not of type {allowed}"))
    }
}

fn is_among(value: &Value, allowed: &Value) -> Result<(), String> {
    match allowed.as_array() {
        Some(words) if !words.contains(value) => Err(format!("{value} is none of {allowed}")),
        _ => Ok(()),
    }
}

fn is_within(value: &Value, schema: &Value) -> Result<(), String> {
    let Some(number) = value.as_f64() else {
        return Ok(());
    };
    let above = schema["minimum"]
        .as_f64()
        .is_none_or(|least| number >= least);
    let below = schema["maximum"].as_f64().is_none_or(|most| number <= most);
    if above && below {
        Ok(())
    } else {
        Err(format!("{value} is out of range"))
    }
}
