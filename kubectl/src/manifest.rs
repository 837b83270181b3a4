//! Reads a Rollout from a YAML file and validates it as the controller does.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use serin_core::plan::Plan;
use serin_crds::RolloutSpec;
use serin_crds::names::GROUP;

use crate::connect::Connection;
use crate::display_text::{printable, printable_object};
use crate::effective::{PolicySet, policies_of};
use crate::exit::{CliError, Exit};

/// The supported API version.
const API_VERSION: &str = "serin.dev/v1alpha1";
const MANIFEST_HINT: &str =
    "Use a file with a document that starts with apiVersion: serin.dev/v1alpha1 and kind: Rollout.";

/// A Rollout and its plan with all defaults.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// Its namespace, if set.
    pub namespace: Option<String>,
    /// Its spec, with what policies contribute.
    pub spec: RolloutSpec,
    /// Its plan.
    pub plan: Plan,
}

/// Reads the Rollout from a file, or from standard input if the file is `-`. RolloutPolicies and
/// AnalysisTemplates of the same file and of `policies` contribute to its spec.
///
/// # Errors
/// Fails if a file cannot be read, the file does not contain exactly one Rollout, or the Rollout is
/// invalid or cannot be resolved.
pub fn read(file: &Path, policies: &[PathBuf]) -> Result<Manifest, CliError> {
    let policies = PolicySet::read(policies)?;
    let unreadable = |error: std::io::Error| {
        usage_error(format!("-f {}: cannot be read: {error}", file.display()))
    };
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        text
    } else {
        std::fs::read_to_string(file).map_err(unreadable)?
    };
    parse_with(&text, &format!("-f {}", file.display()), policies)
}

/// Parses the only Rollout among the documents of `text`. `source` is the start of each error.
///
/// # Errors
/// Same as [`read`].
pub fn parse(text: &str, source: &str) -> Result<Manifest, CliError> {
    parse_with(text, source, PolicySet::default())
}

fn parse_with(text: &str, source: &str, mut policies: PolicySet) -> Result<Manifest, CliError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| usage_error(format!("{source}: {}", yaml_error(&error))))?;
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
                usage_error(format!("{source}: contains no Rollout")).hint(MANIFEST_HINT)
            }
            0 => usage_error(format!(
                "{source}: contains no Rollout, only {}",
                kinds.join(", ")
            ))
            .hint(MANIFEST_HINT),
            several => usage_error(format!("{source}: contains {several} Rollouts; keep one")),
        });
    };
    for document in &documents {
        policies.add(document);
    }
    from_object(rollout, source, &policies)
}

/// Validates a Rollout of the cluster with the policies of these files, or with those of the cluster
/// if there are no files. Writes to `aside` what could not be read.
///
/// # Errors
/// Returns the invalid fields, or the file that cannot be read.
pub async fn of_cluster(
    connection: &Connection,
    rollout: &Value,
    policies: &[PathBuf],
    aside: &mut (dyn Write + Send),
) -> Result<Manifest, CliError> {
    let (policies, notes) = policies_of(connection, policies).await?;
    for note in notes {
        writeln!(aside, "{}", printable(&note))?;
    }
    let name = rollout["metadata"]["name"].as_str().unwrap_or_default();
    from_object(rollout, &format!("Rollout {name}"), &policies)
}

/// Validates a Rollout object with what `policies` contribute. `source` is the start of each error.
///
/// # Errors
/// Returns the invalid fields.
pub fn from_object(
    rollout: &Value,
    source: &str,
    policies: &PolicySet,
) -> Result<Manifest, CliError> {
    // Whoever wrote the file chose its texts, and others see them on their terminals.
    let rollout = &printable_object(rollout)
        .map_err(|error| usage_error(format!("{source}: cannot be read: {error}")))?;
    let name = match &rollout["metadata"]["name"] {
        Value::String(name) if !name.is_empty() => name.clone(),
        Value::Null | Value::String(_) => {
            return Err(usage_error(format!(
                "{source}: the Rollout has no metadata.name; write one"
            )));
        }
        other => {
            let fix = format!("write it in quotes: name: \"{other}\"");
            return Err(usage_error(format!(
                "{source}: metadata.name: {other} is not a string; {fix}"
            )));
        }
    };
    let written = written_spec(rollout, &name, source)?;
    let spec = effective_spec(rollout, written, source, policies)?;
    let plan = spec.plan(&name).map_err(|errors| {
        let invalid = usage_error(format!("{source}: Rollout {name} is invalid"));
        errors
            .iter()
            .fold(invalid, |invalid, error| invalid.hint(error.to_string()))
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

/// The spec as it is written.
fn written_spec(rollout: &Value, name: &str, source: &str) -> Result<RolloutSpec, CliError> {
    let version = rollout["apiVersion"].as_str().unwrap_or_default();
    if version != API_VERSION {
        return Err(usage_error(format!(
            "{source}: apiVersion: {version} is not supported; write {API_VERSION}"
        )));
    }
    if !rollout["spec"].is_object() {
        return Err(usage_error(format!(
            "{source}: Rollout {name}: spec: is empty; see examples/quickstart.yaml"
        )));
    }
    let refused =
        |field: &str, why: &str| usage_error(format!("{source}: Rollout {name}: {field}{why}"));
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
    Ok(spec)
}

/// The spec with what policies contribute. Their texts are made printable, too.
fn effective_spec(
    rollout: &Value,
    written: RolloutSpec,
    source: &str,
    policies: &PolicySet,
) -> Result<RolloutSpec, CliError> {
    if policies.is_empty() {
        return Ok(written);
    }
    let name = rollout["metadata"]["name"].as_str().unwrap_or_default();
    let effective = policies.resolve(rollout, &written);
    if !effective.problems.is_empty() {
        let message = format!("{source}: Rollout {name} cannot be resolved with its policies");
        let problems = effective.problems.iter().map(ToString::to_string);
        return Err(problems.fold(usage_error(message), |error, problem| {
            error.hint(printable(&problem))
        }));
    }
    let unreadable = |error: serde_json::Error| {
        usage_error(format!(
            "{source}: Rollout {name}: its effective spec cannot be read: {error}"
        ))
    };
    let mut object = printable_object(&json!({"spec": effective.spec})).map_err(unreadable)?;
    serde_json::from_value(object["spec"].take()).map_err(unreadable)
}

/// A YAML syntax error with its line, for the author of the file.
pub fn yaml_error(error: &serde_saphyr::Error) -> String {
    let at = error
        .location()
        .map_or_else(String::new, |at| format!("line {}: ", at.line()));
    let message = error
        .without_snippet()
        .render_with_formatter(&serde_saphyr::UserMessageFormatter);
    // The message ends with the location, which is already part of the result.
    let why = message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(why, _)| why);
    format!("{at}invalid YAML: {why}")
}

fn usage_error(message: String) -> CliError {
    CliError::new(Exit::Usage, message)
}

fn is_rollout(document: &Value) -> bool {
    let is_ours = document["apiVersion"]
        .as_str()
        .is_some_and(|version| version.split('/').next() == Some(GROUP));
    is_ours && document["kind"] == "Rollout"
}

/// The first field that was written but is unknown to the schema.
fn unknown_field(written: &Value, known: &Value, path: &str) -> Option<String> {
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => {
            written.iter().find_map(|(field, value)| {
                let path = format!("{path}.{field}");
                match known.get(field) {
                    Some(known) => unknown_field(value, known, &path),
                    // A null or empty value counts as absent; the validation of the spec reports it
                    // if it matters.
                    None => (!is_empty_value(value)).then_some(path),
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

fn is_empty_value(value: &Value) -> bool {
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
    fn control_characters_of_a_file_are_shown_and_not_executed() {
        let hostile = r#"{name: "x\e[2J", namespace: "a\nb"}"#;
        let text = ROLLOUT
            .replace("{name: shop, namespace: market}", hostile)
            .replace(
                "{canary: {",
                "{canary: {stableService: a, canaryService: b, ",
            );
        let manifest = parse(&text, "-f a.yaml").unwrap();
        assert_eq!(manifest.name, "x^[[2J");
        assert_eq!(manifest.namespace.as_deref(), Some("a b"));
    }

    #[test]
    fn errors_name_the_field_and_the_fix() {
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
            none.contains("contains no Rollout, only Service, Rolout"),
            "{none}"
        );
        let yaml = refusal("kind: Service", "kind: [Service");
        assert!(
            yaml.contains("-f shop.yaml: line ") && yaml.contains("invalid YAML"),
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
            name.contains("metadata.name: 7 is not a string") && name.contains("\"7\""),
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
        assert!(empty.unwrap_err().to_string().contains("spec: is empty"));
        for no_rollout in ["", "- a", "text"] {
            let none = parse(no_rollout, "-f shop.yaml").unwrap_err().to_string();
            assert!(
                none.contains("contains no Rollout") && none.contains("kind: Rollout"),
                "{none}"
            );
        }
    }

    #[test]
    fn yaml_errors_have_a_line_and_no_internal_names() {
        for (from, to) in [
            ("name: shop}", "name: .nan}"),
            ("kind: Service", "kind: Service\nkind: Service"),
            ("kind: Service", "kind: {"),
        ] {
            let message = refusal(from, to);
            assert!(
                message.contains("-f shop.yaml: line ")
                    && !message.contains("error: ")
                    && !message.contains("Policy"),
                "{message}"
            );
        }
    }
}
