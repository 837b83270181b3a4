//! Reads the persisted state of any version of the controller.
//!
//! A status outlives the controller that wrote it: an upgrade that is rolled back leaves an older
//! controller with the status of a newer one. Every field is therefore read on its own, so that the
//! position, an abort, a pause and the drains do not depend on a plan or another field that this
//! version cannot understand.

use serde_json::{Map, Value};

use crate::state::{SCHEMA_VERSION, State};

/// The fields of the status that make up the state; all others are reported beside it.
pub const STATE_FIELDS: [&str; 25] = [
    "schemaVersion",
    "observedGeneration",
    "phase",
    "message",
    "stableRevision",
    "currentRevision",
    "plan",
    "stage",
    "stageSince",
    "releaseStartedAt",
    "progress",
    "growingSince",
    "replicasScaled",
    "replicasKept",
    "step",
    "restarting",
    "weights",
    "pause",
    "abort",
    "bake",
    "freezeOverride",
    "holds",
    "draining",
    "commands",
    "history",
];

/// The fields that are derived again if they cannot be read.
const DERIVED_FIELDS: [&str; 2] = ["plan", "holds"];

/// A state as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PersistedState {
    /// The fields that could be read; the others have their defaults.
    pub state: State,
    /// Why the state cannot be understood completely; `None` if it can.
    pub incompatibility: Option<String>,
}

/// Reads the state from a status. Fields of the status that are not part of the state are ignored.
pub fn read(status: &Map<String, Value>) -> PersistedState {
    let fields = STATE_FIELDS.iter().filter_map(|field| {
        let value = status.get(*field)?.clone();
        Some(((*field).to_owned(), value))
    });
    let mut fields: Map<String, Value> = fields.collect();
    let mut problems = version_problem(&fields).into_iter().collect::<Vec<_>>();
    let state = match serde_json::from_value(Value::Object(fields.clone())) {
        Ok(state) => state,
        Err(_) => {
            problems.extend(remove_unreadable(&mut fields));
            serde_json::from_value(Value::Object(fields)).unwrap_or_default()
        }
    };
    PersistedState {
        state,
        incompatibility: (!problems.is_empty()).then(|| problems.join("; ")),
    }
}

fn version_problem(fields: &Map<String, Value>) -> Option<String> {
    let version = fields.get("schemaVersion")?.as_u64()?;
    (version > u64::from(SCHEMA_VERSION)).then(|| {
        format!(
            "status.schemaVersion is {version}, and this controller understands up to \
             {SCHEMA_VERSION}"
        )
    })
}

/// Removes the fields that cannot be read, and returns why for those that matter.
fn remove_unreadable(fields: &mut Map<String, Value>) -> Vec<String> {
    let mut problems = Vec::new();
    fields.retain(|field, value| {
        let single = Map::from_iter([(field.clone(), value.clone())]);
        match serde_json::from_value::<State>(Value::Object(single)) {
            Ok(_) => true,
            Err(error) => {
                if !DERIVED_FIELDS.contains(&field.as_str()) {
                    problems.push(format!("status.{field}: {error}"));
                }
                false
            }
        }
    });
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::Stage;
    use crate::units::Revision;

    fn read_json(status: Value) -> PersistedState {
        let Value::Object(status) = status else {
            panic!("a status is an object")
        };
        read(&status)
    }

    #[test]
    fn every_field_of_the_state_is_listed() {
        let Value::Object(fields) = serde_json::to_value(State::default()).unwrap() else {
            panic!("a state is an object")
        };
        for field in fields.keys() {
            assert!(STATE_FIELDS.contains(&field.as_str()), "{field}");
        }
    }

    #[test]
    fn a_state_without_a_version_is_compatible() {
        let read = read_json(json!({"stage": "Stable", "stableRevision": "v1", "evidence": []}));
        assert_eq!(read.incompatibility, None);
        assert_eq!(read.state.stage, Stage::Stable);
    }

    #[test]
    fn a_newer_version_is_read_as_far_as_possible_and_named() {
        let read = read_json(json!({
            "schemaVersion": SCHEMA_VERSION + 1, "stage": "Previewing", "stableRevision": "v1",
            "currentRevision": "v2", "pause": {"reason": "Lunch", "since": "2026-01-01T00:00:00Z"},
            "draining": [{"revision": "v0", "until": "2026-01-01T00:00:00Z"}],
        }));
        assert_eq!(
            read.state.stable_revision.as_ref().map(Revision::as_str),
            Some("v1")
        );
        assert_eq!(read.state.draining.len(), 1);
        let problem = read.incompatibility.unwrap();
        for part in [
            "schemaVersion is 2",
            "status.stage",
            "Previewing",
            "status.pause",
        ] {
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn an_unreadable_plan_or_hold_does_not_make_a_state_incompatible() {
        let read = read_json(json!({
            "stage": "Progressing", "currentRevision": "v2",
            "plan": {"hash": "h", "spec": {"strategy": "ofTheFuture"}},
            "holds": [{"code": "OfTheFuture"}],
        }));
        assert_eq!(read.incompatibility, None);
        assert_eq!(
            (read.state.stage, read.state.plan),
            (Stage::Progressing, None)
        );
    }
}
