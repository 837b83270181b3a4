//! Checks and objectives: queries with their arguments, and conditions in CEL.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use serin_crds::check::{BUILT_IN_ARGS, Condition, render_query};

use crate::note::Notes;

/// Maximum number of checks, as in the schema.
const MAX_CHECKS: usize = 16;
/// Maximum number of objectives, as in the schema.
const MAX_OBJECTIVES: usize = 8;

/// The value of an argument of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    /// A fixed text.
    Text(String),
    /// An argument that every check of Serin has.
    BuiltIn(&'static str),
    /// The hash of the canary's pod template, which is a part of the names of its pods.
    CanaryHash,
    /// The hash of stable's pod template.
    StableHash,
    /// It cannot be known, for this reason.
    Unknown(String),
}

/// Arguments by name.
pub(crate) type Arguments = BTreeMap<String, Argument>;

/// `spec.analysis` in progress.
#[derive(Debug, Default)]
pub(crate) struct AnalysisDraft {
    /// The phase of the checks that are added. `None` for the whole release.
    pub phase: Option<&'static str>,
    /// The phase of requests and Jobs that are added, if `phase` is `None`.
    pub probe_phase: Option<&'static str>,
    address: Option<String>,
    bake_time: Option<String>,
    objectives: Vec<Value>,
    checks: Vec<Value>,
}

impl AnalysisDraft {
    pub fn is_empty(&self) -> bool {
        self.objectives.is_empty() && self.checks.is_empty()
    }

    /// Sets the address of Prometheus. A Rollout has one: another address is an error.
    pub fn set_address(&mut self, address: &str) -> Result<(), String> {
        let address = address.trim_end_matches('/');
        match &self.address {
            Some(first) if first != address => Err(format!(
                "a Rollout queries one Prometheus, and another metric uses {first}"
            )),
            _ => {
                self.address = Some(address.to_owned());
                Ok(())
            }
        }
    }

    /// Sets the length of the bake.
    pub fn set_bake_time(&mut self, duration: String) {
        self.bake_time = Some(duration);
    }

    /// Adds a check or an objective, and returns its name. An equal entry is not added twice.
    pub fn add(&mut self, mut entry: Map<String, Value>) -> Result<String, String> {
        let is_objective = entry.contains_key("objective");
        let is_probe = is_probe(&entry);
        let phase = self.phase.or(self.probe_phase.filter(|_| is_probe));
        if let Some(phase) = phase.filter(|_| !is_objective) {
            entry.insert("phase".to_owned(), json!(phase));
        }
        let (list, limit) = if is_objective {
            (&mut self.objectives, MAX_OBJECTIVES)
        } else {
            (&mut self.checks, MAX_CHECKS)
        };
        let wanted = entry["name"].as_str().unwrap_or_default().to_owned();
        let entry = Value::Object(entry);
        if list.contains(&entry) {
            return Ok(wanted);
        }
        if list.len() == limit {
            return Err(format!("a Rollout has at most {limit} of them"));
        }
        let used: BTreeSet<&str> = list
            .iter()
            .filter_map(|entry| entry["name"].as_str())
            .collect();
        let names = (1..=limit).map(|number| match number {
            1 => wanted.clone(),
            _ => format!("{wanted}-{number}"),
        });
        let name = names.into_iter().find(|name| !used.contains(name.as_str()));
        let name = name.unwrap_or(wanted);
        let mut entry = entry;
        entry["name"] = json!(name);
        list.push(entry);
        Ok(name)
    }

    pub fn into_value(self) -> Option<Value> {
        if self.is_empty() {
            return None;
        }
        let mut analysis = Map::new();
        if let Some(address) = self.address {
            analysis.insert("prometheus".to_owned(), json!({"address": address}));
        }
        if let Some(duration) = self.bake_time {
            analysis.insert("bakeTime".to_owned(), json!(duration));
        }
        for (field, list) in [("objectives", self.objectives), ("checks", self.checks)] {
            if !list.is_empty() {
                analysis.insert(field.to_owned(), Value::Array(list));
            }
        }
        Some(Value::Object(analysis))
    }
}

/// Whether a check is a request or a Job.
fn is_probe(entry: &Map<String, Value>) -> bool {
    entry.contains_key("http") || entry.contains_key("job")
}

/// Inserts arguments into a query. The hash of a pod template can only be a part of the name of a
/// ReplicaSet, for which Serin has an argument.
///
/// # Errors
/// Why the query cannot be expressed.
pub(crate) fn insert_into_query(
    template: &str,
    rollout: &str,
    arguments: &Arguments,
) -> Result<String, String> {
    let query = insert_arguments(template, arguments, |query, name, replica_set| {
        let prefix = format!("{rollout}-");
        if !query.ends_with(&prefix) {
            return Err(format!(
                "argument {name} is a pod template hash, which Serin does not have: select the pods \
                 by name, for example pod=~\"{{{{args.canaryReplicaSet}}}}-.*\""
            ));
        }
        query.truncate(query.len() - prefix.len());
        query.push_str(&format!("{{{{args.{replica_set}}}}}"));
        Ok(())
    })?;
    let query = query.trim().to_owned();
    let samples: BTreeMap<&str, &str> = BUILT_IN_ARGS.iter().map(|name| (*name, "x")).collect();
    render_query(&query, &samples)?;
    Ok(query)
}

/// Inserts arguments into a text that is not a query and has the built-in arguments of Serin.
///
/// # Errors
/// Why the text cannot be expressed.
pub(crate) fn insert_into_text(template: &str, arguments: &Arguments) -> Result<String, String> {
    insert_arguments(template, arguments, |_, name, _| {
        Err(format!(
            "argument {name} is a pod template hash, which Serin does not have"
        ))
    })
}

/// Inserts arguments into a text that must be fixed. `None` if an argument is not a fixed text.
pub(crate) fn insert_fixed(template: &str, arguments: &Arguments) -> Option<String> {
    let inserted = replace_placeholders(template, |text, name| match arguments.get(name) {
        Some(Argument::Text(value)) => {
            text.push_str(value);
            Ok(())
        }
        _ => Err(String::new()),
    });
    inserted.ok()
}

/// Inserts arguments into a text. Fixed values become text, as in Argo Rollouts; values that Serin
/// knows become its built-in arguments. For the hash of a pod template, `insert_hash` gets the text
/// before it, the name of the argument, and the built-in argument of its ReplicaSet.
fn insert_arguments(
    template: &str,
    arguments: &Arguments,
    insert_hash: impl Fn(&mut String, &str, &str) -> Result<(), String>,
) -> Result<String, String> {
    replace_placeholders(template, |text, name| {
        match arguments.get(name) {
            Some(Argument::Text(value)) => text.push_str(value),
            Some(Argument::BuiltIn(built_in)) => {
                text.push_str(&format!("{{{{args.{built_in}}}}}"));
            }
            Some(Argument::CanaryHash) => insert_hash(text, name, "canaryReplicaSet")?,
            Some(Argument::StableHash) => insert_hash(text, name, "stableReplicaSet")?,
            Some(Argument::Unknown(why)) => return Err(format!("argument {name}: {why}")),
            None => return Err(format!("argument {name} has no value")),
        }
        Ok(())
    })
}

/// Replaces the placeholders of a text: `{{args.NAME}}` or `{{NAME}}`. `replace` gets the text before
/// one, to which it appends, and the name.
fn replace_placeholders(
    template: &str,
    replace: impl Fn(&mut String, &str) -> Result<(), String>,
) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let (name, after) = after
            .split_once("}}")
            .ok_or_else(|| "a placeholder has no closing braces".to_owned())?;
        let name = name.trim();
        replace(&mut text, name.strip_prefix("args.").unwrap_or(name))?;
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// A condition of Argo Rollouts in CEL.
///
/// # Errors
/// Why the condition cannot be expressed.
pub(crate) fn cel_condition(text: &str) -> Result<String, String> {
    let text = text.trim().replace("len(result)", "size(result)");
    let text = text.replace(" and ", " && ").replace(" or ", " || ");
    let text = loops(&text);
    let text = index_scalars(&text);
    let text = not_a_number(&text);
    match Condition::parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("condition {text:?} is not supported: {error}")),
    }
}

/// `all(result, # > 1)` as `result.all(value, value > 1)`.
fn loops(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in [("all", "all"), ("any", "exists")] {
        let start = format!("{from}(result,");
        let Some(at) = text.find(&start) else {
            continue;
        };
        let body_at = at + start.len();
        let Some(end) = closing(&text[body_at..]) else {
            continue;
        };
        let body = text[body_at..body_at + end].trim().to_owned();
        let body = body.trim_start_matches('{').trim_end_matches('}').trim();
        let body = body.replace('#', "value");
        let tail = text[body_at + end..].to_owned();
        text = format!("{}result.{to}(value, {body}{tail}", &text[..at]);
    }
    text
}

/// The position of the bracket that closes the call whose arguments start here.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' if depth == 0 => return Some(at),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// `result < 1` of a scalar as `result[0] < 1`.
fn index_scalars(text: &str) -> String {
    let mut indexed = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("result") {
        let (before, after) = rest.split_at(at + "result".len());
        indexed.push_str(before);
        let next = after.trim_start();
        let is_compared = ["<", ">", "==", "!="]
            .iter()
            .any(|sign| next.starts_with(sign));
        if is_compared {
            indexed.push_str("[0]");
        }
        rest = after;
    }
    indexed.push_str(rest);
    indexed
}

/// `isNaN(x)` as `x != x`.
fn not_a_number(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(at) = text.find("isNaN(") {
        let body_at = at + "isNaN(".len();
        let Some(end) = closing(&text[body_at..]) else {
            break;
        };
        let body = text[body_at..body_at + end].to_owned();
        text = format!("{}({body} != {body}{}", &text[..at], &text[body_at + end..]);
    }
    text
}

/// The names of checks and objectives of one analysis, in the order of their metrics.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    pub objectives: Vec<String>,
    pub checks: Vec<String>,
    /// Checks by HTTP and by Job.
    pub probes: Vec<String>,
    /// Whether a metric could not be converted.
    pub is_incomplete: bool,
    /// Time that all measurements of the analysis take, in seconds. `None` if it is not limited.
    pub seconds: Option<f64>,
}

impl Converted {
    pub fn is_empty(&self) -> bool {
        self.objectives.is_empty() && self.checks.is_empty() && self.probes.is_empty()
    }

    /// Adds an entry to the analysis, or notes why that is impossible.
    pub fn add(
        &mut self,
        entry: Map<String, Value>,
        analysis: &mut AnalysisDraft,
        path: &str,
        notes: &mut Notes,
    ) {
        let is_objective = entry.contains_key("objective");
        let is_probe = is_probe(&entry);
        match analysis.add(entry) {
            Ok(name) if is_objective => self.objectives.push(name),
            Ok(name) if is_probe => self.probes.push(name),
            Ok(name) => self.checks.push(name),
            Err(why) => {
                self.is_incomplete = true;
                notes.lost(path, why, "combine several of them into one query");
            }
        }
    }
}

/// A duration as in Go, for example `1m30s`, in seconds.
pub(crate) fn seconds(text: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit_end] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_argo_become_cel() {
        for (argo, cel) in [
            ("result[0] >= 0.95", "result[0] >= 0.95"),
            ("result < 5", "result[0] < 5"),
            (
                "len(result) == 0 || result[0] < 0.05",
                "size(result) == 0 || result[0] < 0.05",
            ),
            (
                "isNaN(result[0]) || result[0] < 1",
                "(result[0] != result[0]) || result[0] < 1",
            ),
            ("all(result, # > 0.5)", "result.all(value, value > 0.5)"),
            (
                "all(result, {# > 0.5}) and result[0] < 2",
                "result.all(value, value > 0.5) && result[0] < 2",
            ),
        ] {
            assert_eq!(cel_condition(argo).as_deref(), Ok(cel), "{argo}");
        }
        assert!(cel_condition("result.status == 'ok'").is_err());
    }

    #[test]
    fn a_hash_is_converted_only_as_a_part_of_a_pod_name() {
        let arguments = Arguments::from([
            ("hash".to_owned(), Argument::CanaryHash),
            ("app".to_owned(), Argument::Text("shop".to_owned())),
        ]);
        let insert = |query: &str| insert_into_query(query, "shop", &arguments);
        assert_eq!(
            insert("up{pod=~\"{{args.app}}-{{ args.hash }}-.*\"}").as_deref(),
            Ok("up{pod=~\"{{args.canaryReplicaSet}}-.*\"}")
        );
        assert!(
            insert("up{hash=\"{{args.hash}}\"}")
                .unwrap_err()
                .contains("pod template hash")
        );
        assert!(
            insert("up{a=\"{{args.b}}\"}")
                .unwrap_err()
                .contains("argument b has no value")
        );
    }

    #[test]
    fn durations_are_read_as_in_go() {
        assert_eq!(seconds("1m30s"), Some(90.0));
        assert_eq!(seconds("1.5h"), Some(5_400.0));
        assert_eq!(seconds("30"), None);
        assert_eq!(seconds("5x"), None);
    }
}
