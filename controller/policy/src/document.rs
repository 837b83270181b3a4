//! The parts of a spec that policies contribute to, as JSON.

use serde_json::{Map, Value};
use serin_crds::RolloutSpec;
use serin_crds::policy_defaults::PolicyDefaults;

/// JSON fields.
pub(crate) type Fields = Map<String, Value>;

/// Lists whose entries are merged by name.
pub(crate) const OBJECTIVES: &str = "objectives";
/// See [`OBJECTIVES`].
pub(crate) const CHECKS: &str = "checks";

/// The parts of a Rollout's spec that have defaults in a policy.
pub(crate) fn document_of(spec: &RolloutSpec) -> Fields {
    let mut fields = Fields::new();
    let mut add = |name: &str, value: Option<Value>| {
        let value = value.filter(|value| !value.is_null());
        fields.extend(value.map(|value| (name.to_owned(), value)));
    };
    let deadline = spec.progress_deadline_seconds;
    add("progressDeadlineSeconds", deadline.map(Value::from));
    let aborts = spec.progress_deadline_abort;
    add("progressDeadlineAbort", aborts.map(Value::from));
    add(
        "rollbackWindow",
        serde_json::to_value(&spec.rollback_window).ok(),
    );
    add("strategy", serde_json::to_value(&spec.strategy).ok());
    add("analysis", serde_json::to_value(&spec.analysis).ok());
    fields
}

/// The spec with the parts of a document.
///
/// # Errors
/// A value has another type than its field.
pub(crate) fn spec_with(
    spec: &RolloutSpec,
    mut document: Fields,
) -> Result<RolloutSpec, serde_json::Error> {
    let mut take = |name: &str| document.remove(name).unwrap_or_default();
    Ok(RolloutSpec {
        progress_deadline_seconds: serde_json::from_value(take("progressDeadlineSeconds"))?,
        progress_deadline_abort: serde_json::from_value(take("progressDeadlineAbort"))?,
        rollback_window: serde_json::from_value(take("rollbackWindow"))?,
        strategy: serde_json::from_value(take("strategy"))?,
        analysis: serde_json::from_value(take("analysis"))?,
        ..spec.clone()
    })
}

/// The defaults of a policy.
pub(crate) fn defaults_of(defaults: &PolicyDefaults) -> Fields {
    object(serde_json::to_value(defaults).unwrap_or_default())
}

/// The fields of an object. None if it is another value.
pub(crate) fn object(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}

/// The field at a path of objects.
pub(crate) fn at<'a>(fields: &'a Fields, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = fields.get(*first)?;
    if rest.is_empty() {
        return Some(value);
    }
    at(value.as_object()?, rest)
}

/// The object at a path. Objects on the way are created if they are missing.
pub(crate) fn object_at<'a>(fields: &'a mut Fields, path: &[&str]) -> Option<&'a mut Fields> {
    let Some((first, rest)) = path.split_first() else {
        return Some(fields);
    };
    let value = fields
        .entry((*first).to_owned())
        .or_insert_with(|| Value::Object(Fields::new()));
    object_at(value.as_object_mut()?, rest)
}

/// Removes fields of the object at a path, and the objects that are empty afterward.
pub(crate) fn remove_fields(fields: &mut Fields, path: &[&str], names: &[&str]) {
    let Some((first, rest)) = path.split_first() else {
        for name in names {
            fields.remove(*name);
        }
        return;
    };
    let Some(Value::Object(inner)) = fields.get_mut(*first) else {
        return;
    };
    remove_fields(inner, rest, names);
    if inner.is_empty() {
        fields.remove(*first);
    }
}

/// The name of an entry of `objectives` or `checks`: its own, or that of the definition that it
/// refers to.
pub(crate) fn entry_name(entry: &Fields) -> String {
    let text = |field: &str| entry.get(field).and_then(Value::as_str);
    text("name")
        .or_else(|| text("ref"))
        .unwrap_or_default()
        .to_owned()
}
