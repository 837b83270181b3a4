//! The garbage collector.

use std::collections::HashSet;

use serde_json::Value;

use super::schedule::Controller;
use super::{ControllerContext, DelayedWork};
use crate::api::{DeleteOptions, ObjectKey, ObjectPart, ObjectStore, Ownership};

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
        let work = Work::find(context.store);
        let mut orphaned: HashSet<String> = HashSet::new();
        for (key, uid) in work.without_owner {
            let delay = context.tuning.garbage;
            if self.orphaned.is_due(uid.clone(), delay, context) {
                context.delete(&key, &DeleteOptions::default());
            } else {
                orphaned.insert(uid);
            }
        }
        self.orphaned.retain(|uid| orphaned.contains(uid));
        for (key, uid, dependents) in work.orphaning {
            for dependent in dependents {
                remove_owner(context, &dependent, &uid);
            }
            remove_finalizer(context, &key, "orphan");
        }
        for key in work.without_dependents {
            remove_finalizer(context, &key, "foregroundDeletion");
        }
    }
}

/// What the garbage collector has to do.
struct Work {
    /// Objects none of whose owners exists, with their UIDs.
    without_owner: Vec<(ObjectKey, String)>,
    /// Deleted objects that leave their dependents behind: with UID and dependents.
    orphaning: Vec<(ObjectKey, String, Vec<ObjectKey>)>,
    /// Deleted objects that waited for the deletion of their dependents.
    without_dependents: Vec<ObjectKey>,
}

impl Work {
    fn find(store: &ObjectStore) -> Self {
        let objects: Vec<(&ObjectKey, &Ownership)> = store.collectable().collect();
        let deleted: Vec<&(&ObjectKey, &Ownership)> = objects
            .iter()
            .filter(|(_, object)| object.is_terminating)
            .collect();
        let in_foreground: HashSet<&str> = deleted
            .iter()
            .filter(|(_, object)| object.is_blocked_by("foregroundDeletion"))
            .map(|(_, object)| object.uid.as_str())
            .collect();
        let is_gone =
            |owner: &String| !store.has_uid(owner) || in_foreground.contains(owner.as_str());
        let is_without_owner = |object: &Ownership| {
            !object.is_terminating && !object.owners.is_empty() && object.owners.iter().all(is_gone)
        };
        let dependents = |uid: &String| {
            let dependents = objects
                .iter()
                .filter(|(_, object)| object.owners.contains(uid));
            dependents
                .map(|(key, _)| (*key).clone())
                .collect::<Vec<_>>()
        };
        let orphaning = deleted
            .iter()
            .filter(|(_, object)| object.is_blocked_by("orphan"))
            .map(|(key, object)| ((*key).clone(), object.uid.clone(), dependents(&object.uid)));
        let without_dependents = deleted
            .iter()
            .filter(|(_, object)| !object.is_blocked_by("orphan"))
            .filter(|(_, object)| in_foreground.contains(object.uid.as_str()))
            .filter(|(_, object)| dependents(&object.uid).is_empty());
        Self {
            without_owner: objects
                .iter()
                .filter(|(_, object)| is_without_owner(object))
                .map(|(key, object)| ((*key).clone(), object.uid.clone()))
                .collect(),
            orphaning: orphaning.collect(),
            without_dependents: without_dependents.map(|(key, _)| (*key).clone()).collect(),
        }
    }
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
