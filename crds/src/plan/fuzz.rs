//! Arbitrary Rollouts and commands: decoding and planning never panic, and the message about a spec
//! is short however large its fields are.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};
use serin_core::text::{MESSAGE_BYTES, Message};

use crate::plan::{check_template_size, plan_hash};
use crate::{Rollout, RolloutCommand};

/// Maximum length of a message about an invalid spec: 20 fields with their problem and fix.
const MAX_MESSAGE_BYTES: usize = 20 * 2_000;
/// Maximum size of a plan as JSON. It is stored in the status.
const MAX_PLAN_BYTES: usize = 64 * 1024;
/// Stack of the thread that plans, in bytes. A worker of the controller has 2 MiB.
const STACK_BYTES: usize = 512 * 1024;

/// A Rollout in which every field is set.
static FULL: LazyLock<Value> = LazyLock::new(|| {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/canary-full.yaml");
    let text = fs::read_to_string(file).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let is_rollout = |document: &Value| document["kind"] == "Rollout";
    documents.into_iter().find(is_rollout).unwrap()
});

/// Paths of all values inside of a value.
fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                let key = key.replace('~', "~0").replace('/', "~1");
                paths(field, &format!("{path}/{key}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                paths(item, &format!("{path}/{index}"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Texts of several fields, valid and hostile ones.
fn text() -> impl Strategy<Value = String> {
    let known = vec![
        "25%".to_owned(),
        "101%".to_owned(),
        "5m".to_owned(),
        "99999999999d".to_owned(),
        "result[0] < 1.0".to_owned(),
        "result.all(a, result.all(b, result.all(c, a + b + c > 0.0)))".to_owned(),
        "1.0".to_owned() + &"+1.0".repeat(126),
        "T{a: 1}".to_owned(),
        "(".repeat(2_000) + "1" + &")".repeat(2_000),
        "-".repeat(4_000) + "1",
        "up offset inf".to_owned(),
        "up{a=~\"\\\\w{100}\"}".to_owned(),
        "requests_total{code=~\"5..\"}".to_owned(),
        "http://prometheus:9090".to_owned(),
        "shop".to_owned(),
        "release".to_owned(),
        "9".repeat(100_000),
        "{{args.a}}".repeat(400),
    ];
    prop_oneof![4 => select(known), 1 => ".{0,20}"]
}

fn any_json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![-3..3_i64, any::<i64>()];
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => number.prop_map(Value::from),
        1 => any::<f64>().prop_map(|number| json!(number)),
        3 => text().prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{0,8}", inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    let deep =
        (0..120_usize).prop_map(|depth| (0..depth).fold(json!(0), |inner, _| json!([inner])));
    let wide = (0..40_000_usize).prop_map(|length| json!(vec![0; length]));
    prop_oneof![20 => tree, 1 => deep, 1 => wide]
}

fn changed(object: &Value, changes: Vec<(Index, Value)>) -> Value {
    let mut object = object.clone();
    for (at, value) in changes {
        let mut known = Vec::new();
        paths(&object["spec"], "/spec", &mut known);
        if let Some(field) = object.pointer_mut(&known[at.index(known.len())]) {
            *field = value;
        }
    }
    object
}

/// Plans a Rollout on a small stack.
fn check_rollout(object: Value) -> Result<(), TestCaseError> {
    let run = move || -> Result<(), TestCaseError> {
        // The controller refuses a large template before it decodes the object.
        if let Err(errors) = check_template_size(&object["spec"]) {
            prop_assert!(errors.to_string().len() < MAX_MESSAGE_BYTES);
            return Ok(());
        }
        let Ok(rollout) = serde_json::from_value::<Rollout>(object) else {
            return Ok(());
        };
        let plan = match rollout.spec.plan("shop") {
            Ok(plan) => plan,
            Err(errors) => {
                let message = errors.to_string();
                prop_assert!(errors.iter().count() > 0 && !message.is_empty());
                prop_assert!(message.len() < MAX_MESSAGE_BYTES, "{}", message.len());
                return Ok(());
            }
        };
        let bytes = serde_json::to_string(&plan).map_or(0, |json| json.len());
        prop_assert!((1..MAX_PLAN_BYTES).contains(&bytes), "{bytes}");
        prop_assert_eq!(plan_hash(&plan).len(), 10);
        Ok(())
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    thread.spawn(run).unwrap().join().unwrap()
}

/// Decodes a command. It is the same after it was encoded, and what the controller keeps of its texts
/// is short.
fn check_command(object: Value) -> Result<(), TestCaseError> {
    let Ok(command) = serde_json::from_value::<RolloutCommand>(object) else {
        return Ok(());
    };
    let encoded = serde_json::to_value(&command);
    let again = encoded.and_then(serde_json::from_value::<RolloutCommand>);
    let spec = again.map(|again| again.spec).ok();
    prop_assert_eq!(spec.as_ref(), Some(&command.spec));
    let texts = [command.spec.reason, command.spec.requested_by];
    for text in texts.into_iter().flatten() {
        let message = Message::from(text);
        prop_assert!(message.len() <= MESSAGE_BYTES && !message.contains(char::is_control));
    }
    Ok(())
}

/// The API server enforces the schema. A text that gets past it must not make a status too large.
#[test]
fn no_single_text_makes_a_plan_larger_than_a_status() {
    let mut of_deployment = FULL.clone();
    for own in ["selector", "template"] {
        of_deployment["spec"].as_object_mut().unwrap().remove(own);
    }
    of_deployment["spec"]["workloadRef"] =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"});
    let mut adopting = FULL.clone();
    adopting["spec"]["adopt"] = json!({"deployment": "shop"});
    for object in [&*FULL, &of_deployment, &adopting] {
        let mut known = Vec::new();
        paths(&object["spec"], "/spec", &mut known);
        assert!(known.len() > 100);
        for path in known {
            for text in ["9", "a"] {
                let mut object = object.clone();
                *object.pointer_mut(&path).unwrap() = text.repeat(100_000).into();
                let checked = check_rollout(object);
                assert!(checked.is_ok(), "{path}: {checked:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn fuzz_rollouts_with_some_fields_changed(
        changes in prop::collection::vec((any::<Index>(), any_json()), 1..5),
    ) {
        check_rollout(changed(&FULL, changes))?;
    }

    #[test]
    fn fuzz_rollouts_with_any_check(
        query in text(), condition in text(), value in text(),
    ) {
        let mut object = FULL.clone();
        object["spec"]["analysis"]["checks"] = json!([
            {"name": "a", "query": query, "condition": condition, "args": [{"name": "a", "value": value}]},
        ]);
        check_rollout(object)?;
    }

    #[test]
    fn fuzz_rollouts_of_any_json(spec in any_json()) {
        check_rollout(json!({"metadata": {"name": "shop"}, "spec": spec}))?;
    }

    #[test]
    fn fuzz_commands_of_any_json(spec in any_json(), status in any_json()) {
        check_command(json!({"metadata": {"name": "abort"}, "spec": spec, "status": status}))?;
    }

    #[test]
    fn fuzz_commands_with_some_fields_changed(
        changes in prop::collection::vec((any::<Index>(), any_json()), 1..4),
    ) {
        let command = json!({
            "metadata": {"name": "abort"},
            "spec": {"rolloutRef": {"name": "shop"}, "verb": "abort", "reason": "slow",
                "requestedBy": "dev", "preconditions": {"revision": "bbb", "step": 1}},
        });
        check_command(changed(&command, changes))?;
    }
}
