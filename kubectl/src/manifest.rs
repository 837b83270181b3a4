//! A Rollout from a YAML file: the one among the documents, checked as the controller checks it.

use std::io::Read;
use std::path::Path;

use serde_json::Value;
use serin_core::plan::Plan;
use serin_crds::RolloutSpec;
use serin_crds::names::GROUP;

use crate::exit::{Exit, Failure};

/// The version of the API that is read.
const API_VERSION: &str = "serin.dev/v1alpha1";
const WRITE_ONE: &str =
    "Name a file with a document that begins: apiVersion: serin.dev/v1alpha1, kind: Rollout.";

/// A Rollout as written, and its plan with every default filled in.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// Its namespace, where one is written.
    pub namespace: Option<String>,
    /// Its spec.
    pub spec: RolloutSpec,
    /// Its plan.
    pub plan: Plan,
}

/// Reads the Rollout of a file, or of standard input where the file is `-`.
///
/// # Errors
/// The file cannot be read, holds no Rollout or several, or the Rollout's fields that are wrong.
pub fn read(file: &Path) -> Result<Manifest, Failure> {
    let unreadable =
        |error: std::io::Error| wrong(format!("-f {}: cannot be read: {error}", file.display()));
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        text
    } else {
        std::fs::read_to_string(file).map_err(unreadable)?
    };
    parse(&text, &format!("-f {}", file.display()))
}

/// Picks the Rollout out of the documents of `text`, which came from `source`.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str, source: &str) -> Result<Manifest, Failure> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| wrong(format!("{source}: {}", yaml_trouble(&error))))?;
    let rollouts: Vec<&Value> = documents
        .iter()
        .filter(|document| is_rollout(document))
        .collect();
    let [rollout] = rollouts.as_slice() else {
        let kinds: Vec<&str> = documents
            .iter()
            .filter_map(|document| document["kind"].as_str())
            .collect();
        return Err(match rollouts.len() {
            0 if kinds.is_empty() => {
                wrong(format!("{source}: there is no Rollout in it")).hint(WRITE_ONE)
            }
            0 => wrong(format!(
                "{source}: there is no Rollout in it, only {}",
                kinds.join(", ")
            ))
            .hint(WRITE_ONE),
            several => wrong(format!(
                "{source}: there are {several} Rollouts in it; keep the one that is meant"
            )),
        });
    };
    of_object(rollout, source)
}

/// Takes a Rollout that came from `source`.
///
/// # Errors
/// Its fields that are wrong.
pub fn of_object(rollout: &Value, source: &str) -> Result<Manifest, Failure> {
    let name = match &rollout["metadata"]["name"] {
        Value::String(name) if !name.is_empty() => name.clone(),
        Value::Null | Value::String(_) => {
            return Err(wrong(format!(
                "{source}: the Rollout has no metadata.name; write one"
            )));
        }
        other => {
            let fix = format!("write it in quotes: name: \"{other}\"");
            return Err(wrong(format!(
                "{source}: metadata.name: {other} is not a text; {fix}"
            )));
        }
    };
    let version = rollout["apiVersion"].as_str().unwrap_or_default();
    if version != API_VERSION {
        return Err(wrong(format!(
            "{source}: apiVersion: {version} is not known here; write {API_VERSION}"
        )));
    }
    if !rollout["spec"].is_object() {
        return Err(wrong(format!(
            "{source}: Rollout {name}: spec: it has no fields; write them as in examples/quickstart.yaml"
        )));
    }
    let refused = |field: &str, why: &str| wrong(format!("{source}: Rollout {name}: {field}{why}"));
    let spec: RolloutSpec =
        serde_path_to_error::deserialize(&rollout["spec"]).map_err(|error| {
            let path = error.path().to_string();
            let path = if path == "." {
                "spec".to_owned()
            } else {
                format!("spec.{path}")
            };
            refused(&format!("{path}: "), &error.inner().to_string())
        })?;
    let known = serde_json::to_value(&spec).unwrap_or_default();
    if let Some(path) = unknown_field(&rollout["spec"], &known, "spec") {
        return Err(refused(
            &format!("{path}: "),
            "unknown field; correct its name, or remove it",
        ));
    }
    let plan = spec.plan(&name).map_err(|errors| {
        let told = wrong(format!("{source}: Rollout {name} is not valid"));
        errors
            .iter()
            .fold(told, |told, error| told.hint(error.to_string()))
    })?;
    let namespace = rollout["metadata"]["namespace"]
        .as_str()
        .map(ToOwned::to_owned);
    Ok(Manifest {
        name,
        namespace,
        spec,
        plan,
    })
}

/// What is wrong with a text as YAML, with its line, in words for whoever wrote it.
pub fn yaml_trouble(error: &serde_saphyr::Error) -> String {
    let at = error
        .location()
        .map_or_else(String::new, |at| format!("line {}: ", at.line()));
    let told = error
        .without_snippet()
        .render_with_formatter(&serde_saphyr::UserMessageFormatter);
    // It ends with the place, which is told already.
    let why = told
        .rsplit_once(" at line ")
        .map_or(told.as_str(), |(why, _)| why);
    format!("{at}not readable as YAML: {why}")
}

fn wrong(message: String) -> Failure {
    Failure::new(Exit::Usage, message)
}

fn is_rollout(document: &Value) -> bool {
    let is_ours = document["apiVersion"]
        .as_str()
        .is_some_and(|version| version.split('/').next() == Some(GROUP));
    is_ours && document["kind"] == "Rollout"
}

/// The first field that was written and not taken in.
fn unknown_field(written: &Value, known: &Value, path: &str) -> Option<String> {
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => {
            written.iter().find_map(|(field, value)| {
                let path = format!("{path}.{field}");
                match known.get(field) {
                    Some(known) => unknown_field(value, known, &path),
                    // What is null is as if it were not written, and so is what is empty, which the
                    // spec's own check tells where it matters.
                    None => (!is_nothing(value)).then_some(path),
                }
            })
        }
        (Value::Array(written), Value::Array(known)) => written
            .iter()
            .zip(known)
            .enumerate()
            .find_map(|(index, (written, known))| {
                unknown_field(written, known, &format!("{path}[{index}]"))
            }),
        _ => None,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLLOUT: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop}
---
apiVersion: serin.dev/v1alpha1
kind: Rollout
metadata: {name: shop, namespace: market}
spec:
  selector: {matchLabels: {app: shop}}
  strategy: {canary: {trafficRouting: {gatewayAPI: {httpRoute: shop}}}}
  analysis: {objectives: [{name: availability, objective: 99.9, indicator: traefik}]}
  template: {metadata: {labels: {app: shop}}, spec: {containers: [{name: c, image: 'i:1'}]}}
";

    fn refusal(from: &str, to: &str) -> String {
        assert!(ROLLOUT.contains(from));
        parse(&ROLLOUT.replace(from, to), "-f shop.yaml")
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_rollout_is_picked_from_several_documents() {
        let manifest = parse(ROLLOUT, "-f shop.yaml").unwrap();
        assert_eq!(
            (manifest.name.as_str(), manifest.namespace.as_deref()),
            ("shop", Some("market"))
        );
        assert!(manifest.plan.routing().is_some());
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field_with_the_fix() {
        let invalid = refusal("objective: 99.9", "objective: 100");
        assert!(
            invalid.contains("spec.analysis.objectives[0].objective: Invalid value: 100"),
            "{invalid}"
        );
        let unknown = refusal("indicator: traefik", "indicator: traefik, windw: 7d");
        assert!(
            unknown.contains("spec.analysis.objectives[0].windw: unknown field"),
            "{unknown}"
        );
        let kind = refusal("objective: 99.9", "objective: much");
        assert!(
            kind.contains("spec.analysis.objectives[0].objective: invalid type"),
            "{kind}"
        );
        let none = refusal("kind: Rollout", "kind: Rolout");
        assert!(
            none.contains("no Rollout in it, only Service, Rolout"),
            "{none}"
        );
        let yaml = refusal("kind: Service", "kind: [Service");
        assert!(
            yaml.contains("-f shop.yaml: line ") && yaml.contains("not readable as YAML"),
            "{yaml}"
        );
        let several = parse(&format!("{ROLLOUT}---{ROLLOUT}"), "-f shop.yaml")
            .unwrap_err()
            .to_string();
        assert!(several.contains("2 Rollouts"), "{several}");
        let version = refusal("serin.dev/v1alpha1", "serin.dev/v9");
        assert!(
            version.contains("apiVersion: serin.dev/v9")
                && version.contains("write serin.dev/v1alpha1"),
            "{version}"
        );
        let name = refusal("metadata: {name: shop, ", "metadata: {name: 7, ");
        assert!(
            name.contains("metadata.name: 7 is not a text") && name.contains("\"7\""),
            "{name}"
        );
        let nothing = refusal(
            "objectives: [{name: availability, objective: 99.9, indicator: traefik}]",
            "objectives: []",
        );
        assert!(
            nothing.contains("spec.analysis.objectives: Required value"),
            "{nothing}"
        );
        let empty = parse(
            "apiVersion: serin.dev/v1alpha1\nkind: Rollout\nmetadata: {name: shop}\n",
            "-f shop.yaml",
        );
        assert!(
            empty
                .unwrap_err()
                .to_string()
                .contains("spec: it has no fields")
        );
        for no_rollout in ["", "- a", "text"] {
            let none = parse(no_rollout, "-f shop.yaml").unwrap_err().to_string();
            assert!(
                none.contains("no Rollout in it") && none.contains("kind: Rollout"),
                "{none}"
            );
        }
    }

    #[test]
    fn what_is_no_yaml_is_told_to_its_author_and_not_to_a_programmer() {
        for (from, to) in [
            ("name: shop}", "name: .nan}"),
            ("kind: Service", "kind: Service\nkind: Service"),
            ("kind: Service", "kind: {"),
        ] {
            let told = refusal(from, to);
            assert!(
                told.contains("-f shop.yaml: line ")
                    && !told.contains("error: ")
                    && !told.contains("Policy"),
                "{told}"
            );
        }
    }
}
