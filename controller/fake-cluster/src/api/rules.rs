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
        let new = finalizers(object)
            .iter()
            .find(|finalizer| !finalizers(current).contains(finalizer));
        if let Some(new) = new
            && !field(current, "deletionTimestamp").is_empty()
        {
            let problem = format!(
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                 new finalizers []string{{{new}}}"
            );
            return Err(Failure::invalid(kind, field(object, "name"), &problem).twice());
        }
    }
    match kind.resource().as_str() {
        "replicasets.apps" | "deployments.apps" => check_workload(kind, object, current),
        "pods" => refuse_template(kind, object, &object["spec"], "spec"),
        _ => Ok(()),
    }
}

fn check_workload(kind: &Kind, object: &Value, current: Option<&Value>) -> Result<(), Failure> {
    let refuse = |problem: &str| Err(Failure::invalid(kind, field(object, "name"), problem));
    let spec = &object["spec"];
    if spec["replicas"]
        .as_i64()
        .is_some_and(|replicas| replicas < 0)
    {
        return refuse("spec.replicas: Invalid value: -1: must be greater than or equal to 0");
    }
    let wanted = &spec["selector"]["matchLabels"];
    if wanted.as_object().is_none_or(serde_json::Map::is_empty)
        && spec["selector"]["matchExpressions"].is_null()
    {
        return refuse("spec.selector: Required value");
    }
    if !Selector::from_labels(wanted).matches(&spec["template"]) {
        return refuse(
            "spec.template.metadata.labels: Invalid value: `selector` does not match template `labels`",
        );
    }
    if current.is_some_and(|current| current["spec"]["selector"] != spec["selector"]) {
        return refuse("spec.selector: Invalid value: field is immutable");
    }
    refuse_template(
        kind,
        object,
        &spec["template"]["spec"],
        "spec.template.spec",
    )
}

fn refuse_template(kind: &Kind, object: &Value, spec: &Value, at: &str) -> Result<(), Failure> {
    let mut problems = template_problems(spec, at).into_iter();
    let Some(first) = problems.next() else {
        return Ok(());
    };
    let refusal = Failure::invalid(
        kind,
        field(object, "name"),
        &format!("{first}: Required value"),
    );
    Err(problems.fold(refusal, |refusal, field| refusal.also_at(&field)))
}

/// The required fields that are missing.
fn template_problems(spec: &Value, at: &str) -> Vec<String> {
    let containers = spec["containers"].as_array().map_or(&[][..], Vec::as_slice);
    if containers.is_empty() {
        return vec![format!("{at}.containers")];
    }
    let missing = |(index, container): (usize, &Value)| {
        let absent = |name: &&str| container[*name].as_str().is_none_or(str::is_empty);
        let fields = ["name", "image"].into_iter().filter(absent);
        fields
            .map(|name| format!("{at}.containers[{index}].{name}"))
            .collect::<Vec<_>>()
    };
    containers.iter().enumerate().flat_map(missing).collect()
}

fn is_dns_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let whole = |byte: u8| inner(byte) || byte == b'-' || byte == b'.' || byte == b':';
    name.len() <= 253
        && name.bytes().all(whole)
        && name.bytes().next().is_some_and(inner)
        && name.bytes().last().is_some_and(inner)
}
