//! What the effects of a decision change, and whether a request could be lost.

use serin_core::effect::{Effect, Side};
use serin_core::state::Stage;
use serin_core::units::{Revision, Weight};

use super::{GATEWAY_LAG, POD_START, Set, World};

/// A configuration that the gateway may have applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    weight: Weight,
    /// Whether chosen requests go to the canary.
    is_chosen: bool,
    stable: Option<Revision>,
    canary: Option<Revision>,
}

impl World {
    pub(super) fn apply_effect(&mut self, effect: Effect) {
        match effect {
            Effect::SetWeight {
                canary,
                managed_routes,
                ..
            } => {
                self.route = Ok(canary);
                self.managed = Some(managed_routes);
                self.shares.push((self.now, canary, self.state.stage));
            }
            Effect::BindService {
                side: Side::Stable,
                revision,
                ..
            } => self.stable_service = Some(revision),
            Effect::BindService {
                side: Side::Canary,
                revision,
                ..
            } => self.canary_service = Some(revision),
            Effect::CreateReplicaSet { revision, replicas } => {
                self.set_writes += 1;
                let created_at = self.now;
                self.sets.entry(revision.clone()).or_insert(Set {
                    desired: 0,
                    ready_at: Vec::new(),
                    created_at,
                });
                self.scale(&revision, replicas);
            }
            Effect::Scale {
                revision, replicas, ..
            } => {
                self.set_writes += 1;
                self.scale(&revision, replicas);
            }
            Effect::EvictPod { revision, name } => self.evict(&revision, &name),
            Effect::DeleteReplicaSet { revision, .. } => {
                assert_eq!(
                    self.sets[&revision].desired, 0,
                    "only empty ReplicaSets are deleted"
                );
                self.sets.remove(&revision);
            }
            Effect::PauseDeployment { .. }
            | Effect::TakeReplicaSet { .. }
            | Effect::LabelPods { .. }
            | Effect::CreateDeployment { .. }
            | Effect::RestoreObjects
            | Effect::ReturnReplicaSet { .. }
            | Effect::ResumeDeployment { .. }
            | Effect::ScaleDeployment { .. } => self.workload_effects.push(effect),
            Effect::FinishCommand { uid, outcome, .. } => {
                if !self.unwritable.contains(&uid) {
                    self.commands.retain(|command| command.uid != uid);
                }
                self.outcomes.push((uid, outcome));
            }
        }
    }

    fn scale(&mut self, revision: &Revision, replicas: u32) {
        let mut ready = self
            .now
            .checked_add(self.pod_start.get(revision).copied().unwrap_or(POD_START))
            .unwrap();
        let set = self.sets.get_mut(revision).unwrap();
        set.desired = replicas;
        set.ready_at.sort();
        set.ready_at.truncate(replicas as usize);
        while set.ready_at.len() < replicas as usize {
            set.ready_at.push(ready);
            ready = ready.checked_add(self.stagger).unwrap();
        }
    }

    /// Replaces the pod that becomes available at the time that is its name.
    fn evict(&mut self, revision: &Revision, name: &str) {
        let start = self.pod_start.get(revision).copied().unwrap_or(POD_START);
        let ready_at = self.now.checked_add(start).unwrap();
        let set = self.sets.get_mut(revision).unwrap();
        let mut pods = set.ready_at.iter_mut();
        let pod = pods.find(|pod| pod.to_string() == name);
        *pod.expect("the pod exists") = ready_at;
    }

    pub(super) fn record_config(&mut self) {
        let Ok(weight) = self.route.clone() else {
            return;
        };
        let config = Config {
            weight,
            is_chosen: self
                .managed
                .as_ref()
                .is_none_or(|managed| !managed.is_empty()),
            stable: self.stable_service.clone(),
            canary: self.canary_service.clone(),
        };
        if self.configs.last().is_none_or(|(_, last)| *last != config) {
            self.configs.push((self.now, config));
        }
    }

    /// The configurations that the gateway may have applied.
    fn possible_configs(&self) -> Vec<Config> {
        let horizon = self.now.checked_sub(GATEWAY_LAG).unwrap();
        let mut possible = Vec::new();
        for (index, (_, config)) in self.configs.iter().enumerate() {
            let replaced_at = self.configs.get(index + 1).map(|(at, _)| *at);
            if replaced_at.is_none_or(|at| at > horizon) {
                possible.push(config.clone());
            }
        }
        possible
    }

    /// Whether a Service selects the revision under any configuration that the gateway may have
    /// applied.
    pub fn may_serve(&self, revision: &Revision) -> bool {
        let selects =
            |config: &Config| [&config.stable, &config.canary].contains(&&Some(revision.clone()));
        self.possible_configs().iter().any(selects)
    }

    /// Records requests that would be lost now under any configuration that the gateway may have
    /// applied.
    pub fn check(&mut self) {
        // With 0 desired replicas no pod serves, as intended.
        if self.plan.services().is_none()
            || self.state.stage == Stage::FirstDeploy
            || self.plan.replicas == 0
        {
            return;
        }
        let possible = self.possible_configs();
        let served = |side: &Option<Revision>| {
            side.as_ref()
                .is_some_and(|revision| self.available(revision) > 0)
        };
        let mut lost = Vec::new();
        for config in possible {
            let reaches_canary = config.is_chosen || !config.weight.is_zero();
            if reaches_canary && !served(&config.canary) {
                lost.push(format!(
                    "{}: canary at {} has no pods ({config:?})",
                    self.now, config.weight
                ));
            }
            if config.weight < Weight::FULL && !served(&config.stable) {
                lost.push(format!("{}: stable has no pods ({config:?})", self.now));
            }
        }
        self.lost.extend(lost);
    }
}
