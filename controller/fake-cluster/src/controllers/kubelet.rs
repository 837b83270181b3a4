//! The scheduler and kubelet: schedules and starts pods, and simulates their [`PodBehavior`].

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::schedule::Controller;
use super::{ControllerContext, DelayedWork, condition, is_terminating, list};
use crate::api::{
    DeleteOptions, ObjectKey, ObjectPart, ObjectStore, Selector, format_time, metadata_str,
};
use crate::tuning::{ClusterTuning, PodBehavior};

/// Delay before the second restart of a container. It doubles with each further restart.
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
const MAX_BACK_OFF: Duration = Duration::from_secs(300);
/// Time between start and crash of a pod whose image contains `crash`.
const DEFAULT_CRASH_DELAY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Kubelet {
    rules: Vec<(Selector, PodBehavior)>,
    lifecycles: HashMap<String, PodLifecycle>,
    scheduling: DelayedWork<String>,
    stopping: DelayedWork<String>,
    addresses: u32,
}

/// The simulated state of one pod.
#[derive(Clone, Debug)]
struct PodLifecycle {
    behavior: PodBehavior,
    /// Start of the current run or back-off.
    since: Instant,
    running: bool,
    /// Time at which the current run becomes ready. `None` for never.
    ready_at: Option<Instant>,
    restarts: u32,
}

impl Controller for Kubelet {
    fn input_version(store: &ObjectStore) -> u64 {
        store.newest_version_of(&["pods"])
    }

    fn reconcile(&mut self, context: &mut ControllerContext<'_>) {
        let pods = context.all("pods");
        for (key, pod) in &pods {
            let uid = metadata_str(pod, "uid").to_owned();
            if is_terminating(pod) {
                if self
                    .stopping
                    .is_due(uid.clone(), context.tuning.pods_stop, context)
                {
                    self.stopping.cancel(&uid);
                    self.lifecycles.remove(&uid);
                    let now = DeleteOptions {
                        grace_period_seconds: Some(0),
                        ..DeleteOptions::default()
                    };
                    context.delete(key, &now);
                }
            } else if !pod["spec"]["nodeName"].is_string() {
                if self
                    .scheduling
                    .is_due(uid.clone(), context.tuning.schedule, context)
                {
                    self.scheduling.cancel(&uid);
                    self.schedule(key, pod, context);
                }
            } else {
                self.update_pod(key, pod, &uid, context);
            }
        }
        if pods.len() < self.lifecycles.len() {
            self.lifecycles
                .retain(|uid, _| pods.iter().any(|(_, pod)| metadata_str(pod, "uid") == uid));
        }
    }
}

impl Kubelet {
    pub(super) fn add_rule(&mut self, selector: Selector, behavior: PodBehavior) {
        self.rules.insert(0, (selector, behavior));
    }

    fn schedule(&mut self, key: &ObjectKey, pod: &Value, context: &mut ControllerContext<'_>) {
        self.addresses += 1;
        let address = format!(
            "10.244.{}.{}",
            self.addresses / 250,
            1 + self.addresses % 250
        );
        let mut scheduled = pod.clone();
        scheduled["spec"]["nodeName"] = "node-1".into();
        context.write(key, scheduled, ObjectPart::Main);
        if let Some(scheduled) = context.store.get(key).cloned() {
            let status = json!({
                "phase": "Pending", "podIP": address, "podIPs": [{"ip": address}], "startTime": format_time(context.wall),
                "conditions": [condition(&[], "PodScheduled", true, "", context.wall)],
            });
            context.set_status(key, &scheduled, status);
        }
    }

    fn update_pod(
        &mut self,
        key: &ObjectKey,
        pod: &Value,
        uid: &str,
        context: &mut ControllerContext<'_>,
    ) {
        let behavior = self.behavior_of(pod, context.tuning);
        let lifecycle = self
            .lifecycles
            .entry(uid.to_owned())
            .or_insert_with(|| PodLifecycle::new(behavior, context.now, context.tuning));
        lifecycle.set_behavior(behavior, context.now, context.tuning);
        if let Some(at) = lifecycle.advance(context.now, context.tuning) {
            context.wake_at(at);
        }
        let status = lifecycle.status(pod, context);
        context.set_status(key, pod, status);
    }

    fn behavior_of(&self, pod: &Value, tuning: &ClusterTuning) -> PodBehavior {
        if let Some((_, behavior)) = self
            .rules
            .iter()
            .find(|(selector, _)| selector.matches(pod))
        {
            return *behavior;
        }
        let images = || {
            list(pod, "/spec/containers")
                .iter()
                .filter_map(|container| container["image"].as_str())
        };
        if images().any(|image| image.contains("crash")) {
            PodBehavior::CrashesAfter(DEFAULT_CRASH_DELAY)
        } else if images().any(|image| image.contains("never-ready")) {
            PodBehavior::NeverReady
        } else {
            PodBehavior::Ready(tuning.pods_ready)
        }
    }
}

impl PodLifecycle {
    fn new(behavior: PodBehavior, now: Instant, tuning: &ClusterTuning) -> Self {
        let mut lifecycle = Self {
            behavior,
            since: now,
            running: true,
            ready_at: None,
            restarts: 0,
        };
        lifecycle.start_run(now, tuning);
        lifecycle
    }

    /// Starts a new run.
    fn start_run(&mut self, now: Instant, tuning: &ClusterTuning) {
        self.since = now;
        self.running = !self.behavior.is_waiting();
        self.ready_at = match self.behavior {
            PodBehavior::Ready(after) => Some(now + after),
            PodBehavior::CrashesAfter(_) => Some(now + tuning.pods_ready),
            PodBehavior::NeverReady
            | PodBehavior::ImagePullBackOff
            | PodBehavior::ContainerCreating => None,
        };
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.running && self.ready_at.is_some_and(|at| at <= now)
    }

    /// Changes the behavior. A ready pod stays ready until the new behavior makes it unready.
    fn set_behavior(&mut self, behavior: PodBehavior, now: Instant, tuning: &ClusterTuning) {
        if self.behavior == behavior {
            return;
        }
        self.behavior = behavior;
        let was_ready = self.is_ready(now);
        self.start_run(now, tuning);
        if was_ready && self.ready_at.is_some() {
            self.ready_at = Some(now);
        }
    }

    /// Advances to `now`. Returns the time of the next transition.
    fn advance(&mut self, now: Instant, tuning: &ClusterTuning) -> Option<Instant> {
        let PodBehavior::CrashesAfter(run_time) = self.behavior else {
            return self.ready_at.filter(|at| *at > now);
        };
        loop {
            let next_transition = if self.running {
                self.since + run_time
            } else {
                self.since + self.back_off()
            };
            if next_transition > now {
                let ready_at = self.ready_at.filter(|at| self.running && *at > now);
                return Some(ready_at.map_or(next_transition, |at| at.min(next_transition)));
            }
            // The first restart is immediate, every later one follows a back-off.
            if self.running && self.restarts > 0 {
                self.running = false;
                self.since = next_transition;
            } else {
                self.restarts += 1;
                self.start_run(next_transition, tuning);
            }
        }
    }

    fn back_off(&self) -> Duration {
        let doublings = self.restarts.saturating_sub(1).min(16);
        FIRST_BACK_OFF
            .saturating_mul(1 << doublings)
            .min(MAX_BACK_OFF)
    }

    fn status(&self, pod: &Value, context: &ControllerContext<'_>) -> Value {
        let ready = self.is_ready(context.now);
        let mut status = pod["status"].clone();
        let previous = list(pod, "/status/conditions");
        let reason = if ready { "" } else { "ContainersNotReady" };
        status["conditions"] = json!([
            condition(previous, "PodScheduled", true, "", context.wall),
            condition(previous, "Initialized", true, "", context.wall),
            condition(previous, "ContainersReady", ready, reason, context.wall),
            condition(previous, "Ready", ready, reason, context.wall),
        ]);
        let never_ran = self.behavior.is_waiting() && self.restarts == 0;
        status["phase"] = if never_ran { "Pending" } else { "Running" }.into();
        let previous = list(pod, "/status/containerStatuses");
        let containers = list(pod, "/spec/containers").iter().map(|container| {
            let previous = previous
                .iter()
                .find(|status| status["name"] == container["name"]);
            self.container_status(container, previous, ready, context)
        });
        status["containerStatuses"] = containers.collect();
        status
    }

    fn container_status(
        &self,
        container: &Value,
        previous: Option<&Value>,
        ready: bool,
        context: &ControllerContext<'_>,
    ) -> Value {
        let waiting = match self.behavior {
            PodBehavior::ImagePullBackOff => Some("ImagePullBackOff"),
            PodBehavior::ContainerCreating => Some("ContainerCreating"),
            _ => (!self.running).then_some("CrashLoopBackOff"),
        };
        let started = previous
            .filter(|status| status["restartCount"] == self.restarts)
            .and_then(|status| status.pointer("/state/running/startedAt").cloned());
        let state = match waiting {
            Some(reason) => json!({"waiting": {"reason": reason, "message": "simulated"}}),
            None => {
                json!({"running": {"startedAt": started.unwrap_or_else(|| format_time(context.wall).into())}})
            }
        };
        // A test may have set it.
        let image_id = previous.and_then(|status| status["imageID"].as_str());
        let image_id = image_id.unwrap_or_default();
        let mut status = json!({
            "name": container["name"], "image": container["image"], "imageID": image_id, "ready": ready,
            "restartCount": self.restarts, "started": self.running, "state": state, "lastState": {},
        });
        if self.restarts > 0 {
            status["lastState"] = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        }
        status
    }
}
