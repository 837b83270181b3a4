//! The garbage collector.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::Value;

use super::schedule::Controller;
use super::{ControllerContext, DelayedWork, is_terminating, list};
use crate::api::{DeleteOptions, ObjectKey, ObjectPart, ObjectStore, finalizers, metadata_str};

#[derive(Default)]
pub(super) struct GarbageCollector {
    /// Objects without an existing owner, by UID.
    orphaned: DelayedWork<String>,
}

impl Controller for GarbageCollector {
    fn input_version(store: &ObjectStore) -> u64 {
        store.ownership_version()
    }

    fn reconcile(&mut self, context: &mut ControllerContext<'_>) {
        let objects: Vec<(ObjectKey, Arc<Value>)> = context
            .store
            .collectable()
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        let deleted_in_foreground: HashSet<&str> = objects
            .iter()
            .filter(|(_, object)| is_blocked_by(object, "foregroundDeletion"))
            .map(|(_, object)| metadata_str(object, "uid"))
            .collect();
        let mut blocking: HashSet<&str> = HashSet::new();
        let mut orphaned: HashSet<&str> = HashSet::new();
        for (key, object) in &objects {
            let owners: Vec<&str> = owners(object).collect();
            blocking.extend(&owners);
            let is_gone = |owner: &&str| {
                !context.store.has_uid(owner) || deleted_in_foreground.contains(owner)
            };
            if owners.is_empty() || !owners.iter().all(is_gone) || is_terminating(object) {
                continue;
            }
            let uid = metadata_str(object, "uid");
            let delay = context.tuning.garbage;
            if self.orphaned.is_due(uid.to_owned(), delay, context) {
                context.delete(key, &DeleteOptions::default());
            } else {
                orphaned.insert(uid);
            }
        }
        self.orphaned.retain(|uid| orphaned.contains(uid.as_str()));
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
