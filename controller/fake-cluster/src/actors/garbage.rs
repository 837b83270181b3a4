//! Lets go what has lost its owners.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Due, Moment, is_going, list};
use crate::api::{DeleteOptions, Key, Part, field, finalizers};

#[derive(Default)]
pub(super) struct Garbage {
    /// Objects without a living owner, by UID.
    lost: Due<String>,
}

impl Garbage {
    pub(super) fn act(&mut self, moment: &mut Moment<'_>) {
        let objects: Vec<(Key, Arc<Value>)> = moment
            .store
            .everything()
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        // Of every object: whether it takes what it owns along, because it is deleted in the
        // foreground.
        let living: HashMap<&str, bool> = objects
            .iter()
            .map(|(_, object)| {
                (
                    field(object, "uid"),
                    waits_for(object, "foregroundDeletion"),
                )
            })
            .collect();
        let mut blocking: HashSet<&str> = HashSet::new();
        for (key, object) in &objects {
            let owners: Vec<&str> = owners(object).collect();
            blocking.extend(&owners);
            let uid = field(object, "uid").to_owned();
            let is_lost = !owners.is_empty()
                && owners
                    .iter()
                    .all(|owner| living.get(owner).copied().unwrap_or(true));
            if !is_lost || is_going(object) {
                self.lost.settle(&uid);
            } else if self
                .lost
                .has_waited(uid.clone(), moment.tuning.garbage, moment)
            {
                self.lost.settle(&uid);
                moment.delete(key, &DeleteOptions::default());
            }
        }
        for (key, object) in &objects {
            let uid = field(object, "uid");
            if waits_for(object, "orphan") {
                let dependents = objects
                    .iter()
                    .filter(|(_, other)| owners(other).any(|owner| owner == uid));
                dependents.for_each(|(dependent, _)| release(moment, dependent, uid));
                finish(moment, key, "orphan");
            } else if waits_for(object, "foregroundDeletion") && !blocking.contains(uid) {
                finish(moment, key, "foregroundDeletion");
            }
        }
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "/metadata/ownerReferences")
        .iter()
        .filter_map(|owner| owner["uid"].as_str())
}

fn waits_for(object: &Value, finalizer: &str) -> bool {
    is_going(object)
        && finalizers(object)
            .iter()
            .any(|held_by| held_by == finalizer)
}

/// Takes an owner off an object.
fn release(moment: &mut Moment<'_>, key: &Key, owner: &str) {
    let Some(mut next) = moment.store.get(key).map(|object| Value::clone(object)) else {
        return;
    };
    if let Some(Value::Array(owners)) = next.pointer_mut("/metadata/ownerReferences") {
        owners.retain(|reference| reference["uid"] != owner);
    }
    moment.write(key, next, Part::Main);
}

fn finish(moment: &mut Moment<'_>, key: &Key, finalizer: &str) {
    let Some(mut next) = moment.store.get(key).map(|object| Value::clone(object)) else {
        return;
    };
    if let Some(Value::Array(finalizers)) = next.pointer_mut("/metadata/finalizers") {
        finalizers.retain(|held_by| held_by != finalizer);
    }
    moment.write(key, next, Part::Main);
}
