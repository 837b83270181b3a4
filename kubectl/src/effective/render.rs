//! The text of an effective spec: one line for each value, with its source.

use serde_json::{Map, Value};
use serin_crds::RolloutSpec;

use super::EffectiveReport;

/// Maximum width of a value in a line, in characters.
const MAX_VALUE: usize = 60;

/// The parts of a spec that policies contribute to.
pub(super) fn parts(spec: &RolloutSpec) -> Value {
    let mut parts = Map::new();
    let whole = [
        (
            "progressDeadlineSeconds",
            serde_json::to_value(spec.progress_deadline_seconds),
        ),
        (
            "progressDeadlineAbort",
            serde_json::to_value(spec.progress_deadline_abort),
        ),
        (
            "rollbackWindow",
            serde_json::to_value(&spec.rollback_window),
        ),
        ("strategy", serde_json::to_value(&spec.strategy)),
        ("analysis", serde_json::to_value(&spec.analysis)),
    ];
    for (name, value) in whole {
        let value = value.unwrap_or_default();
        if !value.is_null() {
            parts.insert(name.to_owned(), value);
        }
    }
    Value::Object(parts)
}

/// The report as text.
pub(super) fn render(report: &EffectiveReport) -> String {
    let mut text = format!("Rollout {}\n", report.rollout);
    let policies = match report.policies.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    text.push_str(&format!("RolloutPolicies: {policies}\n"));
    for problem in &report.problems {
        text.push_str(&format!("Problem: {problem}\n"));
    }
    for note in &report.notes {
        text.push_str(&format!("Note: {note}\n"));
    }
    text.push('\n');
    let rows: Vec<(String, String, &str)> = report
        .origins
        .iter()
        .map(|origin| {
            let value = value_at(&report.spec, &origin.path).map(short);
            (
                origin.path.clone(),
                value.unwrap_or_default(),
                origin.source.as_str(),
            )
        })
        .collect();
    let width = |of: fn(&(String, String, &str)) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let path = width(|row| row.0.chars().count());
    let value = width(|row| row.1.chars().count());
    for (name, shown, source) in &rows {
        text.push_str(&format!("{name:path$}  {shown:value$}  {source}\n"));
    }
    let guardrails = serde_json::to_value(&report.guardrails).unwrap_or_default();
    if !report.guardrail_origins.is_empty() {
        text.push_str("\nGuardrails\n");
    }
    for (name, policy) in &report.guardrail_origins {
        let mode = match name.split_once('/') {
            Some((list, name)) => guardrails[list]
                .as_array()
                .into_iter()
                .flatten()
                .find(|entry| entry["name"] == name)
                .map_or(&Value::Null, |entry| &entry["mode"]),
            None => &guardrails[name]["mode"],
        };
        let mode = mode.as_str().unwrap_or("Off");
        text.push_str(&format!("  {name}: {mode}  RolloutPolicy {policy}\n"));
    }
    text
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// The value at a path such as `spec.analysis.objectives[http].objective`.
fn value_at<'a>(spec: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = spec;
    let mut rest = path.strip_prefix("spec.")?;
    while !rest.is_empty() {
        // The name of an entry may contain dots.
        let (field, after) = match rest.find(['.', '[']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        value = value.get(field)?;
        rest = after;
        if let Some(entry) = rest.strip_prefix('[') {
            let (name, after) = entry.split_once(']')?;
            value = value.as_array()?.iter().find(|one| one["name"] == name)?;
            rest = after;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    Some(value)
}
