//! The ReplicaSet controller.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::schedule::Controller;
use super::{ControllerContext, DelayedWork, controller_of, is_terminating, list, pod_is_ready};
use crate::api::{DeleteOptions, ObjectKey, ObjectStore, Selector, metadata_str};

const RESOURCE: &str = "replicasets.apps";

#[derive(Default)]
pub(super) struct ReplicaSetController {
    /// ReplicaSets with too few or too many pods.
    unscaled: DelayedWork<ObjectKey>,
    /// ReplicaSets with ready pods that are not available yet.
    becoming_available: BTreeSet<ObjectKey>,
}

type Pods = Vec<(ObjectKey, Arc<Value>)>;

impl Controller for ReplicaSetController {
    fn input_version(store: &ObjectStore) -> u64 {
        store.newest_version_of(&["pods", RESOURCE])
    }

    fn reconcile(&mut self, context: &mut ControllerContext<'_>) {
        let mut pods_by_owner: HashMap<String, Pods> = HashMap::new();
        for (key, pod) in context.all("pods") {
            if let Some(uid) = controller_of(&pod).and_then(|owner| owner["uid"].as_str())
                && !is_terminating(&pod)
            {
                pods_by_owner
                    .entry(uid.to_owned())
                    .or_default()
                    .push((key, pod));
            }
        }
        for key in self.outdated(context) {
            let set = context.store.get(&key).cloned();
            let Some(set) = set.filter(|set| !is_terminating(set)) else {
                self.unscaled.cancel(&key);
                self.becoming_available.remove(&key);
                continue;
            };
            let pods = pods_by_owner.remove(metadata_str(&set, "uid"));
            self.sync(context, key, &set, pods.unwrap_or_default());
        }
    }
}

impl ReplicaSetController {
    /// The ReplicaSets that changed or whose pods did, and those that wait for a time.
    fn outdated(&self, context: &ControllerContext<'_>) -> BTreeSet<ObjectKey> {
        let Some(changes) = context.new_changes() else {
            return context.keys(RESOURCE);
        };
        let mut outdated: BTreeSet<ObjectKey> = self.becoming_available.clone();
        outdated.extend(self.unscaled.items().cloned());
        for change in changes {
            if change.key.resource == RESOURCE {
                outdated.insert(change.key.clone());
            } else if change.key.resource == "pods" {
                let owners = change.states().filter_map(controller_of);
                outdated.extend(owners.map(|owner| ObjectKey {
                    resource: RESOURCE.to_owned(),
                    namespace: change.key.namespace.clone(),
                    name: owner["name"].as_str().unwrap_or_default().to_owned(),
                }));
            }
        }
        outdated
    }

    fn sync(
        &mut self,
        context: &mut ControllerContext<'_>,
        key: ObjectKey,
        set: &Value,
        pods: Pods,
    ) {
        if update_status(context, &key, set, &pods) {
            self.becoming_available.remove(&key);
        } else {
            self.becoming_available.insert(key.clone());
        }
        let desired = set["spec"]["replicas"]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(1);
        let delay = context.tuning.replica_sets;
        if pods.len() == desired {
            self.unscaled.cancel(&key);
        } else if self.unscaled.is_due(key.clone(), delay, context) {
            self.unscaled.cancel(&key);
            for _ in pods.len()..desired {
                context.create("pods", &key.namespace, new_pod(set));
            }
            for pod in surplus_pods(pods, desired) {
                context.delete(&pod, &DeleteOptions::default());
            }
        }
    }
}

fn new_pod(set: &Value) -> Value {
    let template = &set["spec"]["template"];
    let name = metadata_str(set, "name");
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": metadata_str(set, "uid"),
        "controller": true, "blockOwnerDeletion": true,
    });
    let mut pod = json!({
        "metadata": {"generateName": format!("{name}-"), "ownerReferences": [owner]},
        "spec": template["spec"],
    });
    for part in ["labels", "annotations"] {
        if template["metadata"][part].is_object() {
            pod["metadata"][part] = template["metadata"][part].clone();
        }
    }
    pod
}

/// The pods to delete: unready pods first, then the newest.
fn surplus_pods(mut pods: Pods, desired: usize) -> impl Iterator<Item = ObjectKey> {
    let surplus = pods.len().saturating_sub(desired);
    pods.sort_by_cached_key(|(key, pod)| {
        (
            pod_is_ready(pod),
            Reverse(metadata_str(pod, "creationTimestamp").to_owned()),
            key.clone(),
        )
    });
    pods.into_iter().take(surplus).map(|(key, _)| key)
}

/// Returns whether every ready pod is available.
fn update_status(
    context: &mut ControllerContext<'_>,
    key: &ObjectKey,
    set: &Value,
    pods: &Pods,
) -> bool {
    let ready: Vec<&Value> = pods
        .iter()
        .map(|(_, pod)| &**pod)
        .filter(|pod| pod_is_ready(pod))
        .collect();
    let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let mut available = 0;
    for pod in &ready {
        let missing = ready_since(pod).map_or(SignedDuration::ZERO, |since| {
            SignedDuration::from_secs(min_ready) - context.wall.duration_since(since)
        });
        match Duration::try_from(missing) {
            Ok(missing) if !missing.is_zero() && min_ready > 0 => {
                let at = context.now + missing;
                context.wake_at(at);
            }
            _ => available += 1,
        }
    }
    let labels = Selector::from_labels(&set["spec"]["template"]["metadata"]["labels"]);
    let labelled = pods.iter().filter(|(_, pod)| labels.matches(pod)).count();
    let mut status =
        json!({"replicas": pods.len(), "observedGeneration": set["metadata"]["generation"]});
    // Like the real controller, omits zeros.
    for (name, count) in [
        ("fullyLabeledReplicas", labelled),
        ("readyReplicas", ready.len()),
        ("availableReplicas", available),
    ] {
        if count > 0 {
            status[name] = count.into();
        }
    }
    context.set_status(key, set, status);
    available == ready.len()
}

fn ready_since(pod: &Value) -> Option<Timestamp> {
    let mut conditions = list(pod, "/status/conditions").iter();
    conditions.find(|condition| condition["type"] == "Ready")?["lastTransitionTime"]
        .as_str()?
        .parse()
        .ok()
}
