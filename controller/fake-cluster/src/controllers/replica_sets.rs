//! The ReplicaSet controller.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::schedule::Controller;
use super::{ControllerContext, DelayedWork, is_terminating, list, pod_is_ready};
use crate::api::{DeleteOptions, ObjectKey, ObjectStore, Selector, metadata_str};

#[derive(Default)]
pub(super) struct ReplicaSetController {
    /// ReplicaSets with too few or too many pods, by UID.
    unscaled: DelayedWork<String>,
}

type Pods = Vec<(ObjectKey, Arc<Value>)>;

impl Controller for ReplicaSetController {
    fn input_version(store: &ObjectStore) -> u64 {
        store.newest_version_of(&["pods", "replicasets.apps"])
    }

    fn reconcile(&mut self, context: &mut ControllerContext<'_>) {
        let mut pods_by_owner: HashMap<String, Pods> = HashMap::new();
        for (key, pod) in context.all("pods") {
            let owners = list(&pod, "/metadata/ownerReferences").iter();
            let controller = owners
                .filter(|owner| owner["controller"] == true)
                .find_map(|owner| owner["uid"].as_str());
            if let Some(uid) = controller
                && !is_terminating(&pod)
            {
                pods_by_owner
                    .entry(uid.to_owned())
                    .or_default()
                    .push((key, pod));
            }
        }
        for (key, set) in context.all("replicasets.apps") {
            if is_terminating(&set) {
                continue;
            }
            let uid = metadata_str(&set, "uid").to_owned();
            let pods = pods_by_owner.remove(&uid).unwrap_or_default();
            update_status(context, &key, &set, &pods);
            let desired = set["spec"]["replicas"]
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(1);
            if pods.len() == desired {
                self.unscaled.cancel(&uid);
            } else if self
                .unscaled
                .is_due(uid.clone(), context.tuning.replica_sets, context)
            {
                self.unscaled.cancel(&uid);
                for _ in pods.len()..desired {
                    context.create("pods", &key.namespace, new_pod(&set));
                }
                for pod in surplus_pods(pods, desired) {
                    context.delete(&pod, &DeleteOptions::default());
                }
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

fn update_status(context: &mut ControllerContext<'_>, key: &ObjectKey, set: &Value, pods: &Pods) {
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
}

fn ready_since(pod: &Value) -> Option<Timestamp> {
    let mut conditions = list(pod, "/status/conditions").iter();
    conditions.find(|condition| condition["type"] == "Ready")?["lastTransitionTime"]
        .as_str()?
        .parse()
        .ok()
}
