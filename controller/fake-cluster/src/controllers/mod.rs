//! The controllers of the cluster, except the one under test.
//!
//! Each controller reconciles the store at the current time and schedules its next wake-up. The
//! controllers write to the store directly, so that the request log shows only the controller under
//! test.

mod deployments;
mod endpoints;
mod garbage_collector;
mod gateway;
mod kubelet;
mod replica_sets;
mod schedule;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{
    ApiError, Change, DeleteOptions, ObjectKey, ObjectPart, ObjectStore, Selector, format_time,
};
use crate::tuning::{ClusterTuning, PodBehavior};

use kubelet::Kubelet;
use schedule::Scheduled;

/// Maximum number of reconcile rounds at one time. More rounds mean that two controllers conflict.
const ROUNDS_LIMIT: usize = 1_000;

/// All controllers and their state.
#[derive(Default)]
pub(crate) struct Controllers {
    kubelet: Scheduled<Kubelet>,
    deployments: Scheduled<deployments::DeploymentController>,
    replica_sets: Scheduled<replica_sets::ReplicaSetController>,
    endpoints: Scheduled<endpoints::EndpointSliceController>,
    gateway: Scheduled<gateway::GatewayController>,
    garbage: Scheduled<garbage_collector::GarbageCollector>,
}

/// Input and output of a controller in one round.
struct ControllerContext<'c> {
    store: &'c mut ObjectStore,
    tuning: &'c ClusterTuning,
    now: Instant,
    wall: Timestamp,
    /// The earliest scheduled wake-up.
    next: Option<Instant>,
    /// The version of the store before the last run of this controller. `None` if it must look at
    /// everything.
    since: Option<u64>,
}

impl Controllers {
    /// Runs all controllers until none changes the store. Returns the earliest scheduled wake-up.
    #[expect(
        clippy::panic,
        reason = "controllers that never become stable are a bug in this crate"
    )]
    pub(crate) fn reconcile_until_stable(
        &mut self,
        store: &mut ObjectStore,
        tuning: &ClusterTuning,
        wall: Timestamp,
    ) -> Option<Instant> {
        for _ in 0..ROUNDS_LIMIT {
            let version = store.version();
            let mut context = ControllerContext {
                store: &mut *store,
                tuning,
                now: Instant::now(),
                wall,
                next: None,
                since: None,
            };
            self.reconcile(&mut context);
            let next = context.next;
            if store.version() == version {
                return next;
            }
        }
        panic!("the controllers of the fake cluster never become stable");
    }

    /// Sets the behavior of the pods that match a selector.
    pub(crate) fn set_pod_behavior(&mut self, selector: Selector, behavior: PodBehavior) {
        self.kubelet.controller.add_rule(selector, behavior);
        self.kubelet.run_again();
    }

    /// Makes every controller run again, after a change that is not in the store.
    pub(crate) fn run_all_again(&mut self) {
        self.garbage.run_again();
        self.deployments.run_again();
        self.replica_sets.run_again();
        self.kubelet.run_again();
        self.endpoints.run_again();
        self.gateway.run_again();
    }

    fn reconcile(&mut self, context: &mut ControllerContext<'_>) {
        self.garbage.reconcile_if_due(context);
        self.deployments.reconcile_if_due(context);
        self.replica_sets.reconcile_if_due(context);
        self.kubelet.reconcile_if_due(context);
        self.endpoints.reconcile_if_due(context);
        self.gateway.reconcile_if_due(context);
    }
}

impl ControllerContext<'_> {
    /// Schedules a wake-up.
    fn wake_at(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// The changes since the last run of this controller. `None` if it must look at everything,
    /// because it has not run yet or the history is too short.
    fn new_changes(&self) -> Option<impl Iterator<Item = &Change>> {
        let since = self.since?;
        let is_known = since >= self.store.oldest_version();
        is_known.then(|| self.store.changes_after(since))
    }

    /// The keys of the current objects of one resource.
    fn keys(&self, resource: &str) -> BTreeSet<ObjectKey> {
        let objects = self.store.list(resource, None);
        objects.map(|(key, _)| key.clone()).collect()
    }

    /// The current objects of one resource.
    fn all(&self, resource: &str) -> Vec<(ObjectKey, Arc<Value>)> {
        self.store
            .list(resource, None)
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect()
    }

    /// Writes an object's status if it differs.
    fn set_status(&mut self, key: &ObjectKey, object: &Value, status: Value) {
        if object["status"] == status {
            return;
        }
        let mut next = object.clone();
        next["status"] = status;
        self.write(key, next, ObjectPart::Status);
    }

    /// Writes one part of an object. Never conflicts, because the store is locked.
    fn write(&mut self, key: &ObjectKey, mut object: Value, part: ObjectPart) {
        if let Some(kind) = self.store.kind_of_resource(&key.resource).cloned() {
            // The object may be stored in a version that is no longer served.
            object["apiVersion"] = kind.api_version().into();
            expect_accepted(self.store.update(&kind, key, object, part, false));
        }
    }

    fn delete(&mut self, key: &ObjectKey, options: &DeleteOptions) {
        if let Some(kind) = self.store.kind_of_resource(&key.resource).cloned() {
            expect_accepted(self.store.delete(&kind, key, options, self.wall));
        }
    }

    fn create(&mut self, resource: &str, namespace: &str, object: Value) {
        if let Some(kind) = self.store.kind_of_resource(resource).cloned() {
            expect_accepted(
                self.store
                    .create(&kind, namespace, object, self.wall, false),
            );
        }
    }
}

#[expect(
    clippy::panic,
    reason = "a controller whose write is rejected is a bug in this crate"
)]
fn expect_accepted<T>(result: Result<T, ApiError>) {
    if let Err(error) = result {
        panic!("a controller of the fake cluster was rejected: {error}");
    }
}

/// The time since which each item has been pending, so that a controller reacts after a delay.
struct DelayedWork<K>(HashMap<K, Instant>);

impl<K> Default for DelayedWork<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> DelayedWork<K> {
    /// Whether an item has been pending for `delay`. Otherwise schedules a wake-up for that time.
    fn is_due(&mut self, item: K, delay: Duration, context: &mut ControllerContext<'_>) -> bool {
        let at = *self.0.entry(item).or_insert(context.now) + delay;
        if at > context.now {
            context.wake_at(at);
        }
        at <= context.now
    }

    /// The items that are pending.
    fn items(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Keeps only these items pending.
    fn retain(&mut self, is_pending: impl Fn(&K) -> bool) {
        self.0.retain(|item, _| is_pending(item));
    }

    /// Marks an item as no longer pending.
    fn cancel(&mut self, item: &K) {
        self.0.remove(item);
    }
}

/// The reference to the controller of an object. There is at most one.
fn controller_of(object: &Value) -> Option<&Value> {
    let mut owners = list(object, "/metadata/ownerReferences").iter();
    owners.find(|owner| owner["controller"] == true)
}

/// Whether the object with this UID is the controller of an object.
fn is_controlled_by(object: &Value, uid: &str) -> bool {
    controller_of(object).is_some_and(|owner| owner["uid"] == uid)
}

/// Whether an object has a deletion timestamp.
fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Whether a pod has the condition `Ready`.
fn pod_is_ready(pod: &Value) -> bool {
    let is_ready =
        |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    list(pod, "/status/conditions").iter().any(is_ready)
}

/// A condition. Its `lastTransitionTime` is kept if the status has not changed.
fn condition(before: &[Value], kind: &str, holds: bool, reason: &str, wall: Timestamp) -> Value {
    let status = if holds { "True" } else { "False" };
    let same = before
        .iter()
        .find(|condition| condition["type"] == kind && condition["status"] == status);
    let since = same.map_or_else(
        || format_time(wall).into(),
        |condition| condition["lastTransitionTime"].clone(),
    );
    json!({"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": since})
}

fn list<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}
