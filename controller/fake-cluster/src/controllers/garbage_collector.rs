//! The garbage collector.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::{ControllerContext, DelayedWork, is_terminating, list};
use crate::api::{DeleteOptions, ObjectKey, ObjectPart, finalizers, metadata_str};

#[derive(Default)]
pub(super) struct GarbageCollector {
    /// Objects without an existing owner, by UID.
    orphaned: DelayedWork<String>,
}

impl GarbageCollector {
    pub(super) fn reconcile(&mut self, context: &mut ControllerContext<'_>) {
        let objects: Vec<(ObjectKey, Arc<Value>)> = context
            .store
            .all_objects()
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        // Maps the UID of every object to whether it is deleted in the foreground.
        let existing: HashMap<&str, bool> = objects
            .iter()
            .map(|(_, object)| {
                (
                    metadata_str(object, "uid"),
                    is_blocked_by(object, "foregroundDeletion"),
                )
            })
            .collect();
        let mut blocking: HashSet<&str> = HashSet::new();
        for (key, object) in &objects {
            let owners: Vec<&str> = owners(object).collect();
            blocking.extend(&owners);
            let uid = metadata_str(object, "uid").to_owned();
            let is_orphaned = !owners.is_empty()
                && owners
                    .iter()
                    .all(|owner| existing.get(owner).copied().unwrap_or(true));
            if !is_orphaned || is_terminating(object) {
                self.orphaned.cancel(&uid);
            } else if self
                .orphaned
                .is_due(uid.clone(), context.tuning.garbage, context)
            {
                self.orphaned.cancel(&uid);
                context.delete(key, &DeleteOptions::default());
            }
        }
        for (key, object) in &objects {
            let uid = metadata_str(object, "uid");
            if is_blocked_by(object, "orphan") {
                let dependents = objects
                    .iter()
                    .filter(|(_, other)| owners(other).any(|owner| owner == uid));
                dependents.for_each(|(dependent, _)| remove_owner(context, dependent, uid));
                remove_finalizer(context, key, "orphan");
            } else if is_blocked_by(object, "foregroundDeletion") && !blocking.contains(uid) {
                remove_finalizer(context, key, "foregroundDeletion");
            }
        }
    }
}

fn owners(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "/metadata/ownerReferences")
        .iter()
        .filter_map(|owner| owner["uid"].as_str())
}

fn is_blocked_by(object: &Value, finalizer: &str) -> bool {
    is_terminating(object)
        && finalizers(object)
            .iter()
            .any(|held_by| held_by == finalizer)
}

/// Removes an owner reference from an object.
fn remove_owner(context: &mut ControllerContext<'_>, key: &ObjectKey, owner: &str) {
    let Some(mut next) = context.store.get(key).map(|object| Value::clone(object)) else {
        return;
    };
    if let Some(Value::Array(owners)) = next.pointer_mut("/metadata/ownerReferences") {
        owners.retain(|reference| reference["uid"] != owner);
    }
    context.write(key, next, ObjectPart::Main);
}

fn remove_finalizer(context: &mut ControllerContext<'_>, key: &ObjectKey, finalizer: &str) {
    let Some(mut next) = context.store.get(key).map(|object| Value::clone(object)) else {
        return;
    };
    if let Some(Value::Array(finalizers)) = next.pointer_mut("/metadata/finalizers") {
        finalizers.retain(|held_by| held_by != finalizer);
    }
    context.write(key, next, ObjectPart::Main);
}
