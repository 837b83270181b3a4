//! The schema of the CRDs and their validation rules, as the API server applies them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// Similarity from 0 to 1 from which a field name counts as misspelled.
const SIMILAR: f64 = 0.75;

/// The schema of a kind. `None` if Serin has no such kind.
fn schema_of(kind: &str) -> Option<&'static Value> {
    static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
        let mut schemas = BTreeMap::new();
        for crd in serin_crds::crds() {
            let version = crd.spec.versions.first();
            let schema = version
                .and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref())
                .and_then(|schema| serde_json::to_value(schema).ok());
            schemas.extend(schema.map(|schema| (crd.spec.names.kind.clone(), schema)));
        }
        schemas
    });
    SCHEMAS.get(kind)
}

/// Unknown fields, wrong types and values out of bounds.
pub(super) fn structural_errors(object: &Value) -> Vec<String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let mut found = Vec::new();
    let Some(schema) = schema_of(kind) else {
        return vec![format!(
            "kind: {kind} is unknown; use Rollout, RolloutPolicy, AnalysisTemplate or RolloutCommand"
        )];
    };
    if version != "serin.dev/v1alpha1" {
        found.push(format!(
            "apiVersion: {version} is not supported; use serin.dev/v1alpha1"
        ));
    }
    if !object["metadata"]["name"].is_string() && !object["metadata"]["generateName"].is_string() {
        found.push("metadata.name: Required value; use the name of the service".to_owned());
    }
    value_errors(schema, object, "", &mut found);
    found
}

/// Violated validation rules.
pub(super) fn rule_errors(object: &Value) -> Vec<String> {
    let Some(schema) = object["kind"].as_str().and_then(schema_of) else {
        return Vec::new();
    };
    match kube_cel::Validator::new().validate(schema, object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors
            .iter()
            .map(|error| format!("{}: {}", error.field_path, error.message))
            .collect(),
    }
}

fn value_errors(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let field = if path.is_empty() { "the object" } else { path };
    if let Some(wanted) = wrong_type(schema, value) {
        found.push(format!("{field}: {} is not {wanted}", short(value)));
        return;
    }
    found.extend(bound_errors(schema, value, field));
    match value {
        Value::Object(fields) => object_errors(schema, fields, path, found),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                value_errors(&schema["items"], item, &format!("{path}[{index}]"), found);
            }
            duplicate_errors(schema, items, path, found);
        }
        _ => {}
    }
}

/// A value for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The type that the value should have, if it has another one.
fn wrong_type(schema: &Value, value: &Value) -> Option<&'static str> {
    let (fits, name) = match schema["type"].as_str() {
        Some("object") => (value.is_object(), "an object"),
        Some("array") => (value.is_array(), "a list"),
        Some("string") => (value.is_string(), "a string; write it in quotes"),
        Some("boolean") => (value.is_boolean(), "true or false"),
        Some("number") => (value.is_number(), "a number"),
        Some("integer") => {
            let is_whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
            (is_whole, "a whole number")
        }
        _ if schema["x-kubernetes-int-or-string"] == true => {
            let fits = value.is_string() || value.is_i64() || value.is_u64();
            (fits, "a whole number or a string")
        }
        _ => (true, ""),
    };
    (!fits).then_some(name)
}

fn bound_errors(schema: &Value, value: &Value, field: &str) -> Vec<String> {
    #[expect(
        clippy::cast_precision_loss,
        reason = "no text or list has 2^52 elements"
    )]
    let size = |count: Option<usize>| count.map(|count| count as f64);
    let number = value.as_f64();
    let length = size(value.as_str().map(|text| text.chars().count()));
    let items = size(value.as_array().map(Vec::len));
    let properties = size(value.as_object().map(Map::len));
    let bounds = [
        ("minimum", number, true, "be at least", ""),
        ("maximum", number, false, "be at most", ""),
        ("minLength", length, true, "have at least", " characters"),
        ("maxLength", length, false, "have at most", " characters"),
        ("minItems", items, true, "have at least", " items"),
        ("maxItems", items, false, "have at most", " items"),
        (
            "maxProperties",
            properties,
            false,
            "have at most",
            " fields",
        ),
    ];
    let mut errors = Vec::new();
    for (keyword, size, is_least, words, unit) in bounds {
        let (Some(bound), Some(size)) = (schema[keyword].as_f64(), size) else {
            continue;
        };
        if (is_least && size < bound) || (!is_least && size > bound) {
            errors.push(format!(
                "{field}: {} must {words} {bound}{unit}",
                short(value)
            ));
        }
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
        && let Ok(regex) = serin_crds::check::compile_regex(pattern)
        && !regex.is_match(text)
    {
        errors.push(format!("{field}: {text:?} does not match {pattern}"));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed = Value::from(allowed.clone());
        errors.push(format!("{field}: {value} is not one of {allowed}"));
    }
    errors
}

/// The schema of a field, or of the values of a map.
fn field_schema<'a>(schema: &'a Value, field: &str) -> Option<&'a Value> {
    let values = schema
        .get("additionalProperties")
        .filter(|values| values.is_object());
    schema["properties"].get(field).or(values)
}

fn object_errors(schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    let join = |field: &str| match path {
        "" => field.to_owned(),
        path => format!("{path}.{field}"),
    };
    for field in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if fields.get(field).is_none_or(Value::is_null) {
            found.push(format!("{}: Required value", join(field)));
        }
    }
    let is_common =
        |field: &str| path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&field);
    for (field, value) in fields {
        match field_schema(schema, field) {
            // The API server drops null, because no field is nullable.
            Some(_) if value.is_null() => {
                found.push(format!(
                    "{}: has no value; write one, or remove the field",
                    join(field)
                ));
            }
            Some(inner) => value_errors(inner, value, &join(field), found),
            None if is_common(field) || schema["x-kubernetes-preserve-unknown-fields"] == true => {}
            None => found.push(format!(
                "{}: unknown field; {}",
                join(field),
                suggestion(schema, field)
            )),
        }
    }
}

/// The fields that may be meant by an unknown one.
fn suggestion(schema: &Value, field: &str) -> String {
    let known = schema["properties"]
        .as_object()
        .into_iter()
        .flat_map(Map::keys);
    let similarity =
        |known: &str| strsim::jaro_winkler(&known.to_lowercase(), &field.to_lowercase());
    let nearest = known
        .map(|known| (similarity(known), known))
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match nearest {
        Some((similarity, known)) if similarity >= SIMILAR => format!("did you mean {known}?"),
        _ => "remove it".to_owned(),
    }
}

/// Items of a list with the same key.
fn duplicate_errors(schema: &Value, items: &[Value], path: &str, found: &mut Vec<String>) {
    let keys: Vec<&str> = schema["x-kubernetes-list-map-keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if keys.is_empty() {
        return;
    }
    for (index, item) in items.iter().enumerate() {
        let is_same = |other: &Value| keys.iter().all(|key| other[key] == item[key]);
        if items[..index].iter().any(is_same) {
            let key = keys.join(", ");
            found.push(format!(
                "{path}[{index}]: an earlier item has the same {key}; use another"
            ));
        }
    }
}
