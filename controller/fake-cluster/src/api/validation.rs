//! The validations of the API server that affect controllers.

use serde_json::Value;

use super::error::ApiError;
use super::kinds::ServedKind;
use super::metadata::{finalizers, metadata_str};
use super::selector::Selector;

/// Validates an object as the API server does.
pub(crate) fn validate(
    kind: &ServedKind,
    object: &Value,
    current: Option<&Value>,
) -> Result<(), ApiError> {
    let reject = |problem: &str| {
        Err(ApiError::invalid(
            kind,
            metadata_str(object, "name"),
            problem,
        ))
    };
    if !is_dns_name(metadata_str(object, "name")) {
        return reject(
            "metadata.name: Invalid value: a lowercase RFC 1123 subdomain must consist of lower \
             case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
             character",
        );
    }
    if let Some(current) = current {
        let new = finalizers(object)
            .iter()
            .find(|finalizer| !finalizers(current).contains(finalizer));
        if let Some(new) = new
            && !metadata_str(current, "deletionTimestamp").is_empty()
        {
            let problem = format!(
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is \
                 being deleted, found new finalizers []string{{{new}}}"
            );
            return Err(
                ApiError::invalid(kind, metadata_str(object, "name"), &problem)
                    .with_duplicated_causes(),
            );
        }
    }
    match kind.resource().as_str() {
        "replicasets.apps" | "deployments.apps" => validate_workload(kind, object, current),
        "pods" => validate_pod_spec(kind, object, &object["spec"], "spec"),
        _ => Ok(()),
    }
}

fn validate_workload(
    kind: &ServedKind,
    object: &Value,
    current: Option<&Value>,
) -> Result<(), ApiError> {
    let reject = |problem: &str| {
        Err(ApiError::invalid(
            kind,
            metadata_str(object, "name"),
            problem,
        ))
    };
    let spec = &object["spec"];
    if spec["replicas"]
        .as_i64()
        .is_some_and(|replicas| replicas < 0)
    {
        return reject("spec.replicas: Invalid value: -1: must be greater than or equal to 0");
    }
    let match_labels = &spec["selector"]["matchLabels"];
    if match_labels
        .as_object()
        .is_none_or(serde_json::Map::is_empty)
        && spec["selector"]["matchExpressions"].is_null()
    {
        return reject("spec.selector: Required value");
    }
    if !Selector::from_labels(match_labels).matches(&spec["template"]) {
        return reject(
            "spec.template.metadata.labels: Invalid value: `selector` does not match template \
             `labels`",
        );
    }
    if current.is_some_and(|current| current["spec"]["selector"] != spec["selector"]) {
        return reject("spec.selector: Invalid value: field is immutable");
    }
    validate_pod_spec(
        kind,
        object,
        &spec["template"]["spec"],
        "spec.template.spec",
    )
}

fn validate_pod_spec(
    kind: &ServedKind,
    object: &Value,
    spec: &Value,
    at: &str,
) -> Result<(), ApiError> {
    let mut problems = missing_pod_fields(spec, at).into_iter();
    let Some(first) = problems.next() else {
        return Ok(());
    };
    let error = ApiError::invalid(
        kind,
        metadata_str(object, "name"),
        &format!("{first}: Required value"),
    );
    Err(problems.fold(error, |error, field| error.with_cause_at(&field)))
}

/// The missing required fields.
fn missing_pod_fields(spec: &Value, at: &str) -> Vec<String> {
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
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let allowed = |byte: u8| alphanumeric(byte) || byte == b'-' || byte == b'.' || byte == b':';
    name.len() <= 253
        && name.bytes().all(allowed)
        && name.bytes().next().is_some_and(alphanumeric)
        && name.bytes().last().is_some_and(alphanumeric)
}
