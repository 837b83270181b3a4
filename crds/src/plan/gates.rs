//! Validation of gates.

use std::ops::RangeInclusive;
use std::time::Duration;

use serin_core::gate::{Gate, GateCondition, GateExpiry, ObjectGate, ObjectScope};
use serin_core::plan::Step;

use super::problem::{CANARY, Problems};
use super::values::{DAY, SECOND, parse_duration_in};
use crate::check::ObjectCondition;
use crate::gate::{GateExpiry as GateExpirySpec, GateSpec, ObjectGateSpec};

const EXPIRY_BOUNDS: RangeInclusive<Duration> = SECOND..=DAY.saturating_mul(365);
/// Maximum number of gates that wait for an object. The admission policy authorizes each of them.
const MAX_OBJECTS: usize = 8;

/// Converts a gate.
pub(super) fn gate(path: &str, spec: &GateSpec, problems: &mut Problems) -> Option<Gate> {
    let expire_after = spec.expire_after.as_ref().and_then(|text| {
        parse_duration_in(
            &format!("{path}.expireAfter"),
            text,
            &EXPIRY_BOUNDS,
            problems,
        )
    });
    if let (Some(on_expiry), None) = (&spec.on_expiry, &spec.expire_after) {
        let fix = "add expireAfter, for example 24h, or remove it";
        problems.invalid(
            format!("{path}.onExpiry"),
            on_expiry,
            "the gate never expires",
            fix,
        );
    }
    let waits_for = match (&spec.approval, &spec.object) {
        (Some(_), None) => GateCondition::Approval,
        (None, Some(object)) => {
            GateCondition::Object(object_gate(&format!("{path}.object"), object, problems))
        }
        _ => {
            let fix = "set one of approval and object";
            problems.invalid(path, spec, "a gate waits for exactly one thing", fix);
            return None;
        }
    };
    Some(Gate {
        waits_for,
        expire_after,
        on_expiry: match spec.on_expiry.unwrap_or_default() {
            GateExpirySpec::Abort => GateExpiry::Abort,
            GateExpirySpec::Hold => GateExpiry::Hold,
        },
    })
}

fn object_gate(path: &str, spec: &ObjectGateSpec, problems: &mut Problems) -> ObjectGate {
    for (field, text, is_valid, fix) in [
        (
            "apiVersion",
            &spec.api_version,
            is_api_version(&spec.api_version),
            "write for example v1 or batch/v1",
        ),
        (
            "resource",
            &spec.resource,
            is_path_segment(&spec.resource) && !spec.resource.contains('.'),
            "use the plural name in lowercase, for example jobs",
        ),
        (
            "name",
            &spec.name,
            is_path_segment(&spec.name),
            "use the metadata.name of the object",
        ),
    ] {
        if !is_valid {
            problems.invalid(format!("{path}.{field}"), text, "it is not valid", fix);
        }
    }
    if spec.api_version == "v1" && spec.resource == "secrets" {
        let fix = "use another object, for example a ConfigMap";
        problems.invalid(
            format!("{path}.resource"),
            &spec.resource,
            "a gate must not read Secrets",
            fix,
        );
    }
    if let Err(problem) = ObjectCondition::parse(&spec.condition) {
        let fix = "write a CEL expression over object, for example object.status.ready";
        problems.invalid(format!("{path}.condition"), &spec.condition, problem, fix);
    }
    ObjectGate {
        api_version: spec.api_version.clone(),
        resource: spec.resource.clone(),
        name: spec.name.clone(),
        scope: scope(path, spec, problems),
        condition: spec.condition.clone(),
    }
}

fn scope(path: &str, spec: &ObjectGateSpec, problems: &mut Problems) -> ObjectScope {
    match (&spec.namespace, spec.cluster_scoped == Some(true)) {
        (None, false) => ObjectScope::OwnNamespace,
        (None, true) => ObjectScope::Cluster,
        (Some(namespace), is_cluster) => {
            let path = format!("{path}.namespace");
            if is_cluster {
                let problem = "an object of the cluster has no namespace";
                problems.invalid(&path, namespace, problem, "remove it, or clusterScoped");
            }
            if !is_path_segment(namespace) {
                problems.invalid(
                    &path,
                    namespace,
                    "it is not valid",
                    "use the name of a namespace",
                );
            }
            ObjectScope::Namespace(namespace.clone())
        }
    }
}

/// The admission policy authorizes a limited number of objects.
pub(super) fn check_count(steps: &[Step], problems: &mut Problems) {
    let objects = steps.iter().filter(|step| {
        matches!(
            step,
            Step::Gate(Gate {
                waits_for: GateCondition::Object(_),
                ..
            })
        )
    });
    let count = objects.count();
    if count > MAX_OBJECTS {
        let problem = format!("more than {MAX_OBJECTS} gates wait for an object");
        let fix = "use fewer of them";
        problems.invalid(format!("{CANARY}.steps"), &count, problem, fix);
    }
}

/// Whether a text can be a part of the path of a request: a name in lowercase.
fn is_path_segment(text: &str) -> bool {
    let is_edge =
        |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    is_edge(text.bytes().next())
        && is_edge(text.bytes().last())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

fn is_api_version(text: &str) -> bool {
    let (group, version) = match text.split_once('/') {
        Some((group, version)) => (Some(group), version),
        None => (None, text),
    };
    group.is_none_or(is_path_segment) && is_path_segment(version) && version.starts_with('v')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(spec: &Value) -> Result<Gate, String> {
        let spec: GateSpec = serde_json::from_value(spec.clone()).unwrap();
        let mut problems = Problems::default();
        let gate = gate("gate", &spec, &mut problems);
        match problems.into_result(gate) {
            Ok(Some(gate)) => Ok(gate),
            Ok(None) => panic!("no gate and no problem"),
            Err(errors) => Err(errors.to_string()),
        }
    }

    fn object(fields: &Value) -> Value {
        let mut object = json!({
            "apiVersion": "batch/v1", "resource": "jobs", "name": "migrate",
            "condition": "object.status.succeeded > 0",
        });
        object
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        json!({"object": object})
    }

    #[test]
    fn a_gate_is_converted_with_its_defaults() {
        let approval = parse(&json!({"approval": {}, "expireAfter": "24h"})).unwrap();
        assert_eq!(
            approval,
            Gate {
                waits_for: GateCondition::Approval,
                expire_after: Some(DAY),
                on_expiry: GateExpiry::Abort,
            }
        );
        let gate = parse(&object(&json!({"namespace": "db"}))).unwrap();
        let GateCondition::Object(object) = gate.waits_for else {
            panic!()
        };
        assert_eq!(object.to_string(), "jobs.batch db/migrate");
    }

    #[test]
    fn what_no_gate_can_read_is_refused() {
        for (spec, expected) in [
            (json!({}), "exactly one thing"),
            (json!({"approval": {}, "onExpiry": "Hold"}), "never expires"),
            (
                object(&json!({"apiVersion": "../v1"})),
                "gate.object.apiVersion",
            ),
            (
                object(&json!({"resource": "jobs/log"})),
                "gate.object.resource",
            ),
            (object(&json!({"name": "a/../b"})), "gate.object.name"),
            (object(&json!({"namespace": ".."})), "gate.object.namespace"),
            (
                object(&json!({"condition": "status > 0"})),
                "gate.object.condition",
            ),
            (
                object(&json!({"apiVersion": "v1", "resource": "secrets"})),
                "must not read Secrets",
            ),
        ] {
            let error = parse(&spec).unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }
}
