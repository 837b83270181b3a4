//! The Deployment controller.
//!
//! Its rules are those of `pkg/controller/deployment` of Kubernetes. Its knowledge of a Deployment
//! lags behind that of the ReplicaSets, as the caches of the real controller may: until it has seen
//! a change of the Deployment, it acts on the previous spec.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::schedule::Controller;
use super::{
    ControllerContext, DelayedWork, controller_of, is_controlled_by, is_terminating, list,
};
use crate::api::{ObjectKey, ObjectPart, ObjectStore, Selector, metadata_str};

/// The label by which the ReplicaSets of a Deployment distinguish their pods.
const HASH_LABEL: &str = "pod-template-hash";
/// Letters of generated names.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const REVISION: &str = "deployment.kubernetes.io/revision";

#[derive(Default)]
pub(super) struct DeploymentController {
    /// Changes that the controller has not seen yet, by UID and generation.
    unseen: DelayedWork<(String, i64)>,
    /// What the controller knows of each Deployment, by UID.
    seen: HashMap<String, Arc<Value>>,
}

type Sets = Vec<(ObjectKey, Arc<Value>)>;

impl Controller for DeploymentController {
    fn input_version(store: &ObjectStore) -> u64 {
        store.newest_version_of(&["deployments.apps", "replicasets.apps"])
    }

    fn reconcile(&mut self, context: &mut ControllerContext<'_>) {
        for (key, live) in context.all("deployments.apps") {
            let uid = metadata_str(&live, "uid").to_owned();
            let generation = live["metadata"]["generation"].as_i64().unwrap_or(0);
            let change = (uid.clone(), generation);
            let known = self.seen.get(&uid);
            let is_new = known.is_none_or(|known| known["metadata"]["generation"] != generation);
            let delay = context.tuning.deployments;
            if is_new && self.unseen.is_due(change.clone(), delay, context) {
                self.unseen.cancel(&change);
                self.seen.insert(uid.clone(), Arc::clone(&live));
            }
            let Some(deployment) = self.seen.get(&uid).cloned() else {
                continue;
            };
            if !is_terminating(&live) {
                sync(context, &key, &live, &deployment);
            }
        }
    }
}

/// One sync of a Deployment, as far as the controller has seen it.
fn sync(context: &mut ControllerContext<'_>, key: &ObjectKey, live: &Value, deployment: &Value) {
    let mut sets = claim_sets(context, key, deployment);
    let is_paused = deployment["spec"]["paused"] == true;
    if !is_paused && find_new(deployment, &sets).is_none() {
        create_new_set(context, key, deployment, &sets);
        sets = owned_sets(context, key, deployment);
    }
    record_revision(context, deployment, &sets);
    sets = owned_sets(context, key, deployment);
    let desired = replicas(deployment);
    if is_paused {
        scale_paused(context, deployment, &sets);
    } else if deployment["spec"]["strategy"]["type"] == "Recreate" {
        recreate(context, deployment, &sets);
    } else {
        roll(context, deployment, &sets, desired);
    }
    sets = owned_sets(context, key, deployment);
    update_status(context, key, live, deployment, &sets);
}

/// The ReplicaSets of the Deployment. ReplicaSets without a controller that match the selector are
/// adopted, and those that do not match are released.
fn claim_sets(context: &mut ControllerContext<'_>, key: &ObjectKey, deployment: &Value) -> Sets {
    let uid = metadata_str(deployment, "uid");
    let selector = Selector::from_labels(&deployment["spec"]["selector"]["matchLabels"]);
    for (set_key, set) in context.all("replicasets.apps") {
        let owners = list(&set, "/metadata/ownerReferences");
        let is_claimed = set_key.namespace == key.namespace
            && controller_of(&set).is_none()
            && selector.matches(&set)
            && !is_terminating(&set);
        if is_claimed {
            let mut next = Value::clone(&set);
            let mut owners = owners.to_vec();
            owners.push(json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "uid": uid, "controller": true,
                "name": metadata_str(deployment, "name"), "blockOwnerDeletion": true,
            }));
            next["metadata"]["ownerReferences"] = owners.into();
            context.write(&set_key, next, ObjectPart::Main);
        } else if is_controlled_by(&set, uid) && !selector.matches(&set) {
            let mut next = Value::clone(&set);
            if let Some(Value::Array(owners)) = next.pointer_mut("/metadata/ownerReferences") {
                owners.retain(|owner| owner["uid"] != uid);
            }
            context.write(&set_key, next, ObjectPart::Main);
        }
    }
    owned_sets(context, key, deployment)
}

/// The ReplicaSets that the Deployment controls, oldest first.
fn owned_sets(context: &ControllerContext<'_>, key: &ObjectKey, deployment: &Value) -> Sets {
    let uid = metadata_str(deployment, "uid");
    let mut sets = context.all("replicasets.apps");
    sets.retain(|(set_key, set)| {
        set_key.namespace == key.namespace && is_controlled_by(set, uid) && !is_terminating(set)
    });
    sets.sort_by_cached_key(|(key, set)| {
        (
            metadata_str(set, "creationTimestamp").to_owned(),
            key.clone(),
        )
    });
    sets
}

/// The oldest ReplicaSet with the template of the Deployment, apart from the hash label.
fn find_new<'s>(deployment: &Value, sets: &'s Sets) -> Option<&'s (ObjectKey, Arc<Value>)> {
    let wanted = without_hash(&deployment["spec"]["template"]);
    let mut equal = sets
        .iter()
        .filter(|(_, set)| without_hash(&set["spec"]["template"]) == wanted);
    equal.next()
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.remove(HASH_LABEL);
    }
    template
}

fn create_new_set(
    context: &mut ControllerContext<'_>,
    key: &ObjectKey,
    deployment: &Value,
    old: &Sets,
) {
    let hash = hash_of(&deployment["spec"]["template"]);
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH_LABEL] = hash.clone().into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH_LABEL] = hash.clone().into();
    let name = metadata_str(deployment, "name");
    let room = (replicas(deployment) + max_surge(deployment)).saturating_sub(total(old));
    let count = if deployment["spec"]["strategy"]["type"] == "Recreate" {
        0
    } else {
        room.min(replicas(deployment))
    };
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "name": name,
        "uid": metadata_str(deployment, "uid"), "controller": true, "blockOwnerDeletion": true,
    });
    let set = json!({
        "metadata": {"name": format!("{name}-{hash}"), "ownerReferences": [owner],
                     "labels": template["metadata"]["labels"],
                     "annotations": {REVISION: next_revision(old).to_string()}},
        "spec": {"replicas": count, "selector": selector, "template": template,
                 "minReadySeconds": deployment["spec"]["minReadySeconds"].as_i64().unwrap_or(0)},
    });
    let set_key = ObjectKey {
        resource: "replicasets.apps".to_owned(),
        namespace: key.namespace.clone(),
        name: format!("{name}-{hash}"),
    };
    // The real controller increments its collision count and tries another name. Its next sync
    // succeeds if the other object is gone.
    if context.store.get(&set_key).is_none() {
        context.create("replicasets.apps", &key.namespace, set);
    }
}

fn next_revision(sets: &Sets) -> u64 {
    let revisions = sets.iter().map(|(_, set)| revision(set));
    revisions.max().unwrap_or(0) + 1
}

fn revision(set: &Value) -> u64 {
    let text = set["metadata"]["annotations"][REVISION].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Gives the current ReplicaSet the highest revision.
fn record_revision(context: &mut ControllerContext<'_>, deployment: &Value, sets: &Sets) {
    let Some((key, set)) = find_new(deployment, sets) else {
        return;
    };
    let others = sets.iter().filter(|(other, _)| other != key);
    let highest = others.map(|(_, set)| revision(set)).max().unwrap_or(0);
    if revision(set) > highest {
        return;
    }
    let mut next = Value::clone(set);
    next["metadata"]["annotations"][REVISION] = (highest + 1).to_string().into();
    context.write(key, next, ObjectPart::Main);
}

/// A paused Deployment scales its only active ReplicaSet, or its newest one if none is active.
fn scale_paused(context: &mut ControllerContext<'_>, deployment: &Value, sets: &Sets) {
    let active: Vec<_> = sets.iter().filter(|(_, set)| replicas(set) > 0).collect();
    let only = match active[..] {
        [] => find_new(deployment, sets).or(sets.last()),
        [only] => Some(only),
        _ => None,
    };
    if let Some((key, set)) = only {
        scale(context, key, set, replicas(deployment));
    }
}

fn recreate(context: &mut ControllerContext<'_>, deployment: &Value, sets: &Sets) {
    let new = find_new(deployment, sets).map(|(key, _)| key.clone());
    let old = || sets.iter().filter(|(key, _)| Some(key) != new.as_ref());
    for (key, set) in old() {
        scale(context, key, set, 0);
    }
    let has_old_pods = old().any(|(_, set)| status(set, "replicas") > 0);
    if let Some((key, set)) = find_new(deployment, sets).filter(|_| !has_old_pods) {
        scale(context, key, set, replicas(deployment));
    }
}

/// A rolling update: up within `maxSurge`, then down within `maxUnavailable`.
fn roll(context: &mut ControllerContext<'_>, deployment: &Value, sets: &Sets, desired: u64) {
    let Some((new_key, new)) = find_new(deployment, sets) else {
        return;
    };
    let count = replicas(new);
    let room = (desired + max_surge(deployment)).saturating_sub(total(sets));
    let wanted = if count > desired {
        desired
    } else {
        count + room.min(desired - count)
    };
    if wanted != count {
        return scale(context, new_key, new, wanted);
    }
    let unready = count.saturating_sub(status(new, "availableReplicas"));
    let minimum = desired.saturating_sub(max_unavailable(deployment));
    let mut removable = total(sets).saturating_sub(minimum + unready);
    for (key, set) in sets.iter().filter(|(key, _)| key != new_key) {
        let removed = removable.min(replicas(set));
        removable -= removed;
        scale(context, key, set, replicas(set) - removed);
    }
}

fn scale(context: &mut ControllerContext<'_>, key: &ObjectKey, set: &Value, count: u64) {
    if replicas(set) == count {
        return;
    }
    let mut next = set.clone();
    next["spec"]["replicas"] = count.into();
    context.write(key, next, ObjectPart::Main);
}

fn update_status(
    context: &mut ControllerContext<'_>,
    key: &ObjectKey,
    live: &Value,
    deployment: &Value,
    sets: &Sets,
) {
    let sum = |field: &str| -> u64 { sets.iter().map(|(_, set)| status(set, field)).sum() };
    let updated = find_new(deployment, sets).map_or(0, |(_, set)| status(set, "replicas"));
    let counts = [
        ("replicas", sum("replicas")),
        ("updatedReplicas", updated),
        ("readyReplicas", sum("readyReplicas")),
        ("availableReplicas", sum("availableReplicas")),
        (
            "unavailableReplicas",
            replicas(deployment).saturating_sub(sum("availableReplicas")),
        ),
    ];
    let mut next = Map::new();
    next.insert(
        "observedGeneration".to_owned(),
        deployment["metadata"]["generation"].clone(),
    );
    // Like the real controller, omits zeros.
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    next.extend(counts.map(|(name, count)| (name.to_owned(), count.into())));
    context.set_status(key, live, next.into());
}

fn replicas(object: &Value) -> u64 {
    object["spec"]["replicas"].as_u64().unwrap_or(1)
}

fn status(set: &Value, field: &str) -> u64 {
    set["status"][field].as_u64().unwrap_or(0)
}

fn total(sets: &Sets) -> u64 {
    sets.iter().map(|(_, set)| replicas(set)).sum()
}

fn max_surge(deployment: &Value) -> u64 {
    let surge = &deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"];
    surge
        .as_u64()
        .unwrap_or_else(|| replicas(deployment).div_ceil(4))
}

fn max_unavailable(deployment: &Value) -> u64 {
    let unavailable = &deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"];
    unavailable
        .as_u64()
        .unwrap_or_else(|| replicas(deployment) / 4)
}

/// A name of ten letters for a template (FNV-1a).
fn hash_of(template: &Value) -> String {
    let mut hash = template
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let mut name = String::new();
    for _ in 0..10 {
        let index = usize::try_from(hash % 27).unwrap_or(0);
        name.push(char::from(LETTERS[index]));
        hash /= 27;
    }
    name
}
