//! Watches all rollouts and records when each reaches what a phase waits for.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use futures::StreamExt;
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::control_plane::NAMESPACE;
use crate::product::{Observation, PROBE_LABEL, ProductKind, WatchedRollout, release_value};

/// Interval between checks of the goals.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Delay before a watch that has ended is opened again.
const REOPEN_DELAY: Duration = Duration::from_millis(200);

/// What a phase waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// A complete revision other than this one.
    Complete {
        /// The complete revision before.
        not: Option<String>,
    },
    /// The controller has observed a change of the spec.
    Observed {
        /// [`Observation::observed`] before.
        not: String,
    },
    /// A release that waits at a pause.
    Paused,
    /// An aborted release.
    Aborted,
}

impl Goal {
    fn is_met(&self, observation: &Observation) -> bool {
        match self {
            Self::Complete { not } => {
                observation.complete.is_some() && observation.complete != *not
            }
            Self::Observed { not } => {
                !observation.observed.is_empty() && observation.observed != *not
            }
            Self::Paused => observation.paused,
            Self::Aborted => observation.aborted,
        }
    }
}

/// The watched rollouts. The watch ends on drop.
pub(crate) struct Fleet {
    state: Arc<Mutex<FleetState>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct FleetState {
    observations: HashMap<String, Observation>,
    pending: HashMap<String, Goal>,
    reached: HashMap<String, Instant>,
}

impl Fleet {
    /// Starts to watch.
    pub(crate) fn watch(client: Client, kind: ProductKind) -> Self {
        let state = Arc::new(Mutex::new(FleetState::default()));
        let shared = Arc::clone(&state);
        let path = format!("{}?", kind.collection());
        let task = tokio::spawn(async move {
            follow(&client, &path, |rollout: WatchedRollout| {
                let observation = kind.observe(&rollout);
                lock(&shared).record(rollout.metadata.name, observation);
            })
            .await;
        });
        Self { state, task }
    }

    /// The last observation of a rollout.
    pub(crate) fn observation(&self, name: &str) -> Observation {
        let state = lock(&self.state);
        state.observations.get(name).cloned().unwrap_or_default()
    }

    /// Waits for a goal of a rollout from now on, also if it is met already.
    pub(crate) fn expect(&self, name: &str, goal: Goal) {
        let mut state = lock(&self.state);
        state.reached.remove(name);
        state.pending.insert(name.to_owned(), goal);
        if let Some(observation) = state.observations.get(name).cloned() {
            state.record(name.to_owned(), observation);
        }
    }

    /// When a rollout has reached its goal.
    pub(crate) fn reached(&self, name: &str) -> Option<Instant> {
        lock(&self.state).reached.get(name).copied()
    }

    /// Number of rollouts that have not reached their goals.
    pub(crate) fn pending(&self) -> usize {
        lock(&self.state).pending.len()
    }

    /// Waits until all rollouts have reached their goals, or until the deadline. The goals that
    /// are not reached are dropped.
    pub(crate) async fn wait(&self, deadline: Instant) -> Result<()> {
        while self.pending() > 0 && Instant::now() < deadline {
            if self.task.is_finished() {
                bail!("the watch of the rollouts has ended");
            }
            sleep(POLL_INTERVAL).await;
        }
        lock(&self.state).pending.clear();
        Ok(())
    }

    /// Waits like [`Self::wait`] for one rollout. Returns when it has reached its goal, if it has.
    pub(crate) async fn wait_for(&self, name: &str, deadline: Instant) -> Option<Instant> {
        while self.reached(name).is_none() && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
        }
        lock(&self.state).pending.remove(name);
        self.reached(name)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FleetState {
    fn record(&mut self, name: String, observation: Observation) {
        let goal = self.pending.get(&name);
        if goal.is_some_and(|goal| goal.is_met(&observation)) {
            self.pending.remove(&name);
            self.reached.insert(name.clone(), Instant::now());
        }
        self.observations.insert(name, observation);
    }
}

/// Watches the canary ReplicaSets of the probes. The watch ends on drop.
pub(crate) struct CanaryPods {
    removed: Arc<Mutex<HashMap<String, Instant>>>,
    task: JoinHandle<()>,
}

/// The fields that are read of a ReplicaSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WatchedReplicaSet {
    metadata: ReplicaSetMetadata,
    spec: ReplicaSetSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ReplicaSetMetadata {
    owner_references: Vec<OwnerReference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct OwnerReference {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ReplicaSetSpec {
    replicas: Option<u32>,
    template: serde_json::Value,
}

impl CanaryPods {
    /// Starts to watch the ReplicaSets of the probes that have the template of `release`.
    pub(crate) fn watch(client: Client, release: u32) -> Self {
        let removed = Arc::new(Mutex::new(HashMap::new()));
        let shared = Arc::clone(&removed);
        let path = format!(
            "/apis/apps/v1/namespaces/{NAMESPACE}/replicasets?labelSelector={PROBE_LABEL}%3Dtrue&"
        );
        let value = release_value(release);
        let task = tokio::spawn(async move {
            follow(&client, &path, |set: WatchedReplicaSet| {
                let release = set.spec.template.pointer("/spec/containers/0/env/0/value");
                let is_canary = release.and_then(serde_json::Value::as_str) == Some(&value);
                let (Some(owner), true) = (set.metadata.owner_references.first(), is_canary) else {
                    return;
                };
                let mut removed = lock(&shared);
                if set.spec.replicas == Some(0) {
                    removed
                        .entry(owner.name.clone())
                        .or_insert_with(Instant::now);
                } else {
                    removed.remove(&owner.name);
                }
            })
            .await;
        });
        Self { removed, task }
    }

    /// When the canary of a rollout was scaled to 0.
    pub(crate) fn removed_at(&self, name: &str) -> Option<Instant> {
        lock(&self.removed).get(name).copied()
    }
}

impl Drop for CanaryPods {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches a collection for ever. `path` ends with `?` or `&`.
async fn follow<T>(client: &Client, path: &str, mut apply: impl FnMut(T))
where
    T: Clone + DeserializeOwned + Send + 'static,
{
    let path = format!("{path}watch=1&resourceVersion=0&timeoutSeconds=86400");
    loop {
        if let Ok(request) = Request::get(&path).body(Vec::new())
            && let Ok(events) = client.request_events::<T>(request).await
        {
            let mut events = pin!(events);
            // After an error, the next watch starts with all objects again.
            while let Some(Ok(event)) = events.next().await {
                match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => apply(object),
                    WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
                    WatchEvent::Error(_) => break,
                }
            }
        }
        sleep(REOPEN_DELAY).await;
    }
}

/// Locks state that is consistent after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(revision: &str) -> Observation {
        Observation {
            complete: Some(revision.into()),
            observed: "2".into(),
            ..Observation::default()
        }
    }

    #[test]
    fn the_revision_before_does_not_complete_an_update() {
        let goal = Goal::Complete {
            not: Some("a".into()),
        };
        assert!(!goal.is_met(&complete("a")));
        assert!(goal.is_met(&complete("b")));
        assert!(!goal.is_met(&Observation::default()));
        let first = Goal::Complete { not: None };
        assert!(first.is_met(&complete("a")));
    }

    #[test]
    fn a_change_is_observed_when_the_status_reports_another_generation() {
        let goal = Goal::Observed { not: "1".into() };
        assert!(goal.is_met(&complete("a")));
        assert!(!Goal::Observed { not: "2".into() }.is_met(&complete("a")));
        assert!(!goal.is_met(&Observation::default()));
    }

    #[test]
    fn goals_are_reached_once() {
        let mut state = FleetState::default();
        state.pending.insert("x".into(), Goal::Aborted);
        state.record("x".into(), complete("a"));
        assert!(state.reached.is_empty() && state.pending.len() == 1);
        let aborted = Observation {
            aborted: true,
            ..Observation::default()
        };
        state.record("x".into(), aborted.clone());
        let reached = state.reached["x"];
        state.record("x".into(), aborted);
        assert_eq!(state.reached["x"], reached);
        assert!(state.pending.is_empty());
    }
}
