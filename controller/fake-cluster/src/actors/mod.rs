//! The controllers of the world beside the one under test.
//!
//! Each is a function of what is stored and of the time: it does what is due and answers when it
//! has something to do next. They write to the store directly, so that the log of requests shows
//! the controller under test alone.

mod endpoints;
mod garbage;
mod gateway;
mod kubelet;
mod replica_sets;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{DeleteOptions, Failure, Key, Part, Store, seconds};
use crate::tuning::Tuning;

pub(crate) use kubelet::Kubelet;

/// How many rounds the actors may take at one moment; more means that two of them fight.
const ROUNDS_LIMIT: usize = 1_000;

/// The controllers and what they remember.
#[derive(Default)]
pub(crate) struct Actors {
    pub(crate) kubelet: Kubelet,
    replica_sets: replica_sets::ReplicaSets,
    endpoints: endpoints::Endpoints,
    gateway: gateway::Gateway,
    garbage: garbage::Garbage,
}

/// What an actor works with at one moment.
struct Moment<'m> {
    store: &'m mut Store,
    tuning: &'m Tuning,
    now: Instant,
    wall: Timestamp,
    /// When somebody has something to do next.
    next: Option<Instant>,
}

impl Actors {
    /// One moment: every actor acts until none has anything to do. When one of them wants to be
    /// asked again.
    #[expect(
        clippy::panic,
        reason = "actors that never come to rest are a mistake in this crate"
    )]
    pub(crate) fn act_until_quiet(
        &mut self,
        store: &mut Store,
        tuning: &Tuning,
        wall: Timestamp,
    ) -> Option<Instant> {
        for _ in 0..ROUNDS_LIMIT {
            let version = store.version();
            let mut moment = Moment {
                store: &mut *store,
                tuning,
                now: Instant::now(),
                wall,
                next: None,
            };
            self.act(&mut moment);
            let next = moment.next;
            if store.version() == version {
                return next;
            }
        }
        panic!("the actors of the world never come to rest");
    }

    fn act(&mut self, moment: &mut Moment<'_>) {
        self.garbage.act(moment);
        self.replica_sets.act(moment);
        self.kubelet.act(moment);
        self.endpoints.act(moment);
        self.gateway.act(moment);
    }
}

impl Moment<'_> {
    /// Asks for another look then.
    fn wake_at(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// The objects of one resource, as they are now.
    fn all(&self, resource: &str) -> Vec<(Key, Arc<Value>)> {
        self.store
            .list(resource, None)
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect()
    }

    /// Writes an object's status, where it differs.
    fn set_status(&mut self, key: &Key, object: &Value, status: Value) {
        if object["status"] == status {
            return;
        }
        let mut next = object.clone();
        next["status"] = status;
        self.write(key, next, Part::Status);
    }

    /// Writes one part of an object. Nobody comes between: the world stands still meanwhile.
    fn write(&mut self, key: &Key, mut object: Value, part: Part) {
        if let Some(kind) = self.store.kind_of_resource(&key.resource).cloned() {
            // It may be stored in another version than the one that is served now.
            object["apiVersion"] = kind.api_version().into();
            expect_granted(self.store.update(&kind, key, object, part, false));
        }
    }

    fn delete(&mut self, key: &Key, options: &DeleteOptions) {
        if let Some(kind) = self.store.kind_of_resource(&key.resource).cloned() {
            expect_granted(self.store.delete(&kind, key, options, self.wall));
        }
    }

    fn create(&mut self, resource: &str, namespace: &str, object: Value) {
        if let Some(kind) = self.store.kind_of_resource(resource).cloned() {
            expect_granted(
                self.store
                    .create(&kind, namespace, object, self.wall, false),
            );
        }
    }
}

#[expect(
    clippy::panic,
    reason = "an actor that is refused by the API server is a mistake in this crate"
)]
fn expect_granted<T>(outcome: Result<T, Failure>) {
    if let Err(failure) = outcome {
        panic!("an actor of the world was refused: {failure}");
    }
}

/// Since when each of some things has been due, so that an actor reacts a while after it could
/// first have known.
struct Due<K>(HashMap<K, Instant>);

impl<K> Default for Due<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Due<K> {
    /// Whether something that is due now has been so for `delay`; otherwise asks for another look
    /// when it will have been.
    fn has_waited(&mut self, thing: K, delay: Duration, moment: &mut Moment<'_>) -> bool {
        let at = *self.0.entry(thing).or_insert(moment.now) + delay;
        if at > moment.now {
            moment.wake_at(at);
        }
        at <= moment.now
    }

    /// It is not due any more.
    fn settle(&mut self, thing: &K) {
        self.0.remove(thing);
    }
}

/// Whether an object is owned, as by a controller, by the object with this UID.
fn is_controlled_by(object: &Value, uid: &str) -> bool {
    list(object, "/metadata/ownerReferences")
        .iter()
        .any(|owner| owner["controller"] == true && owner["uid"] == uid)
}

/// Whether an object waits for its end.
fn is_going(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// The state of one of a pod's conditions.
fn pod_is_ready(pod: &Value) -> bool {
    let is_ready =
        |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    list(pod, "/status/conditions").iter().any(is_ready)
}

/// A condition as it should be; the time of its last transition is kept where it has not changed.
fn condition(before: &[Value], kind: &str, holds: bool, reason: &str, wall: Timestamp) -> Value {
    let status = if holds { "True" } else { "False" };
    let same = before
        .iter()
        .find(|condition| condition["type"] == kind && condition["status"] == status);
    let since = same.map_or_else(
        || seconds(wall).into(),
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
