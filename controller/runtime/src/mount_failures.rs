//! Pods that a node cannot start: a volume cannot be mounted, for example because its ConfigMap or
//! Secret is missing, or the sandbox of the pod cannot be created.
//!
//! The kubelet reports this in Events only. A watch of all Events would cost more than everything
//! else that the controller reads, so the Events of one pod are listed, and only if the pod has
//! been starting for a while and the release waits for it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, PodStatus};
use kube::api::ListParams;
use kube::{Api, Client};
use serin_core::hold::{Hold, HoldCode};
use serin_core::observed::{Observed, PodProblem};
use serin_core::state::State;
use serin_core::text::excerpt;
use tokio::time::{Instant, timeout};

use crate::cluster_cache::{CachedPod, STARTING};
use crate::observe::Snapshot;

/// Time after which a pod that is still starting is looked at. Most mounts take less.
const START_TIME: Duration = Duration::from_secs(10);
/// Minimum time between two lists for one Rollout.
const LIST_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum time to wait for a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of Events to read.
const LIST_LIMIT: u32 = 20;
/// The reasons of the kubelet and of the attach controller for a volume that cannot be used.
const VOLUME_REASONS: [&str; 2] = ["FailedMount", "FailedAttachVolume"];
/// The reason of the kubelet for a sandbox that cannot be created.
const SANDBOX_REASON: &str = "FailedCreatePodSandBox";

/// What is known about one Rollout's pods that a node cannot start.
#[derive(Debug, Default)]
pub struct MountFailures {
    listed_at: Option<Instant>,
    /// The UID of a pod and its problem.
    finding: Option<(String, PodProblem)>,
}

impl MountFailures {
    /// Adds the known problem to the observation, if its pod is still starting and no other
    /// problem is known.
    pub fn add_to(&self, observed: &mut Observed, snapshot: &Snapshot) {
        let Some((uid, problem)) = &self.finding else {
            return;
        };
        let mut pods = snapshot.pods.iter();
        let pod = pods.find(|pod| pod.identity.uid == *uid && is_starting(pod));
        let revision = pod.and_then(|pod| pod.revision.as_ref());
        let view = revision.and_then(|revision| observed.replica_sets.get_mut(revision));
        if let Some(view) = view {
            view.problem.get_or_insert_with(|| problem.clone());
        }
    }

    /// Lists the Events of a pod that the release waits for, if it is due. Returns when to
    /// reconcile again. A failed list only leaves the cause unknown.
    pub async fn update(
        &mut self,
        client: &Client,
        namespace: &str,
        snapshot: &Snapshot,
        state: &State,
        now: Timestamp,
    ) -> Option<Duration> {
        let Some((pod, since)) = awaited_pod(snapshot, state) else {
            self.finding = None;
            return None;
        };
        let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let too_young = START_TIME.saturating_sub(age);
        let too_soon = self.listed_at.map_or(Duration::ZERO, |at| {
            LIST_INTERVAL.saturating_sub(at.elapsed())
        });
        let wait = too_young.max(too_soon);
        if !wait.is_zero() {
            return Some(wait);
        }
        self.listed_at = Some(Instant::now());
        let found = list_problem(client, namespace, pod).await;
        let finding = found.map(|problem| (pod.identity.uid.clone(), problem));
        let is_new = finding.is_some() && finding != self.finding;
        self.finding = finding;
        Some(if is_new {
            Duration::ZERO
        } else {
            LIST_INTERVAL
        })
    }
}

/// Since when a pod has had a node and none of its containers was created.
pub(crate) fn starting_since(status: &PodStatus) -> Option<Timestamp> {
    let mut conditions = status.conditions.iter().flatten();
    let scheduled = conditions.find(|condition| condition.type_ == "PodScheduled")?;
    let init = status.init_container_statuses.iter().flatten();
    let mut containers = init
        .chain(status.container_statuses.iter().flatten())
        .peekable();
    let has_containers = containers.peek().is_some();
    let is_starting = has_containers && containers.all(is_not_created);
    let since = scheduled.last_transition_time.as_ref()?.0;
    (is_starting && scheduled.status == "True").then_some(since)
}

fn is_not_created(container: &ContainerStatus) -> bool {
    let waiting = container
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
    container
        .last_state
        .as_ref()
        .is_none_or(|last| last.terminated.is_none())
        && reason.is_some_and(|reason| STARTING.contains(&reason))
}

fn is_starting(pod: &CachedPod) -> bool {
    pod.active && !pod.ready && pod.starting_since.is_some()
}

/// The pod that a release waits for and that has been starting for the longest time.
fn awaited_pod<'a>(snapshot: &'a Snapshot, state: &State) -> Option<(&'a CachedPod, Timestamp)> {
    let is_pods_hold = |hold: &Hold| {
        matches!(
            hold.code,
            HoldCode::PodsNotAvailable | HoldCode::VolumeMountFailed | HoldCode::PodSandboxFailed
        )
    };
    if !state.holds.iter().any(is_pods_hold) {
        return None;
    }
    let current = state.current_revision.as_ref();
    let pods = snapshot.pods.iter().map(AsRef::as_ref);
    let starting = pods.filter(|pod| is_starting(pod) && pod.revision.as_ref() == current);
    let since = starting.filter_map(|pod| Some((pod, pod.starting_since?)));
    since.min_by_key(|(pod, since)| (*since, &pod.identity.key.name))
}

async fn list_problem(client: &Client, namespace: &str, pod: &CachedPod) -> Option<PodProblem> {
    let fields = format!("involvedObject.uid={},type=Warning", pod.identity.uid);
    let params = ListParams::default().fields(&fields).limit(LIST_LIMIT);
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    match timeout(LIST_TIMEOUT, events.list(&params)).await {
        Ok(Ok(list)) => problem_of_events(&pod.identity.key.name, list.items),
        Ok(Err(error)) => {
            tracing::debug!(%error, "failed to list the Events of a pod");
            None
        }
        Err(_) => {
            tracing::debug!("timed out listing the Events of a pod");
            None
        }
    }
}

/// The newest reason why a node cannot start the pod. A cause is preferred to the summary that
/// follows it.
fn problem_of_events(pod: &str, mut events: Vec<Event>) -> Option<PodProblem> {
    let is_sandbox = |event: &Event| event.reason.as_deref() == Some(SANDBOX_REASON);
    events.retain(|event| {
        let reason = event.reason.as_deref().unwrap_or_default();
        (VOLUME_REASONS.contains(&reason) || is_sandbox(event)) && event.message.is_some()
    });
    let newest = events.into_iter().max_by_key(|event| {
        let is_cause = is_sandbox(event) || event.message.as_deref().and_then(cause).is_some();
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        (
            is_cause,
            last.or(event.event_time.as_ref().map(|time| time.0)),
        )
    })?;
    let message = newest.message.as_deref().unwrap_or_default();
    let (code, detail) = if is_sandbox(&newest) {
        (HoldCode::PodSandboxFailed, describe_sandbox(message))
    } else {
        (HoldCode::VolumeMountFailed, describe(message))
    };
    Some(PodProblem {
        code,
        object: format!("pod {pod}"),
        detail,
        since: None,
    })
}

/// The cause in a message such as `Failed to create pod sandbox: rpc error: code = Unknown desc =
/// failed to setup network for sandbox "4f2...": no networks found`. Each attempt has another
/// identifier, so it is left out.
fn describe_sandbox(message: &str) -> String {
    let message = message
        .strip_prefix("Failed to create pod sandbox: ")
        .or_else(|| message.strip_prefix("Failed to create pod sandbox "))
        .unwrap_or(message);
    let (_, cause) = message.split_once(" desc = ").unwrap_or(("", message));
    let is_identifier = |word: &&str| {
        let word = word.trim_matches(['"', ':', ',', '(', ')']);
        word.len() >= 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let words: Vec<&str> = cause
        .split_whitespace()
        .filter(|word| !is_identifier(word))
        .collect();
    format!("cannot create its sandbox: {}", excerpt(&words.join(" ")))
}

/// The volume and the cause in a message such as `MountVolume.SetUp failed for volume "config" :
/// configmap "shop" not found`.
fn cause(message: &str) -> Option<(&str, &str)> {
    let (_, rest) = message.split_once(" failed for volume ")?;
    let (volume, cause) = rest.split_once(" : ")?;
    Some((volume.trim_matches('"'), cause))
}

fn describe(message: &str) -> String {
    match cause(message) {
        Some((volume, cause)) => format!("cannot mount volume {volume}: {}", excerpt(cause)),
        None => format!("cannot mount its volumes: {}", excerpt(message)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(containers: &Value, init: &Value) -> Option<Timestamp> {
        let status = json!({
            "conditions": [{"type": "PodScheduled", "status": "True",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": containers, "initContainerStatuses": init,
        });
        starting_since(&serde_json::from_value(status).unwrap())
    }

    fn container(state: &Value) -> Value {
        json!({"name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": state})
    }

    #[test]
    fn a_pod_is_starting_until_its_first_container_is_created() {
        let waiting = |reason: &str| container(&json!({"waiting": {"reason": reason}}));
        let running = container(&json!({"running": {}}));
        let none = json!([]);
        assert!(status(&json!([waiting("ContainerCreating")]), &none).is_some());
        assert!(status(&json!([waiting("PodInitializing")]), &json!([running])).is_none());
        assert!(status(&json!([waiting("ImagePullBackOff")]), &none).is_none());
        assert!(
            status(&none, &none).is_none(),
            "the kubelet has not seen it"
        );
    }

    fn event(reason: &str, message: &str, at: &str) -> Event {
        let event = json!({"metadata": {}, "involvedObject": {}, "type": "Warning",
            "reason": reason, "message": message, "lastTimestamp": at});
        serde_json::from_value(event).unwrap()
    }

    /// The messages are from kubelet 1.34.
    #[test]
    fn the_newest_cause_is_reported_before_the_summary() {
        let summary = "Unable to attach or mount volumes: unmounted volumes=[config], unattached \
                       volumes=[], failed to process volumes=[]: context deadline exceeded";
        let events = vec![
            event(
                "FailedMount",
                "MountVolume.SetUp failed for volume \"config\" : configmap \"old\" not found",
                "2026-01-01T00:00:00Z",
            ),
            event(
                "FailedMount",
                "MountVolume.SetUp failed for volume \"config\" : configmap \"new\" not found",
                "2026-01-01T00:00:10Z",
            ),
            event("FailedMount", summary, "2026-01-01T00:02:00Z"),
            event("BackOff", "Back-off pulling image", "2026-01-01T00:03:00Z"),
        ];
        let problem = problem_of_events("shop-v2-x", events).unwrap();
        assert_eq!(
            (problem.code, problem.detail.as_str()),
            (
                HoldCode::VolumeMountFailed,
                "cannot mount volume config: configmap \"new\" not found"
            )
        );
        let only_summary = vec![event("FailedMount", summary, "2026-01-01T00:02:00Z")];
        let problem = problem_of_events("shop-v2-x", only_summary).unwrap();
        assert!(
            problem
                .detail
                .starts_with("cannot mount its volumes: Unable")
        );
        assert_eq!(problem_of_events("shop-v2-x", Vec::new()), None);
    }

    /// The messages are from kubelet 1.34 with containerd.
    #[test]
    fn a_sandbox_that_cannot_be_created_is_reported_without_its_identifier() {
        let network = "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to \
                       setup network for sandbox \
                       \"4b825dc642cb6eb9a060e54bf8d69288fbee4904a1b2c3d4e5f60718293a4b5c\": \
                       plugin type=\"calico\" failed (add): connection refused";
        let mount = "MountVolume.SetUp failed for volume \"config\" : configmap \"old\" not found";
        let events = vec![
            event("FailedMount", mount, "2026-01-01T00:00:00Z"),
            event(SANDBOX_REASON, network, "2026-01-01T00:00:10Z"),
        ];
        let problem = problem_of_events("shop-v2-x", events).unwrap();
        assert_eq!(
            (problem.code, problem.detail.as_str()),
            (
                HoldCode::PodSandboxFailed,
                "cannot create its sandbox: failed to setup network for sandbox plugin \
                 type=\"calico\" failed (add): connection refused"
            )
        );
        let image = "Failed to create pod sandbox: rpc error: code = NotFound desc = failed to get \
                     sandbox image \"registry.k8s.io/pause:3.10\": not found";
        let events = vec![event(SANDBOX_REASON, image, "2026-01-01T00:00:00Z")];
        assert_eq!(
            problem_of_events("shop-v2-x", events).unwrap().detail,
            "cannot create its sandbox: failed to get sandbox image \"registry.k8s.io/pause:3.10\": \
             not found"
        );
    }
}
