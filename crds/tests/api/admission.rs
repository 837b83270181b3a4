//! A minimal model of the API server: validates an object against the CRD schema, with the same
//! messages, evaluates the validation rules, and models how numbers are stored.
//!
//! It covers only the keywords that the schemas of Serin use.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value};

/// The installed schema of a kind of Serin.
pub fn schema_of(kind: &str) -> &'static Value {
    static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
        let schema = |crd: CustomResourceDefinition| {
            let schema = crd.spec.versions[0]
                .schema
                .as_ref()
                .unwrap()
                .open_api_v3_schema
                .as_ref()
                .unwrap();
            (
                crd.spec.names.kind.clone(),
                serde_json::to_value(schema).unwrap(),
            )
        };
        serin_crds::crds().into_iter().map(schema).collect()
    });
    &SCHEMAS[kind]
}

/// The reasons for which the API server rejects an object, with strict field validation as
/// requested by `kubectl`. Empty if it accepts the object.
pub fn refusals(object: &Value, old: Option<&Value>) -> Vec<String> {
    let object = without_nulls(object);
    let mut found = Vec::new();
    structural(
        schema_of(object["kind"].as_str().unwrap()),
        &object,
        "",
        &mut found,
    );
    // The rules are evaluated only if the structure is valid.
    if found.is_empty() {
        by_rule(&object, old)
    } else {
        found
    }
}

/// The reasons from validation rules only. Empty if the structure is invalid.
pub fn refusals_by_rule(object: &Value) -> Vec<String> {
    let object = without_nulls(object);
    let mut found = Vec::new();
    structural(
        schema_of(object["kind"].as_str().unwrap()),
        &object,
        "",
        &mut found,
    );
    if found.is_empty() {
        by_rule(&object, None)
    } else {
        Vec::new()
    }
}

fn by_rule(object: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = schema_of(object["kind"].as_str().unwrap());
    match kube_cel::Validator::new().validate(schema, object, old) {
        Ok(()) => Vec::new(),
        Err(errors) => errors
            .iter()
            .map(|error| format!("{}: {}", error.field_path, error.message))
            .collect(),
    }
}

/// Removes null fields. The API server drops them, because no field is nullable.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                fields
                    .map(|(key, value)| (key.clone(), without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        plain => plain.clone(),
    }
}

/// The object as the API server returns it: unknown fields are removed, and floats without a
/// fraction are integers.
pub fn stored(schema: &Value, value: Value) -> Value {
    let keep = schema["x-kubernetes-preserve-unknown-fields"] == true;
    match value {
        Value::Object(fields) => {
            let field = |(key, value): (String, Value)| {
                let inner = property_schema(schema, &key);
                (keep || inner.is_some()).then(|| (key, stored(inner.unwrap_or(schema), value)))
            };
            Value::Object(fields.into_iter().filter_map(field).collect::<Map<_, _>>())
        }
        Value::Array(items) => {
            let items = items
                .into_iter()
                .map(|item| stored(if keep { schema } else { &schema["items"] }, item));
            items.collect()
        }
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a whole number below 1e15 is an i64 exactly"
            )]
            if float.fract() == 0.0 && float.abs() < 1e15 {
                Value::from(float as i64)
            } else {
                Value::from(float)
            }
        }
        plain => plain,
    }
}

/// The schema of a property, or of the values of a map.
fn property_schema<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema["properties"].get(key).or_else(|| {
        schema
            .get("additionalProperties")
            .filter(|values| values.is_object())
    })
}

fn structural(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let mut invalid = |why: String| found.push(format!("{path}: Invalid value: {why}"));
    if !has_type(schema, value) {
        let wanted = schema["type"].as_str().unwrap_or("integer or string");
        return invalid(format!("{path} in body must be of type {wanted}"));
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "no text or list here has 2^52 elements"
    )]
    let size = |count: Option<usize>| count.map(|count| count as f64);
    let number = value.as_f64();
    let length = size(value.as_str().map(|text| text.chars().count()));
    let items = size(value.as_array().map(Vec::len));
    let properties = size(value.as_object().map(Map::len));
    for (keyword, size, is_least, words, unit) in [
        (
            "minimum",
            number,
            true,
            "should be greater than or equal to",
            "",
        ),
        (
            "maximum",
            number,
            false,
            "should be less than or equal to",
            "",
        ),
        (
            "minLength",
            length,
            true,
            "should be at least",
            " chars long",
        ),
        (
            "maxLength",
            length,
            false,
            "may not be more than",
            " chars long",
        ),
        ("minItems", items, true, "should have at least", " items"),
        ("maxItems", items, false, "must have at most", " items"),
        (
            "maxProperties",
            properties,
            false,
            "must have at most",
            " properties",
        ),
    ] {
        let (Some(bound), Some(size)) = (schema[keyword].as_f64(), size) else {
            continue;
        };
        if (is_least && size < bound) || (!is_least && size > bound) {
            invalid(format!("{path} in body {words} {bound}{unit}"));
        }
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
        && !regex::Regex::new(pattern).unwrap().is_match(text)
    {
        invalid(format!("{path} in body should match '{pattern}'"));
    }
    if let Some(allowed) = schema["enum"]
        .as_array()
        .filter(|allowed| !allowed.contains(value))
    {
        found.push(format!(
            "{path}: Unsupported value: {value}: supported values: {}",
            Value::from(allowed.clone())
        ));
    }
    match value {
        Value::Object(fields) => object(schema, fields, path, found),
        Value::Array(values) => array(schema, values, path, found),
        _ => {}
    }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        Some(other) => panic!("unknown type {other}"),
        None if schema["x-kubernetes-int-or-string"] == true => {
            value.is_string() || value.is_i64() || value.is_u64()
        }
        None => true,
    }
}

fn object(schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    for key in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(key) {
            found.push(format!("{}: Required value", join(key)));
        }
    }
    // Every kind has these three fields.
    let known = |key: &str| path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&key);
    for (key, value) in fields {
        match property_schema(schema, key) {
            Some(inner) => structural(inner, value, &join(key), found),
            None if known(key) || schema["x-kubernetes-preserve-unknown-fields"] == true => {}
            None => found.push(format!("unknown field \"{}\"", join(key))),
        }
    }
}

fn array(schema: &Value, values: &[Value], path: &str, found: &mut Vec<String>) {
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (index, value) in values.iter().enumerate() {
        structural(&schema["items"], value, &format!("{path}[{index}]"), found);
        let same = |other: &Value| keys.iter().all(|key| other[key] == value[key]);
        if !keys.is_empty() && values[..index].iter().any(same) {
            found.push(format!("{path}[{index}]: Duplicate value"));
        }
    }
}
