//! Reads the persisted state of any version of the controller.
//!
//! A status outlives the controller that wrote it: an upgrade that is rolled back leaves an older
//! controller with the status of a newer one. Every field is therefore read on its own, so that the
//! position, an abort, a pause and the drains do not depend on a plan or another field that this
//! version cannot understand.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::state::{SCHEMA_VERSION, State};

/// The fields of the status that make up the state; all others are reported beside it.
pub const STATE_FIELDS: [&str; 33] = [
    "schemaVersion",
    "observedGeneration",
    "phase",
    "message",
    "stableRevision",
    "currentRevision",
    "plan",
    "releaseAnalysis",
    "releasePolicies",
    "releaseGuardrails",
    "stage",
    "stageSince",
    "releaseStartedAt",
    "progress",
    "growingSince",
    "replicasScaled",
    "replicasKept",
    "step",
    "restart",
    "restartedAt",
    "restarting",
    "weights",
    "pause",
    "abort",
    "bake",
    "baselineSince",
    "freezeOverride",
    "holds",
    "draining",
    "workload",
    "observation",
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
    /// Every field that could not be read, also those that are derived again.
    pub unreadable: Vec<UnreadableField>,
}

/// A field of a status that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableField {
    /// Name of the field.
    pub field: String,
    /// Why it could not be read.
    pub problem: String,
}

impl fmt::Display for UnreadableField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status.{}: {}", self.field, self.problem)
    }
}

/// Reads the state from a status. Fields of the status that are not part of the state are ignored.
pub fn read(status: &Map<String, Value>) -> PersistedState {
    let mut problems = version_problem(status).into_iter().collect::<Vec<_>>();
    let mut unreadable = Vec::new();
    // The fields are copied only if one of them cannot be read.
    let state: State = match State::deserialize(status) {
        Ok(state) => state,
        Err(_) => {
            let fields = STATE_FIELDS.iter().filter_map(|field| {
                let value = status.get(*field)?.clone();
                Some(((*field).to_owned(), value))
            });
            let mut fields: Map<String, Value> = fields.collect();
            unreadable = remove_unreadable::<State>(&mut fields);
            let is_needed = |field: &&UnreadableField| !DERIVED_FIELDS.contains(&&*field.field);
            problems.extend(unreadable.iter().filter(is_needed).map(ToString::to_string));
            serde_json::from_value(Value::Object(fields)).unwrap_or_default()
        }
    };
    let holds = status.get("holds").and_then(Value::as_array);
    let unknown = holds.map_or(0, |holds| holds.len().saturating_sub(state.holds.len()));
    if unknown > 0 {
        unreadable.push(UnreadableField {
            field: "holds".to_owned(),
            problem: format!("{unknown} of another version"),
        });
    }
    PersistedState {
        state,
        incompatibility: (!problems.is_empty()).then(|| problems.join("; ")),
        unreadable,
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

/// Removes the fields that a `T` cannot be read from, each on its own, and returns them.
pub fn remove_unreadable<T: DeserializeOwned>(
    fields: &mut Map<String, Value>,
) -> Vec<UnreadableField> {
    let mut unreadable = Vec::new();
    fields.retain(|field, value| {
        let single = Map::from_iter([(field.clone(), value.clone())]);
        let problem = serde_json::from_value::<T>(Value::Object(single)).err();
        unreadable.extend(problem.as_ref().map(|problem| UnreadableField {
            field: field.clone(),
            problem: problem.to_string(),
        }));
        problem.is_none()
    });
    unreadable
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
        assert_eq!(read.unreadable[0].field, "plan");
        assert_eq!(
            read.unreadable[1].to_string(),
            "status.holds: 1 of another version"
        );
    }
}
