//! Gives pods a node, starts them, and lets each meet its [`Fate`].

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Due, Moment, condition, is_going, list};
use crate::api::{DeleteOptions, Key, Part, Selector, field, seconds};
use crate::tuning::{Fate, Tuning};

/// The pause before the second restart of a container; it doubles with each further one.
const FIRST_BACK_OFF: Duration = Duration::from_secs(10);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);
/// How long a pod whose image says that it crashes lives.
const CRASHES_AFTER: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Kubelet {
    decrees: Vec<(Selector, Fate)>,
    lives: HashMap<String, Life>,
    waiting: Due<String>,
    stopping: Due<String>,
    addresses: u32,
}

/// What a pod has been through.
#[derive(Clone, Debug)]
struct Life {
    fate: Fate,
    /// Since when it has been running or backing off.
    since: Instant,
    running: bool,
    /// When this run gets ready; none: never.
    ready_at: Option<Instant>,
    restarts: u32,
}

impl Kubelet {
    pub(crate) fn decree(&mut self, selector: Selector, fate: Fate) {
        self.decrees.insert(0, (selector, fate));
    }

    pub(super) fn act(&mut self, moment: &mut Moment<'_>) {
        let pods = moment.all("pods");
        for (key, pod) in &pods {
            let uid = field(pod, "uid").to_owned();
            if is_going(pod) {
                if self
                    .stopping
                    .has_waited(uid.clone(), moment.tuning.pods_stop, moment)
                {
                    self.stopping.settle(&uid);
                    self.lives.remove(&uid);
                    let now = DeleteOptions {
                        grace_period_seconds: Some(0),
                        ..DeleteOptions::default()
                    };
                    moment.delete(key, &now);
                }
            } else if !pod["spec"]["nodeName"].is_string() {
                if self
                    .waiting
                    .has_waited(uid.clone(), moment.tuning.schedule, moment)
                {
                    self.waiting.settle(&uid);
                    self.start(key, pod, moment);
                }
            } else {
                self.live(key, pod, &uid, moment);
            }
        }
        if pods.len() < self.lives.len() {
            self.lives
                .retain(|uid, _| pods.iter().any(|(_, pod)| field(pod, "uid") == uid));
        }
    }

    fn start(&mut self, key: &Key, pod: &Value, moment: &mut Moment<'_>) {
        self.addresses += 1;
        let address = format!(
            "10.244.{}.{}",
            self.addresses / 250,
            1 + self.addresses % 250
        );
        let mut placed = pod.clone();
        placed["spec"]["nodeName"] = "node-1".into();
        moment.write(key, placed, Part::Main);
        if let Some(placed) = moment.store.get(key).cloned() {
            let status = json!({
                "phase": "Pending", "podIP": address, "podIPs": [{"ip": address}], "startTime": seconds(moment.wall),
                "conditions": [condition(&[], "PodScheduled", true, "", moment.wall)],
            });
            moment.set_status(key, &placed, status);
        }
    }

    fn live(&mut self, key: &Key, pod: &Value, uid: &str, moment: &mut Moment<'_>) {
        let fate = self.fate_of(pod, moment.tuning);
        let life = self
            .lives
            .entry(uid.to_owned())
            .or_insert_with(|| Life::begin(fate, moment.now, moment.tuning));
        life.meet(fate, moment.now, moment.tuning);
        if let Some(at) = life.go_on(moment.now, moment.tuning) {
            moment.wake_at(at);
        }
        let status = life.status(pod, moment);
        moment.set_status(key, pod, status);
    }

    fn fate_of(&self, pod: &Value, tuning: &Tuning) -> Fate {
        if let Some((_, fate)) = self
            .decrees
            .iter()
            .find(|(selector, _)| selector.matches(pod))
        {
            return *fate;
        }
        let images = || {
            list(pod, "/spec/containers")
                .iter()
                .filter_map(|container| container["image"].as_str())
        };
        if images().any(|image| image.contains("crash")) {
            Fate::CrashesAfter(CRASHES_AFTER)
        } else if images().any(|image| image.contains("never-ready")) {
            Fate::NeverReady
        } else {
            Fate::Ready(tuning.pods_ready)
        }
    }
}

impl Life {
    fn begin(fate: Fate, now: Instant, tuning: &Tuning) -> Self {
        let mut life = Self {
            fate,
            since: now,
            running: true,
            ready_at: None,
            restarts: 0,
        };
        life.run(now, tuning);
        life
    }

    /// A run begins.
    fn run(&mut self, now: Instant, tuning: &Tuning) {
        self.since = now;
        self.running = self.fate != Fate::ImagePullBackOff;
        self.ready_at = match self.fate {
            Fate::Ready(after) => Some(now + after),
            Fate::CrashesAfter(_) => Some(now + tuning.pods_ready),
            Fate::NeverReady | Fate::ImagePullBackOff => None,
        };
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.running && self.ready_at.is_some_and(|at| at <= now)
    }

    /// Takes in a fate that has changed: a pod that is ready stays so until the new fate strikes.
    fn meet(&mut self, fate: Fate, now: Instant, tuning: &Tuning) {
        if self.fate == fate {
            return;
        }
        self.fate = fate;
        let was_ready = self.is_ready(now);
        self.run(now, tuning);
        if was_ready && self.ready_at.is_some() {
            self.ready_at = Some(now);
        }
    }

    /// Goes on to now, and answers when the next thing happens.
    fn go_on(&mut self, now: Instant, tuning: &Tuning) -> Option<Instant> {
        let Fate::CrashesAfter(lasts) = self.fate else {
            return self.ready_at.filter(|at| *at > now);
        };
        loop {
            let turns_at = if self.running {
                self.since + lasts
            } else {
                self.since + self.back_off()
            };
            if turns_at > now {
                let ready_at = self.ready_at.filter(|at| self.running && *at > now);
                return Some(ready_at.map_or(turns_at, |at| at.min(turns_at)));
            }
            // The first restart comes at once, every later one after a pause.
            if self.running && self.restarts > 0 {
                self.running = false;
                self.since = turns_at;
            } else {
                self.restarts += 1;
                self.run(turns_at, tuning);
            }
        }
    }

    fn back_off(&self) -> Duration {
        let doublings = self.restarts.saturating_sub(1).min(16);
        FIRST_BACK_OFF
            .saturating_mul(1 << doublings)
            .min(LONGEST_BACK_OFF)
    }

    fn status(&self, pod: &Value, moment: &Moment<'_>) -> Value {
        let ready = self.is_ready(moment.now);
        let mut status = pod["status"].clone();
        let before = list(pod, "/status/conditions");
        let reason = if ready { "" } else { "ContainersNotReady" };
        status["conditions"] = json!([
            condition(before, "PodScheduled", true, "", moment.wall),
            condition(before, "Initialized", true, "", moment.wall),
            condition(before, "ContainersReady", ready, reason, moment.wall),
            condition(before, "Ready", ready, reason, moment.wall),
        ]);
        let never_ran = self.fate == Fate::ImagePullBackOff && self.restarts == 0;
        status["phase"] = if never_ran { "Pending" } else { "Running" }.into();
        let earlier = list(pod, "/status/containerStatuses");
        let containers = list(pod, "/spec/containers").iter().map(|container| {
            let earlier = earlier
                .iter()
                .find(|status| status["name"] == container["name"]);
            self.container_status(container, earlier, ready, moment)
        });
        status["containerStatuses"] = containers.collect();
        status
    }

    fn container_status(
        &self,
        container: &Value,
        earlier: Option<&Value>,
        ready: bool,
        moment: &Moment<'_>,
    ) -> Value {
        let waiting = match self.fate {
            Fate::ImagePullBackOff => Some("ImagePullBackOff"),
            _ => (!self.running).then_some("CrashLoopBackOff"),
        };
        let started = earlier
            .filter(|status| status["restartCount"] == self.restarts)
            .and_then(|status| status.pointer("/state/running/startedAt").cloned());
        let state = match waiting {
            Some(reason) => json!({"waiting": {"reason": reason, "message": "made to happen"}}),
            None => {
                json!({"running": {"startedAt": started.unwrap_or_else(|| seconds(moment.wall).into())}})
            }
        };
        let mut status = json!({
            "name": container["name"], "image": container["image"], "imageID": "", "ready": ready,
            "restartCount": self.restarts, "started": self.running, "state": state, "lastState": {},
        });
        if self.restarts > 0 {
            status["lastState"] = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        }
        status
    }
}
