//! The change of a status as a JSON Patch. Pure.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::{Map, Value};
use serin_crds::RolloutStatus;

/// The field whose elements are replaced one by one. Most changes concern only some conditions.
const CONDITIONS: &str = "conditions";

/// The operations that turn the status `before`, as it is stored, into `after`: one for each field
/// that has changed, and one for each condition.
///
/// This is a JSON Patch and not a merge patch, because a merge patch cannot express a `null` inside
/// a field, and replaces every list as a whole.
///
/// # Errors
/// A status has no JSON form.
pub fn changes(
    before: &RolloutStatus,
    after: &RolloutStatus,
) -> Result<Vec<PatchOperation>, serde_json::Error> {
    let (mut before, after) = (fields(before)?, fields(after)?);
    let mut operations = Vec::new();
    for (field, value) in after {
        match before.remove(&field) {
            Some(old) if old == value => {}
            Some(Value::Array(old)) if field == CONDITIONS && has_same_types(&old, &value) => {
                operations.extend(replaced_elements(&old, value));
            }
            _ => operations.push(PatchOperation::Add(AddOperation {
                path: path(&[&field]),
                value,
            })),
        }
    }
    operations.extend(before.into_iter().map(|(field, _)| {
        let path = path(&[&field]);
        PatchOperation::Remove(RemoveOperation { path })
    }));
    Ok(operations)
}

/// The operation that replaces the status as a whole, whatever is stored.
///
/// # Errors
/// The status has no JSON form.
pub fn replacement(status: &RolloutStatus) -> Result<PatchOperation, serde_json::Error> {
    Ok(PatchOperation::Add(AddOperation {
        path: path(&[]),
        value: serde_json::to_value(status)?,
    }))
}

fn fields(status: &RolloutStatus) -> Result<Map<String, Value>, serde_json::Error> {
    Ok(match serde_json::to_value(status)? {
        Value::Object(fields) => fields,
        // A status is a struct.
        _ => Map::new(),
    })
}

/// Whether the conditions are those of the same types, in the same order.
fn has_same_types(before: &[Value], after: &Value) -> bool {
    let after = after.as_array().map_or(&[][..], Vec::as_slice);
    before.len() == after.len()
        && before
            .iter()
            .zip(after)
            .all(|(before, after)| before["type"] == after["type"])
}

fn replaced_elements(before: &[Value], after: Value) -> Vec<PatchOperation> {
    let Value::Array(after) = after else {
        return Vec::new();
    };
    let changed = after.into_iter().enumerate();
    let changed = changed.filter(|(index, value)| before.get(*index) != Some(value));
    let replace = |(index, value): (usize, Value)| {
        let path = path(&[CONDITIONS, &index.to_string()]);
        PatchOperation::Replace(ReplaceOperation { path, value })
    };
    changed.map(replace).collect()
}

fn path(tokens: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens([&["status"], tokens].concat())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use proptest::prelude::*;
    use serde_json::json;
    use serin_core::plan::Plan;
    use serin_core::state::{ActivePlan, Stage, State};
    use serin_core::units::Revision;
    use serin_crds::status::{AnalysisStatus, SummaryStatus};

    use super::*;

    fn any_condition(type_: &'static str) -> impl Strategy<Value = Condition> {
        (any::<bool>(), "[ab]{0,2}", proptest::option::of(0_i64..3)).prop_map(
            move |(holds, message, observed_generation)| Condition {
                type_: type_.to_owned(),
                status: if holds { "True" } else { "False" }.to_owned(),
                reason: "Reason".to_owned(),
                message,
                observed_generation,
                last_transition_time: Time(Timestamp::UNIX_EPOCH),
            },
        )
    }

    fn any_conditions() -> impl Strategy<Value = Vec<Condition>> {
        let optional = |type_| proptest::option::of(any_condition(type_));
        (optional("Available"), optional("Frozen"), optional("Ready")).prop_map(|(a, b, c)| {
            let all = [a, b, c].into_iter();
            all.flatten().collect()
        })
    }

    /// A plan whose JSON contains a `null`.
    fn plan(replicas: u32) -> Plan {
        serde_json::from_value(json!({
            "replicas": replicas,
            "progressDeadline": {"secs": 600, "nanos": 0},
            "revisionHistoryLimit": 10,
            "rollbackWindow": 0,
            "paused": false,
            "workload": "owned",
            "exposure": "replicaRatio",
            "strategy": {"canary": {
                "maxSurge": {"percent": 25}, "maxUnavailable": {"percent": 25},
                "scaleDownDelay": {"secs": 30, "nanos": 0},
                "abortScaleDownDelay": {"secs": 30, "nanos": 0},
                "dynamicStableScale": false, "pace": {"steps": []}, "analysis": null,
                "podRestartLimit": 2,
            }},
        }))
        .unwrap()
    }

    fn any_checkpoint() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!({"a": null, "b": {"c": [1, null]}})),
            Just(json!({"a": 1.5, "b": {}})),
            Just(json!({"b": {"c": [null], "d/~": 2}})),
        ]
    }

    prop_compose! {
        fn any_status()(
            conditions in any_conditions(),
            checkpoint in proptest::option::of(any_checkpoint()),
            replicas in proptest::option::of(0_u32..3),
            message in "[ab]{0,2}",
            stable in proptest::option::of("[ab]"),
            counts in (0..2_i32, 0..2_i32),
            summary in proptest::option::of(Just(SummaryStatus::default())),
            progressing in any::<bool>(),
        ) -> RolloutStatus {
            let plan = replicas.map(|replicas| ActivePlan {
                hash: replicas.to_string(),
                spec: plan(replicas),
            });
            RolloutStatus {
                state: State {
                    message: message.into(),
                    stable_revision: stable.map(Revision::new),
                    stage: if progressing { Stage::Progressing } else { Stage::Stable },
                    plan,
                    ..State::default()
                },
                conditions,
                analysis: checkpoint.map(|checkpoint| AnalysisStatus {
                    revision: "a".to_owned(),
                    started_at: Timestamp::UNIX_EPOCH,
                    checkpoint,
                }),
                replicas: counts.0,
                ready_replicas: counts.1,
                summary,
                ..RolloutStatus::default()
            }
        }
    }

    fn patched(before: &RolloutStatus, operations: Vec<PatchOperation>) -> Value {
        let mut object = json!({"metadata": {"name": "checkout"}, "status": before});
        json_patch::patch(&mut object, &operations).unwrap();
        object["status"].take()
    }

    proptest! {
        #[test]
        fn the_changes_turn_the_old_status_into_exactly_the_new_one(
            before in any_status(),
            after in any_status(),
        ) {
            let operations = changes(&before, &after).unwrap();
            prop_assert_eq!(patched(&before, operations), serde_json::to_value(&after).unwrap());
            let replaced = vec![replacement(&after).unwrap()];
            prop_assert_eq!(patched(&before, replaced), serde_json::to_value(&after).unwrap());
            prop_assert_eq!(changes(&after, &after).unwrap(), vec![]);
        }
    }

    #[test]
    fn only_what_has_changed_is_sent() {
        let condition = |type_: &str, status: &str| Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: "Reason".to_owned(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        let before = RolloutStatus {
            summary: Some(SummaryStatus::default()),
            conditions: vec![condition("Available", "True"), condition("Ready", "False")],
            ..RolloutStatus::default()
        };
        let mut after = before.clone();
        after.summary = None;
        after.replicas = 3;
        after.conditions[1] = condition("Ready", "True");
        let operations = serde_json::to_value(changes(&before, &after).unwrap()).unwrap();
        let paths = operations.as_array().unwrap().iter();
        let paths: Vec<_> = paths
            .map(|one| format!("{} {}", one["op"], one["path"]))
            .collect();
        assert_eq!(
            paths,
            [
                "\"replace\" \"/status/conditions/1\"",
                "\"add\" \"/status/replicas\"",
                "\"remove\" \"/status/summary\"",
            ]
        );
    }
}
