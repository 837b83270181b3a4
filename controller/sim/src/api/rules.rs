//! The few validations of the real API server that a controller's behaviour depends on.

use serde_json::Value;

use super::failure::Failure;
use super::kinds::Kind;
use super::metadata::{field, finalizers};
use super::selector::Selector;

/// Refuses what the API server would refuse.
pub(crate) fn check(kind: &Kind, object: &Value, current: Option<&Value>) -> Result<(), Failure> {
    let refuse = |problem: &str| Err(Failure::invalid(kind, field(object, "name"), problem));
    if !is_dns_name(field(object, "name")) {
        return refuse(
            "metadata.name: Invalid value: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
             characters, '-' or '.', and must start and end with an alphanumeric character",
        );
    }
    if let Some(current) = current {
        let new = finalizers(object).iter().find(|finalizer| !finalizers(current).contains(finalizer));
        if let Some(new) = new
            && !field(current, "deletionTimestamp").is_empty()
        {
            return refuse(&format!(
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                 new finalizers []string{{{new}}}"
            ));
        }
    }
    match kind.resource().as_str() {
        "replicasets.apps" | "deployments.apps" => check_workload(kind, object, current),
        "pods" => match template_problem(&object["spec"], "spec") {
            Some(problem) => refuse(&problem),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn check_workload(kind: &Kind, object: &Value, current: Option<&Value>) -> Result<(), Failure> {
    let refuse = |problem: &str| Err(Failure::invalid(kind, field(object, "name"), problem));
    let spec = &object["spec"];
    if spec["replicas"].as_i64().is_some_and(|replicas| replicas < 0) {
        return refuse("spec.replicas: Invalid value: -1: must be greater than or equal to 0");
    }
    let wanted = &spec["selector"]["matchLabels"];
    if wanted.as_object().is_none_or(serde_json::Map::is_empty) && spec["selector"]["matchExpressions"].is_null() {
        return refuse("spec.selector: Required value");
    }
    if !Selector::from_labels(wanted).matches(&spec["template"]) {
        return refuse("spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`");
    }
    if current.is_some_and(|current| current["spec"]["selector"] != spec["selector"]) {
        return refuse("spec.selector: Invalid value: field is immutable");
    }
    match template_problem(&spec["template"]["spec"], "spec.template.spec") {
        Some(problem) => refuse(&problem),
        None => Ok(()),
    }
}

fn template_problem(spec: &Value, at: &str) -> Option<String> {
    let containers = spec["containers"].as_array().map_or(&[][..], Vec::as_slice);
    if containers.is_empty() {
        return Some(format!("{at}.containers: Required value"));
    }
    containers.iter().enumerate().find_map(|(index, container)| {
        let missing = ["name", "image"].into_iter().find(|name| container[name].as_str().is_none_or(str::is_empty))?;
        Some(format!("{at}.containers[{index}].{missing}: Required value"))
    })
}

fn is_dns_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let whole = |byte: u8| inner(byte) || byte == b'-' || byte == b'.' || byte == b':';
    name.len() <= 253
        && name.bytes().all(whole)
        && name.bytes().next().is_some_and(inner)
        && name.bytes().last().is_some_and(inner)
}
