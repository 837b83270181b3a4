//! Makes ReplicaSets have as many pods as they should, and counts them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Due, Moment, is_going, list, pod_is_ready};
use crate::api::{DeleteOptions, Key, field};

#[derive(Default)]
pub(super) struct ReplicaSets {
    /// ReplicaSets that have the wrong number of pods, by UID.
    wrong: Due<String>,
}

type Pods = Vec<(Key, Arc<Value>)>;

impl ReplicaSets {
    pub(super) fn act(&mut self, moment: &mut Moment<'_>) {
        let mut pods_of: HashMap<String, Pods> = HashMap::new();
        for (key, pod) in moment.all("pods") {
            let owners = list(&pod, "/metadata/ownerReferences").iter();
            let controller = owners
                .filter(|owner| owner["controller"] == true)
                .find_map(|owner| owner["uid"].as_str());
            if let Some(uid) = controller
                && !is_going(&pod)
            {
                pods_of.entry(uid.to_owned()).or_default().push((key, pod));
            }
        }
        for (key, set) in moment.all("replicasets.apps") {
            if is_going(&set) {
                continue;
            }
            let uid = field(&set, "uid").to_owned();
            let pods = pods_of.remove(&uid).unwrap_or_default();
            report(moment, &key, &set, &pods);
            let wanted = set["spec"]["replicas"]
                .as_u64()
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(1);
            if pods.len() == wanted {
                self.wrong.settle(&uid);
            } else if self
                .wrong
                .has_waited(uid.clone(), moment.tuning.replica_sets, moment)
            {
                self.wrong.settle(&uid);
                for _ in pods.len()..wanted {
                    moment.create("pods", &key.namespace, new_pod(&set));
                }
                for victim in victims(pods, wanted) {
                    moment.delete(&victim, &DeleteOptions::default());
                }
            }
        }
    }
}

fn new_pod(set: &Value) -> Value {
    let template = &set["spec"]["template"];
    let name = field(set, "name");
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": field(set, "uid"),
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

/// The pods that are too many: those that are not ready first, then the newest.
fn victims(mut pods: Pods, wanted: usize) -> impl Iterator<Item = Key> {
    let surplus = pods.len().saturating_sub(wanted);
    pods.sort_by_cached_key(|(key, pod)| {
        (
            pod_is_ready(pod),
            Reverse(field(pod, "creationTimestamp").to_owned()),
            key.clone(),
        )
    });
    pods.into_iter().take(surplus).map(|(key, _)| key)
}

fn report(moment: &mut Moment<'_>, key: &Key, set: &Value, pods: &Pods) {
    let ready: Vec<&Value> = pods
        .iter()
        .map(|(_, pod)| &**pod)
        .filter(|pod| pod_is_ready(pod))
        .collect();
    let min_ready = set["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let mut available = 0;
    for pod in &ready {
        let missing = ready_since(pod).map_or(SignedDuration::ZERO, |since| {
            SignedDuration::from_secs(min_ready) - moment.wall.duration_since(since)
        });
        match Duration::try_from(missing) {
            Ok(missing) if !missing.is_zero() && min_ready > 0 => {
                let at = moment.now + missing;
                moment.wake_at(at);
            }
            _ => available += 1,
        }
    }
    let mut status =
        json!({"replicas": pods.len(), "observedGeneration": set["metadata"]["generation"]});
    // Zeros are left out, as the real one does.
    for (name, count) in [
        ("fullyLabeledReplicas", pods.len()),
        ("readyReplicas", ready.len()),
        ("availableReplicas", available),
    ] {
        if count > 0 {
            status[name] = count.into();
        }
    }
    moment.set_status(key, set, status);
}

fn ready_since(pod: &Value) -> Option<Timestamp> {
    let mut conditions = list(pod, "/status/conditions").iter();
    conditions.find(|condition| condition["type"] == "Ready")?["lastTransitionTime"]
        .as_str()?
        .parse()
        .ok()
}
