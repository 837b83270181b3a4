//! Fills the fields that a Rollout leaves out with the defaults of its policies.

use serde_json::Value;

use crate::document::{CHECKS, Fields, OBJECTIVES, at, entry_name, object_at, remove_fields};
use crate::source::{Origins, Source};

const CANARY: &[&str] = &["strategy", "canary"];
const ROUTER: &[&str] = &["strategy", "canary", "trafficRouting"];
const STRATEGY: &[&str] = &["strategy"];
const BLUE_GREEN: &[&str] = &["strategy", "blueGreen"];
const PROMETHEUS: &[&str] = &["analysis", "prometheus"];
const ANALYSIS: &[&str] = &["analysis"];

/// Fields of an objective that say which requests are counted, and which of them are bad.
pub(crate) const COUNTER_FIELDS: [&str; 5] = [
    "indicator",
    "counters",
    "indicatorRef",
    "latency",
    "endpointLabel",
];
/// Of them, the sources, of which an objective has one.
pub(crate) const SOURCE_FIELDS: [&str; 3] = ["indicator", "counters", "indicatorRef"];
/// Fields of an entry that refer to a definition.
pub(crate) const REFERENCE_FIELDS: [&str; 3] = ["ref", "analysisTemplate", "parameters"];

/// Fills the fields of `target` that are missing with those of `defaults`. A list is one value, as
/// far as its entries have no names.
pub(crate) fn fill(
    target: &mut Fields,
    defaults: &Fields,
    path: &str,
    source: &Source,
    origins: &mut Origins,
) {
    for (name, value) in defaults {
        let path = format!("{path}.{name}");
        match (target.get_mut(name), value) {
            (None, _) => {
                record(origins, &path, value, source);
                target.insert(name.clone(), value.clone());
            }
            (Some(Value::Object(inner)), Value::Object(defaults)) => {
                fill(inner, defaults, &path, source, origins);
            }
            (Some(Value::Array(items)), Value::Array(defaults)) if is_named(items, defaults) => {
                fill_named(items, defaults, &path, source, origins);
            }
            (Some(_), _) => {}
        }
    }
}

/// Whether all entries of both lists have names.
fn is_named(items: &[Value], defaults: &[Value]) -> bool {
    let has_name = |item: &Value| item["name"].is_string();
    !defaults.is_empty() && items.iter().chain(defaults).all(has_name)
}

/// Adds the entries with other names.
fn fill_named(
    items: &mut Vec<Value>,
    defaults: &[Value],
    path: &str,
    source: &Source,
    origins: &mut Origins,
) {
    for entry in defaults {
        if items.iter().all(|item| item["name"] != entry["name"]) {
            record(origins, path, entry, source);
            items.push(entry.clone());
        }
    }
}

/// Records the source of every value in `value`.
pub(crate) fn record(origins: &mut Origins, path: &str, value: &Value, source: &Source) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                record(origins, &format!("{path}.{name}"), inner, source);
            }
        }
        _ => {
            origins
                .entry(path.to_owned())
                .or_insert_with(|| source.clone());
        }
    }
}

/// Records the source of every value of a document, with the names of objectives and checks.
pub(crate) fn record_document(origins: &mut Origins, document: &Fields, source: &Source) {
    for (name, value) in document {
        let path = format!("spec.{name}");
        let Some(analysis) = value.as_object().filter(|_| name == "analysis") else {
            record(origins, &path, value, source);
            continue;
        };
        for (field, value) in analysis {
            let path = format!("{path}.{field}");
            match value {
                Value::Array(entries) if [OBJECTIVES, CHECKS].contains(&field.as_str()) => {
                    for entry in entries.iter().filter_map(Value::as_object) {
                        let path = format!("{path}[{}]", entry_name(entry));
                        record(origins, &path, &Value::Object(entry.clone()), source);
                    }
                }
                _ => record(origins, &path, value, source),
            }
        }
    }
}

/// Removes the defaults that do not fit to what `target` has: some fields exclude each other, and
/// some need a router.
pub(crate) fn remove_unfitting(defaults: &mut Fields, target: &Fields) {
    if let Some(blue_green) = at(target, BLUE_GREEN) {
        remove_fields(defaults, STRATEGY, &["canary"]);
        // The two sides never have traffic at the same time.
        remove_fields(defaults, ANALYSIS, &["baseline"]);
        if blue_green.get("trafficRouting").is_none() {
            remove_fields(defaults, BLUE_GREEN, &["trafficRouting"]);
        }
    } else {
        remove_fields(defaults, STRATEGY, &["blueGreen"]);
        remove_unfitting_of_canary(defaults, target);
    }
    if at(target, PROMETHEUS).is_some_and(|prometheus| prometheus.get("address").is_some()) {
        // The credentials of one address must not be sent to another.
        let excluded = ["address", "headersFrom", "allowInsecureHeaders", "tls"];
        remove_fields(defaults, PROMETHEUS, &excluded);
    }
}

fn remove_unfitting_of_canary(defaults: &mut Fields, target: &Fields) {
    let canary = at(target, CANARY);
    let has = |field: &str| canary.is_some_and(|canary| canary.get(field).is_some());
    if has("steps") || has("pace") {
        // A pace is filled field by field, but never beside steps.
        let excluded: &[&str] = if has("steps") {
            &["steps", "pace"]
        } else {
            &["steps"]
        };
        remove_fields(defaults, CANARY, excluded);
    }
    if at(target, ROUTER).is_none() {
        let excluded = [
            "trafficRouting",
            "pace",
            "dynamicStableScale",
            "minPodsPerReplicaSet",
        ];
        remove_fields(defaults, CANARY, &excluded);
        remove_fields(defaults, ANALYSIS, &["bakeTime", "baseline"]);
    }
    if canary.is_some_and(|canary| canary["dynamicStableScale"] == true) {
        // It would remove the pods of a baseline.
        remove_fields(defaults, ANALYSIS, &["baseline"]);
    }
}

/// Removes `objectives` or `checks` from an analysis.
pub(crate) fn take_entries(document: &mut Fields, list: &str) -> Vec<Fields> {
    let Some(Value::Object(analysis)) = document.get_mut("analysis") else {
        return Vec::new();
    };
    let entries = analysis.remove(list);
    let Some(Value::Array(entries)) = entries else {
        return Vec::new();
    };
    let fields = entries.into_iter().filter_map(|entry| match entry {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    fields.collect()
}

/// Puts the entries of a list back. An empty list is left out.
pub(crate) fn put_entries(document: &mut Fields, list: &str, entries: Vec<Fields>) {
    if entries.is_empty() {
        return;
    }
    let entries = entries.into_iter().map(Value::Object).collect();
    if let Some(analysis) = object_at(document, ANALYSIS) {
        analysis.insert(list.to_owned(), Value::Array(entries));
    }
}

/// Adds the entries of a policy to those of the Rollout and of policies with a higher precedence.
/// Of entries with the same name, the first one applies as a whole. Only if both refer to the same
/// definition are they merged field by field.
pub(crate) fn fill_entries(
    entries: &mut Vec<Fields>,
    defaults: &[Fields],
    path: &str,
    source: &Source,
    origins: &mut Origins,
) {
    for default in defaults {
        let name = entry_name(default);
        let path = format!("{path}[{name}]");
        let same = entries.iter_mut().find(|entry| entry_name(entry) == name);
        let Some(entry) = same else {
            record(origins, &path, &Value::Object(default.clone()), source);
            entries.push(default.clone());
            continue;
        };
        let is_same = |field: &str| entry.get(field) == default.get(field);
        let is_reference = entry.contains_key("ref");
        if !is_reference || !is_same("ref") || !is_same("analysisTemplate") {
            continue;
        }
        let mut default = default.clone();
        default.remove("name");
        remove_replaced_counters(&mut default, entry);
        fill(entry, &default, &path, source, origins);
    }
}

/// Removes the counters of an objective that another source replaces.
pub(crate) fn remove_replaced_counters(base: &mut Fields, upper: &Fields) {
    if SOURCE_FIELDS.iter().any(|field| upper.contains_key(*field)) {
        for field in COUNTER_FIELDS {
            base.remove(field);
        }
    }
}
